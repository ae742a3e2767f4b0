"""The model under audit: what people bring is loaded, and what cannot be is refused in one line."""

import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import audit_models as models
import numpy as np
import pytest
import torch
from torch import nn

from dpsnn.audit.inputs import of_model
from dpsnn.audit.loading import load_model
from dpsnn.audit.plan import budget
from dpsnn.errors import UsageError

FILE = str(Path(models.__file__))
SHAPE = (1, 8, 8)


def weights(path: Path, content: Any) -> str:
    torch.save(content, path)
    return str(path)


def test_a_function_in_a_file(tmp_path: Path) -> None:
    trained = models.layers()
    for weight in trained.parameters():
        nn.init.constant_(weight, 0.5)
    path = weights(tmp_path / "w.pt", trained.state_dict())
    model = load_model(f"{FILE}:layers", path)
    assert not model.module.training and model.channels == 1
    assert (model.name, model.parameters) == (
        "audit_models.py:layers",
        sum(p.numel() for p in trained.parameters()),
    )
    images = torch.rand(3, *SHAPE)
    with torch.no_grad():
        assert torch.equal(model.module(images), trained.eval()(images))


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {n: v for n, v in state.items() if "num_batches" not in n},
    ],
)
def test_weights_under_other_names(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    path = weights(tmp_path / "w.pt", change(models.layers().state_dict()))
    assert load_model(models.layers, path).name == "layers"


def test_what_was_compiled_to_torchscript_is_refused() -> None:
    traced = torch.jit.trace(models.layers().eval(), torch.rand(2, *SHAPE))
    with pytest.raises(UsageError, match="TorchScript, whose layers cannot be looked into"):
        load_model(traced)


def drawn() -> nn.Module:
    """With numbers of every source."""
    made = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2))
    with torch.no_grad():
        made[2].bias.copy_(torch.tensor([random.random(), np.random.rand()]))
    return made


def test_weights_that_are_drawn_are_the_same_every_time(tmp_path: Path) -> None:
    """Who goes on with an audit, or makes part of it elsewhere, has the same model."""
    file = tmp_path / "drawn.py"
    file.write_text("import torch\ndef make():\n    return torch.nn.Linear(9, 2)\nmodel = make()\n")
    before = torch.get_rng_state()
    for source in (drawn, f"{file}:make", f"{file}:model", "squeezenet1_1"):
        first, second = (load_model(source, "", 2).module.state_dict() for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), before), "others are left as they were"
    other = load_model(nn.Conv2d(1, 2, 3)).module, load_model(nn.Conv2d(1, 2, 3)).module
    assert not torch.equal(other[0].weight, other[1].weight), "a module is what it is"


