"""The average of an audit's attacks: weighed on own pictures alone, and as good as theory says it can be."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_audit_doubts import heard
from torch import Tensor, nn

from dpsnn.audit.attacking import JUDGED, Attempt, attempt
from dpsnn.audit.averaging import AVERAGE, averaged
from dpsnn.audit.doubts import doubts
from dpsnn.audit.plan import RIDGE, Planned
from dpsnn.audit.wire import Wire

OTHER = Planned("decoder", "learned decoder")
OWN, VICTIMS, SHAPE = 60, 50, (1, 8, 8)


def wire() -> Wire:
    generator = torch.Generator().manual_seed(0)
    own, validation, victims = (
        torch.rand(count, *SHAPE, generator=generator) for count in (OWN, OWN, VICTIMS)
    )
    nothing = torch.zeros(VICTIMS, 1)
    empty = (torch.zeros(OWN, 1), validation, torch.zeros(1, OWN, 1))
    return Wire(own, *empty, victims, torch.zeros(VICTIMS).long(), nothing[None])


def made(given: Wire, planned: Planned, spread: float, seed: int = 0, off: float = 0.0) -> Attempt:
    """An attack whose guesses err at random, and by `off` more of victims."""
    generator = torch.Generator().manual_seed(len(planned.key) + 100 * seed)

    def guessed(truth: Tensor) -> Tensor:
        return truth + spread * torch.randn(truth.shape, generator=generator)

    return Attempt(
        planned, seed, guesses=guessed(given.victims) + off, judged=guessed(given.validation)
    )


def error(guesses: Tensor, truth: Tensor) -> float:
    return float((guesses - truth).square().mean())


def test_two_that_err_apart_are_weighed_by_their_precision() -> None:
    given = wire()
    (found,) = averaged({"a": [made(given, RIDGE, 0.1)], "b": [made(given, OTHER, 0.2)]}, given)
    assert found.settings["weight_ridge"] == pytest.approx(0.8, abs=0.02), "1/.01 : 1/.04"
    assert error(found.guesses, given.victims) == pytest.approx(0.008, rel=0.05)
    assert found.own_error == pytest.approx(0.008, rel=0.1)
    assert found.own_floor == pytest.approx(1 / 12, rel=0.1) and found.status == "ok"
    assert found.own_spread is not None and 0 < found.own_spread < 0.01


def test_what_victims_look_like_weighs_nothing() -> None:
    given = wire()
    right, wrong = made(given, RIDGE, 0.1), made(given, OTHER, 0.2)
    (found,) = averaged({"a": [right], "b": [wrong]}, given)
    (off,) = averaged({"a": [made(given, RIDGE, 0.1, off=9.0)], "b": [wrong]}, given)
    assert off.settings == found.settings and off.own_error == found.own_error


def test_it_judges_itself_on_pictures_that_did_not_weigh() -> None:
    given = wire()
    pair = [made(given, RIDGE, 0.1), made(given, OTHER, 0.2)]
    odd = [replace(each, judged=each.judged.clone()) for each in pair if each.judged is not None]
    for each in odd:
        assert each.judged is not None
        each.judged[1::2] += 1.0
    (plain,), (found,) = (averaged({"a": [a], "b": [b]}, given) for a, b in (pair, odd))
    assert found.settings == plain.settings
    assert found.own_error == pytest.approx(1 + (plain.own_error or 0), rel=0.05)


def test_who_is_left_out() -> None:
    given = wire()
    one, two = made(given, RIDGE, 0.1), made(given, OTHER, 0.1)
    few = replace(two, guesses=two.guesses[:-1])
    unjudged, failed = replace(two, judged=None), Attempt(OTHER, 0, "failed", "why")
    for other in (few, unjudged, failed):
        assert averaged({"a": [one], "b": [other]}, given) == []
    short = replace(given, validation=given.validation[:3])
    assert averaged({"a": [one], "b": [two]}, short) == []


def test_of_what_its_members_know_nothing_is_taken_from_its_name() -> None:
    given = wire()
    rows = [
        {
            "label": planned.label, "attack": planned.key, "status": "ok", "victims": 500, "doubling": None,
            "measures": {"MSE": {"value": value, "low": value - 0.001, "high": value + 0.001}},
            "own_error": 0.01, "own_floor": 0.08, "own_spread": 0.0,
        }
        for planned, value in ((RIDGE, 0.02), (AVERAGE, 0.03), (Planned("refiner", "r"), 0.04))
    ]  # fmt: skip
    said = [each["raised"] for each in doubts(given, rows, "cut", "", [])]
    assert [each.partition(":")[0] for each in said] == ["r"], "who knows more and finds less"


def test_every_seed_has_its_own() -> None:
    given = wire()
    attempts = {
        "a": [made(given, RIDGE, 0.1, seed) for seed in (0, 1)],
        "b": [made(given, OTHER, 0.1, 0), Attempt(OTHER, 1, "failed", "why")],
        "c": [made(given, Planned("mixture", "mixture"), 0.1, seed) for seed in (0, 1)],
    }
    first, second = averaged(attempts, given)
    assert (first.seed, second.seed) == (0, 1)
    assert "weight_decoder" in first.settings and "weight_decoder" not in second.settings


def test_what_weighs_is_kept_and_what_lacks_it_is_made_anew(tmp_path: Path) -> None:
    given = heard(nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Linear(32, 10)), "1")
    first = attempt(given, RIDGE, 0, tmp_path)
    again = attempt(given, RIDGE, 0, tmp_path)
    assert again.kept and first.judged is not None and again.judged is not None
    assert torch.equal(first.judged, again.judged)
    names = ("own_error", "own_floor", "own_spread")
    told = [[getattr(each, name) for name in names] for each in (first, again)]
    assert told[0] == told[1] and None not in told[0]
    truth = given.validation[:JUDGED].float() / (
        255 if given.validation.dtype == torch.uint8 else 1
    )
    usual = (given.own.float() / (255 if given.own.dtype == torch.uint8 else 1)).mean(0)
    apart = [
        float((guess - each).square().mean() - (usual - each).square().mean())
        for guess, each in zip(first.judged, truth)
    ]
    assert told[0][2] == pytest.approx(np.std(apart, ddof=1) / np.sqrt(len(apart)), rel=1e-4)
    assert len(first.judged) == min(JUDGED, len(given.validation))
    (path,) = tmp_path.iterdir()
    with np.load(path) as kept:
        held = {name: kept[name] for name in kept.files}
    for damaged in (
        None,
        held["judged"][:-1],
        held["judged"].astype(float),
        held["judged"] * np.nan,
    ):
        rest = {name: value for name, value in held.items() if name != "judged"}
        np.savez(path, **rest, **({} if damaged is None else {"judged": damaged}))
        assert not attempt(given, RIDGE, 0, tmp_path).kept
