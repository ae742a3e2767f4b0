"""People and pictures: intervals, candidates and the worst are of people, however many pictures each of them has."""

import math
from dataclasses import replace
from typing import Any

import audit_models as models
import numpy as np
import pytest
import torch
from scipy import stats
from test_audit_verdict import digits_wire, found, row, told
from torch import Tensor

from dpsnn.audit import plan
from dpsnn.audit.attacking import Attempt
from dpsnn.audit.intervals import around, binomial, estimate, share_of, unseen
from dpsnn.audit.one_cut import Task, _of_strongest
from dpsnn.audit.people import (
    by_person,
    in_turns,
    one_of_each_first,
    others,
    people_of,
    worst_of_each,
)
from dpsnn.audit.pictures import Pictures
from dpsnn.audit.plan import BUDGETS, NEAREST, RIDGE, Budget
from dpsnn.audit.run import audit
from dpsnn.audit.scoring import (
    NEAR,
    gained,
    per_victim,
    scales,
    searched,
    sought,
    strongest_of,
)
from dpsnn.audit.sides import make_sides
from dpsnn.audit.wire import Wire

FEW = torch.arange(40)


def test_copies_of_a_picture_are_no_more_victims() -> None:
    values = torch.from_numpy(np.random.default_rng(0).gamma(2, 1, 40))
    people, often = FEW.repeat_interleave(5), values.repeat_interleave(5)
    one, five = estimate([values]), estimate([often], people)
    assert five == pytest.approx({**one, "over": "people"})
    narrow = estimate([often])
    assert narrow["high"] - narrow["low"] < 0.6 * (one["high"] - one["low"])
    assert estimate([often, often + 0.1], people)["over"] == "people and seeds"
    # Of one person alone nobody knows how far others are.
    assert estimate([often], torch.zeros(200).long())["low"] is None
    best = strongest_of({"a": often, "b": often + 1}, True, 200, None, people)
    alone = strongest_of({"a": values, "b": values + 1}, True, 40)
    assert best and alone and (best["victims"], best["people"]) == (200, 40)
    for end in ("value", "low", "high", "best_of_each"):
        assert best[end] == pytest.approx(alone[end])
    assert best["over"] == "people" and "people" not in alone


def test_an_interval_over_people_holds_the_mean_nineteen_times_of_twenty() -> None:
    """People of one to nine pictures that are alike; and its width is the one of a ratio, by a slow loop."""
    draws, missed = np.random.default_rng(1), 0
    for _ in range(300):
        sizes = draws.integers(1, 10, 60)
        who = np.repeat(np.arange(60), sizes)
        values = draws.normal(0, 1, 60)[who] + draws.normal(0, 0.5, len(who))
        each = by_person(torch.from_numpy(values), torch.from_numpy(who))
        assert float(each.mean()) == pytest.approx(values.mean())
        half = stats.t.ppf(0.975, 59) * float(each.std()) / math.sqrt(60)
        missed += abs(values.mean()) > half
    off = [sum(values[who == person] - values.mean()) for person in range(60)]
    ratio = math.sqrt(60 / 59 * sum(each**2 for each in off)) / len(who)
    assert float(each.std()) / math.sqrt(60) == pytest.approx(ratio)
    assert abs(missed - 15) < 3 * math.sqrt(15)


def test_a_share_of_people_has_the_interval_of_people() -> None:
    right, people = (FEW < 12).double(), FEW.repeat_interleave(5)
    value, low, high = share_of(right.repeat_interleave(5), people)
    # By how much fewer people than pictures say how far people are apart.
    wider = stats.t.ppf(0.975, 199) / stats.t.ppf(0.975, 39)
    assert value == 0.3 and (low, high) == pytest.approx(binomial(0.3, 39 * wider**2))
    assert share_of(right) == (0.3, *binomial(0.3, 40))
    assert share_of(torch.ones(200).double(), people) == (1, *binomial(1.0, 40))
    # Who differs as much from himself as from others is as good as a stranger.
    mixed = torch.tensor([1.0, 0.0]).double().repeat(100)
    assert share_of(mixed, people[:200].roll(1))[1:] == pytest.approx(binomial(0.5, 200))


