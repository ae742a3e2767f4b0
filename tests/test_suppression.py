"""Suppress-privacy: schedule and masks against a slow loop, exact zeros under every optimiser, resume, refusals."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dpsnn import building, checkpoints
from dpsnn.cli import main
from dpsnn.defences.suppression import (
    Layer,
    Suppression,
    grow_mask,
    reshaped,
    silent_count,
    sparsity_at,
    usual,
)
from dpsnn.errors import UsageError
from dpsnn.evaluation import tables
from dpsnn.networks import NETWORKS
from dpsnn.specs import ClassifierSpec

QUIET: dict[str, Any] = dict(
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)

Optimisers = Callable[[Any], torch.optim.Optimizer]

OPTIMISERS: dict[str, Optimisers] = {
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, 0.05),
    "adamw": lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.1),
}


class Stranger(pl.LightningModule):
    """Not ours: a user's module, with a layer that has no weight matrix and one that is shared."""

    def __init__(self, optimiser: str = "adam") -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.LayerNorm(24), nn.Linear(24, 10)
        )
        self.out = nn.Linear(10, 2)
        self.optimiser = optimiser
        self.zeros: list[dict[str, Tensor]] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        # What the last step of the optimiser left behind.
        self.zeros.append({n: p.detach() == 0 for n, p in self.named_parameters() if p.dim() > 1})
        values, labels = batch
        return F.cross_entropy(self.out(self.body(values[:, None]).tanh()), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return OPTIMISERS[self.optimiser](self.parameters())


def loader(n: int = 40, batch: int = 5) -> "DataLoader[Any]":
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(n, 8, generator=generator)
    return DataLoader(TensorDataset(values, (values[:, 0] > 0).long()), batch)


def train(
    module: pl.LightningModule, callback: Suppression, epochs: int = 4, **options: Any
) -> Any:
    torch.manual_seed(5)
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=[callback], log_every_n_steps=1, **QUIET, **options
    )
    trainer.fit(module, loader())
    return trainer


# ---------------------------------------------------------------- schedule


def test_the_schedule_is_the_published_cubic_one() -> None:
    total, end = 50, 0.95
    for step in range(total + 1):
        left = 1 - step / total
        assert sparsity_at(step, total, end, 0.1) == pytest.approx(
            end - (end - 0.1) * left * left * left
        )
    values = [sparsity_at(step, total, end) for step in range(-3, total + 4)]
    assert values == sorted(values) and values[0] == 0 and values[-1] == end


@pytest.mark.parametrize(
    ("weights", "sparsity", "min_num", "expected"),
    [
        (150, 0.95, 10, 140),  # conv1 of LeNet-5: 142 but for the floor
        (2400, 0.95, 50, 2280),
        (48000, 0.95, 0, 45600),
        (10080, 0.95, 0, 9576),
        (840, 0.95, 50, 790),
        (840, 0.5, 50, 420),
        (7, 0.0, 0, 0),
        (7, 0.999, 0, 6),
        (5, 0.9, 8, 0),
        (100, 0.29, 0, 29),  # 100 · 0.29 is 28.999999999999996 in floating point
    ],
)
def test_counts_are_the_published_floor(
    weights: int, sparsity: float, min_num: int, expected: int
) -> None:
    assert silent_count(weights, sparsity, min_num) == expected


def slow_mask(weights: list[float], kept: list[bool], silent: int) -> list[bool]:
    """One weight after the other."""
    kept = list(kept)
    while kept.count(False) < silent:
        smallest = min((i for i, k in enumerate(kept) if k), key=lambda i: abs(weights[i]))
        kept[smallest] = False
    return kept


