"""The split classifier: one door out of the client, repeatable training, the best epoch kept."""

import contextlib
import math
from pathlib import Path
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from dpsnn import checkpoints, training
from dpsnn.building import build_classifier, set_afterwards
from dpsnn.checkpoints import CLASSIFIER, load_classifier
from dpsnn.classifier import SplitClassifier
from dpsnn.data import Digits
from dpsnn.defences.noise import LaplaceNoise
from dpsnn.defences.nopeek import NoPeek
from dpsnn.errors import Diverged, UsageError
from dpsnn.metrics import distance_correlation
from dpsnn.networks import titcombe
from dpsnn.runner.train import Folders, train_classifier
from dpsnn.specs import ClassifierSpec
from dpsnn.training import Fitted, KeepBest, fit, resolve_precision, seeded


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return next(iter(Digits().batches("train")))


def make(**arguments: float) -> SplitClassifier:
    return build_classifier(ClassifierSpec(**arguments))  # type: ignore[arg-type]


def folders(tmp_path: Path) -> Folders:
    return Folders(models_dir=str(tmp_path / "models"), results_dir=str(tmp_path / "results"))


def test_the_server_sees_only_what_was_transmitted(
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    classifier = make(noise_scale=1.0)
    seen: list[torch.Tensor] = []
    classifier.network.server.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0])
    )
    torch.manual_seed(5)
    smashed = classifier.transmit(batch[0])
    torch.manual_seed(5)
    classifier(batch[0])
    assert torch.equal(seen[0], smashed)
    noise = (smashed - classifier.encode(batch[0])).flatten()
    assert noise.abs().mean().item() == pytest.approx(1.0, abs=0.02), "mean |Laplace(0, 1)| is 1"