@pytest.mark.parametrize("count", [3, 5, 10])
def test_a_share_of_a_few_people_lies_in_its_interval(count: int) -> None:
    """Of people of one to forty pictures, each of whom is recognised as often as suits them."""
    draws, held = np.random.default_rng(count), 0
    for _ in range(300):
        sizes = draws.integers(1, 41, count)
        who = np.repeat(np.arange(count), sizes)
        right = draws.random(len(who)) < draws.beta(4, 1, count)[who]
        _, low, high = share_of(torch.from_numpy(right).double(), torch.from_numpy(who))
        held += low <= 0.8 <= high
    assert held > 0.95 * 300 - 18


@pytest.mark.parametrize("sizes", [[4] * 40, [2] * 150, [1] * 7, [1, 1], [50, 3, 1], [9, 1, 1, 1]])
def test_others_are_other_people(sizes: list[int]) -> None:
    """And each as often, about: nobody speaks for all."""
    whose = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    whose = whose[in_turns(whose.tolist())]
    rows = others(whose, len(whose), 4)
    assert len(rows) == min(4, len(whose) - max(sizes))
    assert all(bool((whose[row] != whose).all()) for row in rows)
    assert all(len({*column}) == len(column) for column in rows.T.tolist())
    few = others(whose, 2, 4)
    assert few.tolist() == [[1, 0]]
    assert others(torch.zeros(5).long(), 5, 4).shape == (0, 5)
    alone = others(None, 60, 4)
    assert alone.tolist() == [torch.arange(60).roll(step).tolist() for step in (1, 15, 30, 45)]