@pytest.mark.parametrize("seed", range(5))
def test_masks_equal_a_slow_loop(seed: int) -> None:
    draw = random.Random(seed)
    weights = [draw.choice((draw.uniform(-1, 1), 0.5, -0.5, 0.0)) for _ in range(60)]
    kept = [draw.random() > 0.3 for _ in weights]
    for silent in (0, 10, 30, 59, 60):
        mask = grow_mask(
            torch.tensor(weights).view(3, 4, 5), torch.tensor(kept).view(3, 4, 5), silent
        )
        assert mask.flatten().tolist() == slow_mask(weights, kept, silent)
        assert not (mask.flatten() & ~torch.tensor(kept)).any(), "silent for good"


def test_what_remains_is_clipped_and_perturbed_as_published() -> None:
    weight = torch.tensor([0.001, -0.004, 0.005, 0.3, -0.5, 0.51, -0.9, 1.2, 1.3, -4.0])
    clipped = reshaped(weight, True, 0.0)
    assert clipped.tolist() == pytest.approx(
        [0.005, -0.005, 0.005, 0.3, -0.5, 0.51, -0.9, 1.2, 1.2, -1.2]
    )
    assert reshaped(weight, False, 0.0)[:3].tolist() == pytest.approx([0.001, -0.004, 0.005])
    many = torch.full((20_000,), -0.7)
    noise = reshaped(many, True, 0.1, torch.Generator().manual_seed(0)) - many
    assert noise.abs().max() <= 0.1001 and noise.mean().abs() < 0.002
    assert noise.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.02), "uniform"
    changed = reshaped(weight, False, 0.1) != weight
    assert changed.tolist() == [False] * 5 + [True] * 5


def test_the_usual_layers_are_the_published_ones_on_lenet5() -> None:
    network = NETWORKS["lenet5"]((1, 28, 28), 10)
    layers = [
        usual(name.split(".")[-1], part)
        for name, part in network.named_modules()
        if isinstance(part, nn.Conv2d | nn.Linear)
    ]
    assert layers == [
        Layer("conv1", 10, True, True),
        Layer("conv2", 50, True, True),
        Layer("fc1", 0, False, True),
        Layer("fc2", 0, False, True),
        Layer("fc3", 50, False, True),
    ]


# ---------------------------------------------------------------- in training