class Code:
    """What would run when it is unpickled."""

    def __reduce__(self) -> Any:
        return print, ("ran",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: nn.Linear(2, 2).state_dict(), "it lacks 0.weight, 0.bias, 1.weight and"),
        (
            lambda: models.layers(channels=3).state_dict(),
            r"0.weight is \(4, 3, 3, 3\), not \(4, 1, 3, 3\)",
        ),
        (lambda: {**models.layers().state_dict(), "more": torch.ones(1)}, "it has besides more"),
        (lambda: {"0.weight": torch.full((4, 1, 3, 3), torch.nan)}, "not finite: 0.weight"),
        (
            lambda: {k: v.int() for k, v in models.layers().state_dict().items()},
            "0.weight is torch.int32, not torch.float32",
        ),
        (
            lambda: {k: v.double() * 1e300 for k, v in models.layers().state_dict().items()},
            "not finite: 0.weight",
        ),
        (lambda: {"0.weight": torch.ones(2, 2).to_sparse()}, "has 0.weight, a tensor that is"),
        (lambda: {"0.weight": torch.ones(2, device="meta")}, "has 0.weight, a tensor that is"),
        (lambda: {"epoch": 3}, "holds no tensors at its top, only epoch; save"),
        (lambda: {"net": models.layers().state_dict()}, "no tensors at its top, only net; save"),
        (lambda: [1, 2], "holds list, no state dict"),
        (lambda: {"code": Code()}, "is damaged or not a file of weights"),
        (models.layers, "holds more than tensors, such as a whole model"),
    ],
)
def test_wrong_weights_are_one_line(
    tmp_path: Path, content: Callable[[], Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = weights(tmp_path / "w.pt", content())
    with pytest.raises(UsageError, match=said) as caught:
        load_model(models.layers, path)
    assert "\n" not in str(caught.value) and path in str(caught.value)
    assert "weights_only" not in str(caught.value), "nobody is told to run what is in it"
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (f"{FILE}:layer", "has no 'layer'.*did you mean layers"),
        (f"{FILE}:broken", "raised RuntimeError line [0-9]+: no such layer; mend it"),
        (f"{FILE}:no_model", "gave int, no torch.nn.Module"),
        (f"{FILE}:needy", r"needs width, depth, and is called without .* returns needy\("),
        (f"{FILE}:Needy", r"needs width, and is called without .* returns Needy\("),
        (FILE, "is a Python file; name the function in it, .*audit_models.py:FUNCTION$"),
        ("nowhere.py:make", f"there is no nowhere.py in {re.escape(os.getcwd())}; name a model"),
        ("resnet180", r"no model 'resnet180'.*such as resnet18"),
        ("nowhere.ckpt", "there is no checkpoint nowhere.ckpt"),
        (lambda: 3, "gave int, no torch.nn.Module"),
    ],
)
def test_what_is_no_model_is_one_line(model: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_model(model)


def test_nobody_is_told_to_delete_a_file_of_their_own(tmp_path: Path) -> None:
    path = weights(tmp_path / "net.pt", models.layers().state_dict())
    with pytest.raises(UsageError, match="net.pt is no checkpoint of ours; give .*--weights$"):
        load_model(path)


def test_a_name_of_torchvisions(tmp_path: Path) -> None:
    from torchvision.models import get_model

    path = weights(tmp_path / "w.pt", get_model("squeezenet1_1", num_classes=7).state_dict())
    model = load_model("squeezenet1_1", path, classes=3)
    cuts, _ = model.cuts((3, 32, 32), ["features.2", "features.12"])
    assert [(cut.name, cut.target.num_classes) for cut in cuts] == [
        ("features.2", 7),
        ("features", 7),
    ]
    assert model.channels == 3 and "ImageNet" in model.notes[0]
    assert "untrained" in load_model("squeezenet1_1", classes=3).notes[1]


def test_a_checkpoint_of_ours(
    classifier_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = classifier_file(tmp_path, noise_scale=0.5)
    model = load_model(str(path))
    (cut,), _ = model.cuts((1, 28, 28))
    assert model.image_shape == (1, 28, 28) and not cut.target.sends_as_is
    with pytest.raises(UsageError, match="leave out --weights"):
        load_model(str(path), "w.pt")
    # In models/ a bare name does, as everywhere else, and in any folder one without the ending.
    monkeypatch.chdir(tmp_path)
    kept = Path("models/classifiers", path.name)
    kept.parent.mkdir(parents=True)
    kept.write_bytes(path.read_bytes())
    stem = path.name.removesuffix(".ckpt")
    for name in (stem, stem.partition("_epoch=")[0], path.name, str(kept.with_suffix(""))):
        assert Path(load_model(name).source) == kept
    kept.with_name(f"{stem.partition('_epoch=')[0]}_epoch=99.ckpt").write_bytes(b"")
    with pytest.raises(UsageError, match="ambiguous"):
        load_model(stem.partition("_epoch=")[0])
    with pytest.raises(UsageError, match="is a validator"):
        load_model(str(classifier_file(tmp_path, validator=True)))


class Several(nn.Module):
    def __init__(self, pack: Callable[[Any], Any]) -> None:
        super().__init__()
        self.body, self.head, self.pack = nn.Linear(64, 8), nn.Linear(8, 10), pack

    def forward(self, images: Any) -> Any:
        return self.pack(self.head(torch.relu(self.body(images.flatten(1)))))


class Answer:
    def __init__(self, logits: Any) -> None:
        self.logits = logits


@pytest.mark.parametrize(
    "pack",
    [
        lambda x: x,
        lambda x: {"features": x[:, :2], "logits": x},
        lambda x: {"loss": None, "y": x},
        lambda x: (None, x, x[:, :2]),
        lambda x: Answer(x),
    ],
)
def test_the_answer_is_found_among_others(pack: Callable[[Any], Any]) -> None:
    cut = load_model(Several(pack)).cuts(SHAPE)[0][-1]
    images = torch.rand(4, *SHAPE)
    assert cut.target.answer(cut.target.transmit(cut.target.encode(images))).shape == (4, 10)


def test_a_single_score_for_each_image_is_a_column() -> None:
    cut = load_model(Several(lambda x: x[:, 0])).cuts(SHAPE)[0][-1]
    assert cut.target.num_classes == 1


def test_what_gives_no_scores_or_takes_other_images_is_one_line() -> None:
    with pytest.raises(UsageError, match="gives dict without a row of scores"):
        load_model(Several(lambda x: {"loss": x.sum()})).cuts(SHAPE)
    with pytest.raises(UsageError, match=r"does not take images of shape \(3, 8, 8\)"):
        load_model(models.layers).cuts((3, 8, 8))

    def silent(images: torch.Tensor) -> torch.Tensor:
        raise AssertionError

    with pytest.raises(UsageError, match=": AssertionError; give its pictures their size"):
        load_model(Several(silent)).cuts(SHAPE)


class Features(nn.Module):
    """Features, and the scores of classes beside them."""

    def __init__(self, pack: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.body, self.head, self.pack = nn.Linear(64, 8), nn.Linear(8, 10), pack

    def forward(self, images: Any) -> Any:
        features = torch.relu(self.body(images.flatten(1)))
        return self.pack(features, self.head(features))


@pytest.mark.parametrize(
    ("pack", "name"),
    [
        (lambda features, scores: (features, scores), "1"),
        (lambda features, scores: {"z": features, "y": scores}, "y"),
        (lambda features, scores: {"y": features, "logits": scores}, "logits"),
        (lambda features, scores: {"output": features, "y": scores}, "y"),
    ],
)
def test_the_answer_has_a_column_for_each_class(pack: Callable[..., Any], name: str) -> None:
    model = load_model(Features(pack)).seeing(SHAPE, 10)
    assert model.scores == 10 and f"2 outputs {name}, of shape (10,)" in model.notes[-1]
    cuts, _ = model.cuts(SHAPE)
    assert {cut.target.num_classes for cut in cuts} == {10}


def test_labels_that_the_model_does_not_know_are_said() -> None:
    images = torch.rand(30, *SHAPE)
    told = [
        of_model(
            models.layers, (images, labels), "", None, "", None, None, 0, budget("quick"), ""
        ).sides.notes
        for labels in (torch.arange(30) % 10, torch.arange(30) % 10 + 1)
    ]
    assert not told[0] and "labels of the victims go from 1 to 10" in told[1][0]


@pytest.mark.parametrize(
    ("two", "one", "name"),
    [("embedding", "logits", "logits"), ("output", "logits", "output"), ("y", "output", "y")],
)
def test_two_classes_may_have_one_score_beside_two_features(two: str, one: str, name: str) -> None:
    """But only under a name that says so: an `output` may be anything."""
    model = Features(lambda features, scores: {two: features[:, :2], one: scores[:, :1]})
    found = load_model(model).seeing(SHAPE, 2)
    assert found.scores == (1 if name == one else 2) and f"2 outputs {name}" in found.notes[-1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_model_of_another_precision_is_audited_in_float32(dtype: torch.dtype) -> None:
    given = models.layers().to(dtype)
    model = load_model(given).seeing(SHAPE)
    assert str(dtype) in model.notes[-1] and model.scores == 10
    (cut,), _ = model.cuts(SHAPE, ["7"])
    assert cut.target.encode(torch.rand(2, *SHAPE)).dtype == torch.float32
    assert given[0].weight.dtype == dtype


def test_who_brings_a_module_finds_it_again_as_it_was() -> None:
    given = models.layers().train()
    load_model(given).cuts(SHAPE, ["7"])
    assert all(each.training for each in given.modules())
    assert all(weight.requires_grad for weight in given.parameters())
    load_model(lambda: given)
    assert given.training


def test_a_model_that_is_not_here_is_one_line() -> None:
    with pytest.raises(UsageError, match="Sequential cannot be copied to the CPU: .*function that"):
        load_model(models.layers().to("meta"))

    class Mixed(nn.Module):
        def forward(self, images: Any) -> Any:
            return images.flatten(1).double() @ torch.ones(64, 10)

    with pytest.raises(UsageError, match="; let it take float32 on the CPU"):
        load_model(Mixed()).cuts(SHAPE)
