"""Each flag goes up where it must and stays down where it must not."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dpsnn.attacks import ATTACKS
from dpsnn.evaluation import flags, legends
from dpsnn.target import Target


def _row(name: str = "a", **cells: object) -> dict[str, str]:
    usual = {"Model": "m", "Attacker": name, "Adaptive": "True", "Attack": "decoder"}
    usual |= {"Images": "5000", "MSE": "0.02", "SEMSE": "0.0001", "DataPct": "100", "Queries": "1"}
    return usual | {column: str(value) for column, value in cells.items()}


def _said(*rows: dict[str, str]) -> list[str]:
    return [str(flag) for flag in flags.of_rows(rows)]


def test_a_sound_row_raises_none() -> None:
    assert _said(_row(OwnMSE=0.02, OwnMSEFloor=0.06, Doubling=0.02, MSEBound=0.01)) == []
    assert _said(_row(OwnMSE=0.067, OwnMSEFloor=0.068, OwnMSESE=0.0004)) == []


@pytest.mark.parametrize(
    "cells, words",
    [
        ({"Images": 499}, "499 victims"),
        ({"OwnMSE": 0.07, "OwnMSEFloor": 0.068}, "on own images its error is 0.07"),
        ({"OwnMSE": 0.067, "OwnMSEFloor": 0.068, "OwnMSESE": 0.0006}, "chance may be ±0.0012"),
        ({"Doubling": 0.05}, "5.0 % off"),
        ({"Doubling": -math.inf}, "training it for twice the epochs diverged"),
        ({"MSEBound": 0.03}, "below the bound"),
    ],
)
def test_a_row_alone(cells: dict[str, object], words: str) -> None:
    (said,) = _said(_row(**cells))
    assert said.startswith("a: ") and words in said


@pytest.mark.parametrize(
    "cells, words",
    [
        ({"MaxEpochs": 20}, "train it with a larger --max_epochs"),
        ({"MaxEpochs": 20, "Attack": "refiner"}, "train it with a larger --refiner_epochs"),
        ({"MaxEpochs": 20, "Attack": "theirs"}, "train it for more epochs"),
        ({}, "a larger --budget"),  # of an audit
    ],
)
def test_who_stopped_too_early_is_told_an_option_that_there_is(
    cells: dict[str, object], words: str
) -> None:
    (said,) = _said(_row(Doubling=0.05, **cells))
    assert words in said and said.count("--") <= 1


@pytest.mark.parametrize(
    "cells, words",
    [
        ({"MaxEpochs": 20}, "train it with a lower --learning_rate"),
        (
            {"MaxEpochs": 20, "Attack": "refiner"},
            "take what it found for less",
        ),  # it has no such option
        ({}, "take what it found for less"),
    ],
)
def test_who_diverged_for_twice_the_epochs_is_told_an_option_that_there_is(
    cells: dict[str, object], words: str
) -> None:
    (said,) = _said(_row(Doubling=-math.inf, **cells))
    assert words in said


def test_a_row_at_its_bound_raises_none() -> None:
    assert _said(_row(MSE=0.0299, SEMSE=0.0001, MSEBound=0.03)) == []


def test_who_knows_less_and_wins() -> None:
    """The decoder asks the client only; inversion of features has its weights."""
    rows = _row("less", MSE=0.01), _row("more", MSE=0.02, Attack="inversion")
    (said,) = _said(*rows)
    assert said.startswith("more: ") and "less, which knows less" in said
    rows[0]["MSE"], rows[1]["MSE"] = "0.02", "0.01"
    assert _said(*rows) == []
    # Of another target it says nothing.
    rows[0]["MSE"], rows[1]["MSE"], rows[1]["Model"] = "0.01", "0.02", "other"
    assert _said(*rows) == []


@pytest.mark.parametrize("key", sorted(ATTACKS))
def test_every_attack_is_told_from_its_row(key: str) -> None:
    """Also one whose needs follow from its settings, which are then a property."""
    written = {c: str(v) for c, v in ATTACKS[key]().columns({}).items() if v is not None}
    found = legends.attack(_row(Attack=key) | written)
    assert isinstance(found, ATTACKS[key]) and found.needs == ATTACKS[key]().needs
    assert _said(_row("one", Attack=key), _row("other")) == []


def test_what_an_attack_knows_follows_from_its_settings() -> None:
    rows = _row("less", MSE=0.01), _row("more", MSE=0.02, Attack="ensemble")
    rows[1]["EnsembleMembers"] = "decoder+nearest"
    assert _said(*rows) == []
    rows[1]["EnsembleMembers"] = "decoder+mixture"
    (said,) = _said(*rows)
    assert said.startswith("more: ")


def test_naive_beats_adaptive() -> None:
    naive, aware = _row("naive", Adaptive="False", MSE=0.01), _row("aware", MSE=0.02)
    (said,) = _said(naive, aware)
    assert said.startswith("aware: ") and "naive twin" in said
    naive["MSE"] = "0.0199"  # by chance
    assert _said(naive, aware) == []


def test_more_images_would_leak_more() -> None:
    half, whole = _row("half", DataPct=50, MSE=0.03), _row("whole", MSE=0.02)
    (said,) = _said(half, whole)
    assert said.startswith("whole: ") and "half to all" in said
    half["MSE"] = "0.02"
    assert _said(half, whole) == []


def test_old_rows_without_columns_raise_none() -> None:
    assert _said({"Model": "m", "Attacker": "a", "MSE": "0.02"}) == []


SHAPE = (1, 4, 4)
IMAGES = torch.rand(200, *SHAPE, generator=torch.Generator().manual_seed(0))


def _target(client: Callable[[Tensor], Tensor]) -> Target:
    return Target.of_client(client, SHAPE, name="theirs")


def test_a_client_with_noise_of_its_own() -> None:
    assert flags.restless(_target(nn.Sequential(nn.Flatten(), nn.Linear(16, 3))), IMAGES) is None
    flag = flags.restless(_target(lambda x: x.flatten(1) + torch.rand(len(x), 16)), IMAGES)
    assert flag is not None and str(flag).startswith("theirs: the client's answers")


def test_a_client_without_gradients() -> None:
    smooth = _target(lambda x: x.flatten(1).softmax(1))
    assert flags.flat(smooth, IMAGES) is None
    rounded = flags.flat(_target(lambda x: (9 * x).round().flatten(1)), IMAGES)
    assert rounded is not None and "100.0 %" in rounded.raised
    # Dead at 2 of 200 images, which is the share allowed, then at 4.
    ranks = IMAGES.flatten(1).sum(1).sort().values

    def dead_below(count: int) -> Target:
        least = (ranks[count - 1] + ranks[count]) / 2
        return _target(lambda x: (x.flatten(1).sum(1, keepdim=True) - least).clamp(min=0))

    assert flags.flat(dead_below(2), IMAGES) is None
    four = flags.flat(dead_below(4), IMAGES)
    assert four is not None and "2.0 %" in four.raised


def test_a_client_that_ignores_its_input() -> None:
    flag = flags.flat(_target(lambda x: torch.ones(len(x), 2)), IMAGES)
    assert flag is not None and "100.0 %" in flag.raised