@pytest.mark.parametrize("optimiser", sorted(OPTIMISERS))
def test_a_strangers_silent_weights_are_zero_after_every_step(optimiser: str) -> None:
    module = Stranger(optimiser)
    callback = Suppression(0.8, 2, 3)
    train(module, callback)
    weights = {"body.0": (12, 4, 0), "body.4": (240, 10, 16), "out": (20, 2, 1)}
    assert set(callback.masks) == set(weights)
    for name, (count, _, least) in weights.items():
        mask = callback.masks[name]
        weight = module.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        expected = silent_count(count, 0.8, min(50, count // 15))
        assert int((~mask).sum()) == expected and abs(expected - 0.8 * count) < 1 + least
        assert torch.equal(weight == 0, ~mask), "zero where silent, and nowhere else"
        # 8 steps an epoch: dense before epoch 2, monotone, at its end from epoch 4 on.
        history = [zeros[f"{name}.weight"] for zeros in module.zeros]
        counts = [int(zeros.sum()) for zeros in history]
        assert counts[:9] == [0] * 9 and counts[24:] == [expected] * 8
        for earlier, later in zip(history, history[1:]):
            assert not (earlier & ~later).any(), "no weight comes back"
        for step, silent in enumerate(counts[9:24]):
            target = sparsity_at(step, 16, 0.8)
            assert silent == silent_count(count, target, min(50, count // 15))
    assert all((p != 0).any() for n, p in module.named_parameters() if "bias" in n)


def test_rounds_are_spread_over_the_window_and_the_last_one_ends_it() -> None:
    module = Stranger()
    callback = Suppression(0.9, 1, 4, mask_times=4)
    train(module, callback)
    counts = [int(zeros["body.4.weight"].sum()) for zeros in module.zeros]
    changes = [step for step in range(1, 32) if counts[step] != counts[step - 1]]
    # Rounds after the steps 0 (sparsity 0), 8, 16 and 24, seen by the step after them; the last after step 31.
    assert changes == [9, 17, 25] and callback.rounds == 5
    expected = [silent_count(240, sparsity_at(t, 32, 0.9), 16) for t in (8, 16, 24)]
    assert [counts[step] for step in changes] == expected
    weight = module.get_submodule("body.4").weight
    assert isinstance(weight, Tensor) and int((weight == 0).sum()) == 216


def test_the_window_has_its_place_in_any_training() -> None:
    for epochs, first in ((1, 1), (2, 1), (4, 1), (10, 3)):
        module, callback = Stranger(), Suppression(0.5)
        train(module, callback, epochs)
        dense = [i for i, zeros in enumerate(module.zeros) if not zeros["body.4.weight"].any()]
        assert len(dense) - 8 * (first - 1) in (1, 2), "the first round has sparsity 0"
        assert callback.achieved()["body.4"] == 0.5


def test_named_layers_alone_are_suppressed_as_described() -> None:
    module = Stranger()
    callback = Suppression(0.9, layers=[Layer("0", 5), Layer("out")])
    trainer = train(module, callback)
    assert {n: int((~m).sum()) for n, m in callback.masks.items()} == {"0": 7, "out": 18}
    assert "sparsity/out" in trainer.callback_metrics
    assert trainer.callback_metrics["sparsity/out"].item() == pytest.approx(0.9)
    dense = module.get_submodule("body.4").weight
    assert isinstance(dense, Tensor) and (dense != 0).all()


def test_a_resumed_training_has_the_same_masks_and_weights(tmp_path: Path) -> None:
    whole, callback = Stranger(), Suppression(0.8, 2, 4, mask_times=7)
    whole.load_state_dict(start := Stranger().state_dict())
    train(whole, callback)

    part, first = Stranger(), Suppression(0.8, 2, 4, mask_times=7)
    part.load_state_dict(start)
    stop = Stop(2)
    trainer = pl.Trainer(max_epochs=4, callbacks=[first, stop], **QUIET)
    torch.manual_seed(5)
    trainer.fit(part, loader())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    again, second = Stranger(), Suppression(0.8, 2, 4, mask_times=7)
    trainer = pl.Trainer(max_epochs=4, callbacks=[second], **QUIET)
    trainer.fit(again, loader(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)

    assert len(again.zeros) == 16 and second.step == callback.step == 32
    for name, mask in callback.masks.items():
        assert torch.equal(second.masks[name], mask)
        assert not torch.equal(first.masks[name], mask), "the first half is not the whole"
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(again.get_parameter(name), parameter)


class Stop(pl.Callback):
    """Ends after some epochs."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(sparsity=1.0), "it must rise, from 0 or more to below 1"),
        (dict(sparsity=math.nan), "it must rise"),
        (dict(sparsity=0.3, start_sparsity=0.3), "it must rise"),
        (dict(sparsity=0.5, start_epoch=0), "first epoch of suppression is 0"),
        (dict(sparsity=0.5, start_epoch=3, end_epoch=2), "in epoch 3, after its end in epoch 2"),
        (dict(sparsity=0.5, mask_times=0), "number of mask rounds is 0"),
        (dict(sparsity=0.5, weight_noise=math.inf), "noise on weights is inf"),
        (dict(sparsity=0.5, end_epoch=5), "does not fit 4 epochs"),
        (dict(sparsity=0.5, start_epoch=5), "does not fit 4 epochs"),
        (dict(sparsity=0.5, start_epoch=4, mask_times=9), "9 mask rounds do not fit the 8 steps"),
        (dict(sparsity=0.5, layers=[Layer("fc9")]), r"0 layers .* 'fc9'; name one of \['body.0'"),
        (dict(sparsity=0.5, layers=[]), "no convolution or linear layer"),
    ],
)
def test_impossible_schedules_are_refused_with_the_reason(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train(Stranger(), Suppression(**options))


def test_trainings_that_end_early_or_never_are_refused() -> None:
    with pytest.raises(UsageError, match="ends after 20 steps, suppression only after 32"):
        train(Stranger(), Suppression(0.5), max_steps=20)
    with pytest.raises(UsageError, match="known length"):
        train(Stranger(), Suppression(0.5), epochs=-1, max_steps=20)


# ---------------------------------------------------------------- the command line

TRAIN = "train_model --dataset digits --network lenet5 --max_epochs 3 --batch_size 80".split()


def test_a_classifier_is_suppressed_and_says_so(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--suppress_sparsity 0.9 --suppress_start_epoch 1 --suppress_end_epoch 2"
    assert main([*TRAIN, *options.split(), "--suppress_mask_times", "5"]) == 0
    out, err = capsys.readouterr()
    path = Path(out.strip())
    assert path.name.startswith(
        "digits_00noise_00nopeek_suppress09_lenet5_from1_to2_5rounds_3epochs_80batch_epoch=0"
    )
    stored = checkpoints.read(path, "classifier")
    assert stored.record["epoch"] >= 1, "epochs before the last round are no candidates"
    counts = {"conv1": (150, 135), "conv2": (2400, 2160), "fc1": (48000, 43200)}
    counts |= {"fc2": (10080, 9072), "fc3": (840, 756)}
    for name, (count, silent) in counts.items():
        (weight,) = (w for n, w in stored.weights.items() if n.endswith(f"{name}.weight"))
        assert (weight.numel(), int((weight == 0).sum())) == (count, silent)
    assert sorted(stored.record["sparsity"].values()) == pytest.approx([0.9] * 5)
    assert "sparsity/network.client.conv1 0.9" in err
    assert main(["evaluate_models"]) == 0
    (row,) = tables.read(tables.models_table("results"))
    assert (row["SuppressSparsity"], row["Sparsity"]) == ("0.9", "0.9")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--suppress_sparsity 1", "suppress_sparsity is 1.0; it must be from 0 to below 1"),
        ("--suppress_sparsity nan", "suppress_sparsity is nan"),
        ("--suppress_sparsity 0.5 --suppress_end_epoch 4", "does not fit 3 epochs"),
        ("--suppress_sparsity 0.5 --suppress_start_epoch 0", "suppress_start_epoch is 0"),
        (
            "--suppress_sparsity 0.5 --suppress_start_epoch 3 --suppress_end_epoch 2",
            "suppression from epoch 3 to 2",
        ),
        ("--suppress_sparsity 0.5 --suppress_mask_times 99", "99 mask rounds do not fit the 20"),
        ("--suppress_mask_times 9", "says nothing without --suppress_sparsity"),
        ("--suppress_sparsity 0.5 --validator", "a validator judges clean images"),
    ],
)
def test_bad_options_are_refused(
    place: Path, capsys: pytest.CaptureFixture[str], options: str, message: str
) -> None:
    assert main([*TRAIN, *options.split()]) == 2
    err = capsys.readouterr().err
    assert message in err.splitlines()[-1] and "Traceback" not in err
    assert not list((place / "models").glob("classifiers/*.ckpt"))


def test_defaults_name_nothing() -> None:
    assert "suppress" not in checkpoints.classifier_name(ClassifierSpec())
    assert building.callbacks_of(ClassifierSpec()) == []


@pytest.mark.parametrize(
    ("options", "last"),
    [
        ({}, 7),
        ({"constant_rate": True}, 10),
        ({"suppress_start_epoch": 9}, 9),
        ({"suppress_end_epoch": 8}, 8),
    ],
)
def test_mask_rounds_end_early_where_the_step_size_decays(
    options: dict[str, Any], last: int
) -> None:
    """The rest of the training makes up for the last rounds, with a step size that is not yet near 0."""
    spec = ClassifierSpec(suppress_sparsity=0.9, max_epochs=10, **options)
    ((part, made),) = building.callbacks_of(spec)
    assert isinstance(made, Suppression) and made.end_epoch == last
    assert part.first_epoch(spec) == last - 1