def test_other_pictures_of_the_same_person_are_no_lack_of_information() -> None:
    """Forty people of four copies each: a guess that is somewhat like them is more than a guess of strangers."""
    alone = digits_wire(40)
    images = alone.victims.repeat(4, 1, 1, 1)
    often = replace(
        alone,
        victims=images,
        labels=torch.zeros(160).long(),
        heard=torch.zeros(1, 160, 3),
        people=torch.arange(40).repeat(4),
    )

    def share(wire: Wire) -> Any:
        (scale,) = (each for each in scales(wire, None) if each.column == "SSIM")
        sharp = wire.victims.roll(1, 0)[:40].repeat(len(wire.victims) // 40, 1, 1, 1)
        guesses = 0.5 * wire.victims + 0.5 * sharp
        done = {"a": [Attempt(RIDGE, 0, guesses=guesses)]}
        return gained(done, {"a": [scale.of(guesses, wire)]}, scale, wire)

    one, four = share(alone), share(often)
    assert four["value"] == pytest.approx(one["value"], abs=0.02) and one["value"] > 0.5
    assert (four["low"], four["high"]) == pytest.approx((one["low"], one["high"]), abs=0.02)


@pytest.mark.parametrize("lower_leaks", [True, False])
def test_somebody_fares_as_their_worst_picture(lower_leaks: bool) -> None:
    values = torch.tensor([3.0, 1.0, 2.0, 5.0])
    got = worst_of_each(values, torch.tensor([0, 1, 0, 1, 2]), lower_leaks)
    assert got.tolist() == ([2, 1] if lower_leaks else [3, 5])
    assert worst_of_each(values, None, lower_leaks) is values


def test_of_everybody_one_picture_comes_first() -> None:
    images = torch.rand(6, 1, 2, 2)
    given = Pictures(images, torch.arange(6), (), "data", ("a", "b", "b", "a", "c", "b"))
    dealt = one_of_each_first(given)
    assert dealt.groups == ("a", "b", "c", "b", "a", "b") and dealt.labels.tolist()[:3] == [0, 1, 4]
    found = people_of(dealt)
    assert found is not None and found.tolist() == [0, 1, 2, 1, 0, 1]
    # Where nobody says whose they are, copies are.
    copied = Pictures(images[[0, 1, 0, 2]], torch.arange(4), (), "data")
    found = people_of(copied)
    assert found is not None and found.tolist() == [0, 1, 0, 2]
    assert people_of(copied.rows(torch.tensor([0, 1, 3]))) is None
    alone = Pictures(images, torch.arange(6), (), "data")
    assert one_of_each_first(alone) is alone
    who = np.repeat(np.arange(30), 5).astype(str)
    data = {"images": np.random.default_rng(0).random((150, 4, 4), np.float32), "who": who}
    victims = make_sides(data, groups="who").victims
    strangers = len({*(victims.groups or ())})
    assert len({*(victims.groups or ())[:strangers]}) == strangers < len(victims)


def twice(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Real digits, each of them twice."""
    from test_audit_run import digits

    monkeypatch.setitem(plan.BUDGETS, "quick", Budget(400, 200, 0.0, (RIDGE, NEAREST)))
    images, labels = (each.repeat_interleave(2, 0) for each in digits(200))
    who = np.arange(200).repeat(2).astype(str)
    return {"images": images.numpy(), "labels": labels.numpy(), "who": who}


def test_whose_picture_it_is_counts_and_not_which_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    data = twice(monkeypatch)
    result = audit(models.layers, data, cuts=["5"], groups="who", gaussian_std=0.01)
    (cut,) = result.cuts
    people = result.data["people"]
    assert people * 2 == result.data["victims"] and cut["strongest"]["MSE"]["people"] == people
    assert (
        cut["strongest"]["MSE"]["over"] == cut["attacks"][0]["measures"]["MSE"]["over"] == "people"
    )
    assert cut["reidentified"]["candidates"] == cut["guarantees"]["candidates"] == people
    assert cut["reidentified"]["value"] > 0.5 and cut["matched"]["candidates"] == people
    assert cut["matched"]["value"] == 1, "noise hides nobody, and copies are not told apart"
    few = {name: each[:120] for name, each in data.items()}
    (cut,) = audit(models.identity, few, groups="who").cuts
    assert cut["verdict"]["level"] == "unknown"
    assert "24 people are too few for a verdict" in cut["verdict"]["sentence"]


# ---------------------------------------------------------------- the worst of all attacks


def attempts(**guesses: Tensor) -> dict[str, list[Attempt]]:
    return {name: [Attempt(RIDGE, 0, guesses=each)] for name, each in guesses.items()}


def test_a_few_exact_copies_are_found_whoever_is_strongest_on_average() -> None:
    wire = digits_wire()
    blurred = wire.victims + 0.6 * (wire.usual - wire.victims)
    copier = torch.ones_like(wire.victims)
    copier[[5, 17, 40]] = wire.victims[[5, 17, 40]]
    _, copied = searched(attempts(ridge=blurred, nearest=copier), wire)
    assert copied and copied["by"] == ["nearest"] and copied["tried"] == 2
    assert (copied["value"], copied["victims"]) == (3 / 60, 60)
    assert copied["low"] == pytest.approx(stats.beta.ppf(0.0125, 3, 58))
    assert copied["chance"] == 1 / (60 * 59 + 1) < copied["low"]
    said = told(found(0.0797, 0.079, 0.0805), [row("ridge")], copied=copied)
    assert said["level"] == "partly"
    assert "nearest rebuilds 3 of 60 victims nearly exactly" in said["sentence"]
    # Pictures of others are no copies, and who guesses them by chance is told from who knows.
    _, others = searched(attempts(nearest=wire.victims.roll(1, 0)), wire)
    assert others and others["value"] == 0 and others["low"] < others["chance"]


def test_copies_and_strays_by_a_slow_loop() -> None:
    wire = digits_wire()
    draws = torch.Generator().manual_seed(0)
    guesses = wire.victims + 0.06 * torch.randn(wire.victims.shape, generator=draws)
    guesses[10:20] = wire.victims[20:30]
    usual = wire.own.mean(0)
    near = [math.sqrt(NEAR) * float((each - usual).norm()) for each in wire.victims]
    pairs = [
        (a, b)
        for a, guess in enumerate(guesses)
        for b, truth in enumerate(wire.victims)
        if float((guess - truth).norm()) < near[b]
    ]
    got = sought(guesses, wire.victims, torch.tensor(near))
    assert got.copies == sum(a == b for a, b in pairs) > 0
    assert got.strays == sum(a != b for a, b in pairs) > 0


def test_the_worst_are_those_of_the_attack_that_is_worst_for_them() -> None:
    wire = digits_wire()
    blurred = wire.victims + 0.6 * (wire.usual - wire.victims)
    copier = torch.ones_like(wire.victims)
    copier[17] = wire.victims[17]
    made = attempts(ridge=blurred, nearest=copier)
    measures = [each for each in scales(wire, None) if each.column == "MSE"]
    values = {name: {"MSE": per_victim(each, measures[0], wire)} for name, each in made.items()}
    task = Task(BUDGETS["quick"], [0], [], torch.arange(100, 160), None)
    got = _of_strongest(made, values, {"MSE": {"by": ["ridge"]}}, measures, wire, task)
    spread = got["distribution"]
    assert spread["worst_by"] == "nearest" and spread["worst_victim"] == 117
    assert spread["worst_one_percent"] == 0 == got["pictures"]["scores"]["worst"]["MSE"]
    assert got["pictures"]["truth"]["worst"] == got["pictures"]["guess"]["worst"]
    assert got["pictures"]["scores"]["best"]["MSE"] == pytest.approx(
        float((blurred - wire.victims).square().flatten(1).mean(1).max())
    )
    # Classes are those of the victims that the strongest was scored on, beside their floors.
    few = {**made, "inversion": [Attempt(RIDGE, 0, guesses=wire.victims[:30])]}
    values["inversion"] = {"MSE": per_victim(few["inversion"], measures[0], wire)}
    task = Task(BUDGETS["quick"], [0], ["all"], torch.arange(60), None)
    (whole,) = _of_strongest(few, values, {"MSE": {"by": ["inversion"]}}, measures, wire, task)[
        "by_class"
    ]
    floor = measures[0].floors(30)["floor"]
    assert whole["victims"] == 30 and whole["floor"]["MSE"] == pytest.approx(floor)
    assert spread["fare_worse"] == unseen(60, 2) == pytest.approx(1 - 0.025 ** (1 / 60))


# ---------------------------------------------------------------- beside fewer victims


def test_who_was_asked_for_a_few_may_be_ahead_on_all() -> None:
    draws = np.random.default_rng(0)
    full = torch.from_numpy(draws.normal(0.08, 0.01, 1000))
    apart = torch.from_numpy(draws.normal(0.0015, 0.005, 30))
    far = full[:30] + 0.05 + apart
    scores = {"ridge": full, "inversion": full[:30] + apart, "map": far}
    got = strongest_of(scores, True, 1000)
    assert got and got["by"] == ["ridge"] and got["victims"] == 1000
    _, low, _ = around(apart)
    assert got["open"] == ["inversion"] and got["reach"] == pytest.approx(got["value"] + low)
    turned = strongest_of({name: -each for name, each in scores.items()}, False, 1000)
    assert turned and turned["reach"] == pytest.approx(-got["reach"])
    sure = strongest_of({"ridge": full, "map": far}, True, 1000)
    assert sure and "reach" not in sure and "open" not in sure


def test_who_looked_for_a_few_may_find_more_of_all() -> None:
    wire = digits_wire()
    missed = wire.victims.roll(1, 0)
    every, few = wire.victims.clone(), missed[:30].clone()
    every[3::4], few[:23] = missed[3::4], wire.victims[:23]
    got, _ = searched(attempts(ridge=every, inversion=few), wire)
    assert got and (got["by"], got["victims"]) == (["ridge"], 60) and got["open"] == ["inversion"]
    apart = [float(row < 23) - float(row % 4 != 3) for row in range(30)]
    _, ahead = stats.t.interval(0.95, 29, np.mean(apart), stats.sem(apart))
    assert got["reach"] == pytest.approx(min(1.0, got["value"] + ahead))
    assert got["reach"] > got["high"]
    alone, _ = searched(attempts(ridge=every), wire)
    assert alone and "reach" not in alone


def test_nothing_is_not_said_to_be_found_while_somebody_may_find_more() -> None:
    close = {"value": 0.0, "low": -0.01, "high": 0.01, "floor": 0.08}
    rows = [row("ridge")]
    for reach, level in ((0.04, "floor"), (0.06, "unknown")):
        said = told(found(0.08, 0.079, 0.081), rows, gains={"MSE": {**close, "reach": reach}})
        assert said["level"] == level
    assert "attacks on a part of the victims may find more by MSE" in said["sentence"]


def test_floors_are_of_the_very_victims() -> None:
    wire = digits_wire()
    (scale,) = (each for each in scales(wire, torch.zeros(60).long()) if each.column == "MSE")
    for count in (30, 60):
        off = (wire.victims[:count] - wire.own.mean(0)).square().mean()
        assert scale.floors(count)["floor"] == pytest.approx(float(off))
        assert scale.floors(count)["class_floor"] == pytest.approx(float(off))
    assert scale.plain()["floor"] == scale.floors(60)["floor"] != scale.floors(30)["floor"]