def test_loss_is_cross_entropy_of_logits_plus_penalty(
    batch: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = make(nopeek_weight=0.5)
    monkeypatch.setattr(classifier, "log_dict", lambda *a, **k: None)
    images, labels = batch
    expected = F.cross_entropy(classifier(images), labels)
    expected = expected + 0.5 * distance_correlation(images, classifier.transmit(images))
    torch.testing.assert_close(classifier.training_step(batch, 0), expected)
    assert not torch.allclose(classifier(images).sum(1), torch.ones(len(images))), "no softmax"


def test_noise_can_be_set_after_training_zero_included(
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    classifier = make(noise_scale=0.5, nopeek_weight=0.1)
    set_afterwards(classifier, noise_scale=0.0)
    assert torch.equal(classifier.transmit(batch[0]), classifier.encode(batch[0]))
    set_afterwards(classifier, noise_scale=3.0)
    noise = classifier.transmit(batch[0]) - classifier.encode(batch[0])
    assert noise.abs().mean().item() == pytest.approx(3.0, rel=0.02)
    assert sum(isinstance(d, LaplaceNoise) for d in classifier.defences) == 1
    bare = SplitClassifier(titcombe((1, 28, 28), 10), [NoPeek(0.1)])
    set_afterwards(bare, noise_scale=1.0)
    assert not torch.equal(bare.transmit(batch[0]), bare.encode(batch[0]))


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = checkpoints.digest(make(seed=3).state_dict())
    torch.manual_seed(2)
    assert checkpoints.digest(make(seed=3).state_dict()) == first
    assert checkpoints.digest(make(seed=4).state_dict()) != first
    assert checkpoints.digest(make(seed=3, noise_scale=1.0).state_dict()) == first, "paired designs"


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_same_seed_same_tensors(tmp_path: Path, few: None, precision: str) -> None:
    spec = ClassifierSpec(
        max_epochs=1, noise_scale=0.5, nopeek_weight=0.1, precision=precision, batch_size=40
    )
    paths = [train_classifier(spec, folders(tmp_path / name)) for name in "ab"]
    first, second = (checkpoints.read(path, CLASSIFIER) for path in paths)
    assert first.digest == second.digest
    assert first.record["best"] == second.record["best"]


def test_training_learns_keeps_the_best_epoch_and_is_skipped_when_done(tmp_path: Path) -> None:
    spec = ClassifierSpec(max_epochs=3, precision="32")
    path = train_classifier(spec, folders(tmp_path))
    classifier, loaded, stored = load_classifier(path)
    assert loaded == spec
    name = "digits_00noise_00nopeek_3epochs"
    log = (tmp_path / "results" / "logs" / name / "version_0" / "metrics.csv").read_text()
    header, *lines = log.splitlines()
    column = header.split(",").index("val/accuracy")
    curve = [float(line.split(",")[column]) for line in lines if line.split(",")[column]]
    assert len(curve) == 3
    assert path.name == f"{name}_epoch={curve.index(max(curve)):02d}.ckpt"
    assert stored.record["best"] == pytest.approx(max(curve))
    pixels, labels = Digits().tensors("validation")
    with torch.no_grad():
        accuracy = (classifier(pixels / 255).argmax(1) == labels).float().mean().item()
    assert accuracy == pytest.approx(max(curve), abs=0.01) and accuracy > 0.8
    modified = path.stat().st_mtime_ns
    assert train_classifier(spec, folders(tmp_path)) == path
    assert path.stat().st_mtime_ns == modified
    assert not list((tmp_path / "models" / "classifiers" / ".progress").glob("*.ckpt"))


def test_keep_best_restores_the_weights_of_that_epoch() -> None:
    class Weight(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

    trainer = Mock(spec=pl.Trainer, should_stop=False)
    best, module = KeepBest("v", "min", patience=2), Weight()
    for epoch, value in enumerate([3.0, 1.0, 2.0, 2.0]):
        trainer.current_epoch, trainer.callback_metrics = epoch, {"v": torch.tensor(value)}
        torch.nn.init.constant_(module.weight, float(epoch))
        best.on_validation_end(trainer, module)
    assert (best.epoch, best.value, best.weights["weight"].item()) == (1, 1.0, 1.0)
    assert trainer.should_stop
    again = KeepBest("v", "min")
    again.load_state_dict(best.state_dict())
    assert (again.epoch, again.value) == (1, 1.0)


@pytest.mark.parametrize(
    ("place", "bad"), [("weight", math.nan), ("weight", -math.inf), ("buffer", math.inf)]
)
@pytest.mark.parametrize("value", [0.9, math.inf, math.nan])
def test_keep_best_stops_at_weights_that_are_not_finite_whatever_is_monitored(
    place: str, bad: float, value: float
) -> None:
    module = pl.LightningModule()
    module.weight = torch.nn.Parameter(torch.zeros(2))
    module.register_buffer("buffer", torch.zeros(2))
    module.register_buffer("count", torch.tensor(3))
    trainer = Mock(spec=pl.Trainer, should_stop=False, current_epoch=0)
    best = KeepBest("v", "max")
    trainer.callback_metrics = {"v": torch.tensor(0.5)}
    best.on_validation_end(trainer, module)
    trainer.current_epoch = 4
    trainer.callback_metrics = {"v": torch.tensor(value)}
    if not math.isfinite(value):
        with pytest.raises(Diverged, match="v is not finite after epoch 5; lower --learning_rate"):
            best.on_validation_end(trainer, module)
    getattr(module, place).data[1] = bad
    with pytest.raises(Diverged, match=f"{place} is not finite after epoch 5"):
        best.on_validation_end(trainer, module)
    assert (best.epoch, best.value) == (0, 0.5)


def test_a_training_that_diverges_after_a_good_epoch_is_refused_and_keeps_no_progress(
    tmp_path: Path,
) -> None:
    class Explode(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            if trainer.current_epoch == 1:
                assert progress.exists(), "the first epoch was good"
                trainer.optimizers[0].param_groups[0]["lr"] = 1e30

    progress = tmp_path / "progress.ckpt"
    with pytest.raises(Diverged, match="not finite after epoch 2"):
        fit(
            make(constant_rate=True),
            Digits(batch_size=256),
            monitor="val/accuracy",
            mode="max",
            max_epochs=3,
            seed=0,
            precision="32",
            progress_file=progress,
            callbacks=[Explode()],
        )
    assert list(tmp_path.iterdir()) == []


def test_logits_that_are_not_finite_have_no_accuracy(
    batch: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = batch
    classifier = make()
    logged: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(classifier, "log_means", lambda _, values: logged.update(values))
    classifier.validation_step(batch, 0)
    with torch.no_grad():
        right = (classifier(images).argmax(1) == labels).float().mean()
    assert torch.equal(logged["val/accuracy"], right)
    torch.nn.init.constant_(classifier.network.server[-1].bias, math.inf)  # type: ignore[index]
    classifier.validation_step(batch, 0)
    assert logged["val/accuracy"].isnan()


def test_precisions_are_what_they_say() -> None:
    assert resolve_precision("32") == "32-true"
    assert resolve_precision("bf16") == "bf16-mixed"
    assert resolve_precision("auto") in ("32-true", "bf16-mixed")


def test_what_crosses_the_wire_is_float32_also_under_bf16(
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    classifier = make(noise_scale=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        smashed, logits = classifier.transmit(batch[0]), classifier(batch[0])
    assert smashed.dtype == logits.dtype == torch.float32
    noise = smashed - classifier.encode(batch[0])
    assert noise.flatten().unique().numel() > 0.9 * noise.numel(), "noise was rounded to bf16"


def test_seeded_block_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with seeded(7, 1):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with seeded(7, 1):
        assert torch.equal(torch.rand(3), inside)


def train_once(classifier: SplitClassifier) -> Fitted:
    return fit(
        classifier,
        Digits(batch_size=256),
        monitor="val/accuracy",
        mode="max",
        max_epochs=1,
        seed=0,
        precision="32",
    )


def test_fit_trains_a_module_and_data_of_ones_own() -> None:
    classifier = SplitClassifier(titcombe((1, 28, 28), 10), [LaplaceNoise(0.1)])
    fitted = train_once(classifier)
    assert fitted.epoch == 0 and 0 <= fitted.value <= 1 and not classifier.training


@pytest.mark.parametrize(
    "resting, named",
    [("", "SplitClassifier"), ("network", "network"), ("network.server.2", "network.server.2")],
)
def test_what_is_left_in_evaluation_mode_is_not_trained(resting: str, named: str) -> None:
    """It would normalise by what it has never seen, as every copy of a trained module would."""
    classifier = SplitClassifier(titcombe((1, 28, 28), 10), [])
    classifier.get_submodule(resting).eval()
    with pytest.raises(UsageError, match=f"^{named} is to be trained, but in evaluation mode"):
        train_once(classifier)
    classifier.get_submodule(resting).requires_grad_(False)
    if resting == "network.server.2":  # frozen, the others are trained
        train_once(classifier)


class StepSizes(pl.Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize("constant", [False, True])
def test_the_step_size_decays_to_zero_unless_it_is_to_stay(constant: bool) -> None:
    classifier, steps = make(learning_rate=0.01, constant_rate=constant), StepSizes()
    data = Digits(batch_size=500)
    fit(
        classifier,
        data,
        monitor="val/accuracy",
        mode="max",
        max_epochs=2,
        seed=0,
        callbacks=[steps],
    )
    if constant:
        assert set(steps.seen) == {0.01}
    else:
        assert steps.seen[0] < 0.01 and steps.seen == sorted(steps.seen, reverse=True)
        assert steps.seen[-1] == pytest.approx(0.0)


@pytest.mark.parametrize("fixed", [False, True])
def test_images_come_shuffled_anew_unless_their_order_is_fixed(fixed: bool) -> None:
    data = Digits(batch_size=64)
    data.fixed_order = fixed
    labels = data.tensors("train")[1]
    epochs = []
    for epoch in (0, 1):
        data.trainer = Mock(current_epoch=epoch, global_rank=0, world_size=1)
        data.trainer.strategy.root_device = torch.device("cpu")
        epochs.append(torch.cat([batch[1] for batch in data.train_dataloader()]))
    assert torch.equal(epochs[0], epochs[1]) == fixed
    assert torch.equal(epochs[0], labels) == fixed
    assert torch.equal(epochs[1].sort().values, labels.sort().values)


def test_the_order_of_a_spec_is_that_of_its_training(tmp_path: Path, few: None) -> None:
    digests = []
    for fixed in (False, True):
        spec = ClassifierSpec(max_epochs=1, batch_size=50, fixed_order=fixed)
        path = train_classifier(spec, folders(tmp_path))
        assert path.name.startswith(f"digits_00noise_00nopeek{'_fixedorder' * fixed}_1epochs")
        digests.append(checkpoints.read(path, CLASSIFIER).digest)
    assert len(set(digests)) == 2


def test_private_training_takes_no_fixed_order() -> None:
    with pytest.raises(ValueError, match="leave out --fixed_order"):
        ClassifierSpec(dp_noise_multiplier=1.0, fixed_order=True)


def test_gradients_keep_the_layout_of_feature_maps_across_a_flattening() -> None:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(400, 2)
    ).to(memory_format=torch.channels_last)
    images = torch.rand(5, 3, 12, 12).to(memory_format=torch.channels_last)
    seen: list[torch.Tensor] = []

    def look(layer: torch.nn.Module, given: tuple[torch.Tensor], rows: torch.Tensor) -> None:
        given[0].register_hook(seen.append)

    layers[2].register_forward_hook(look)
    slopes = []
    for within in (contextlib.nullcontext(), training.gradients_laid_out(layers)):
        layers.zero_grad()
        with within:
            layers(images).square().sum().backward()
        slopes.append([each.grad for each in layers.parameters()])
    plain, laid_out = (each.is_contiguous(memory_format=torch.channels_last) for each in seen)
    assert laid_out and not plain
    assert all(torch.equal(*both) for both in zip(*slopes))
    assert not layers[2]._forward_pre_hooks
    flatten = torch.nn.Flatten()
    with training.gradients_laid_out(flatten):  # whoever names what a layer is given
        assert flatten(input=images.requires_grad_()).shape == (5, 432)
