"""What an audit says of a cut: one word for it, from victims that are enough, and intervals that have a width."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits
from torch import Tensor

from dpsnn.audit.attacking import Attempt
from dpsnn.audit.intervals import estimate, of_quantile, unseen
from dpsnn.audit.lacking import CAUSES, learned, lost
from dpsnn.audit.plan import LEAST, NEAREST, RIDGE, Budget, Planned
from dpsnn.audit.scoring import Scale, _share, gained, scales, searched, strongest_of
from dpsnn.audit.shown import recommended, verdict
from dpsnn.audit.wire import Wire

Json = dict[str, Any]

FLOORS = {"MSE": 0.08, "SSIM": 0.1}


def row(key: str, status: str = "ok", cause: str | None = None) -> Json:
    learns = key in ("ridge", "decoder")
    told = None if status == "ok" else "a reason"
    return {
        "attack": key, "label": key, "status": status, "cause": cause, "learns": learns, "reason": told
    }  # fmt: skip


def found(value: float, low: float, high: float, victims: int = 1000) -> Json:
    return {"value": value, "low": low, "high": high, "by": ["ridge"], "victims": victims}


def level(
    mse: Json, *rows: Json, ssim: Json | None = None, named: Json | None = None, victims: int = 1000
) -> str:
    attacks = [row("ridge"), row("nearest"), *rows]
    return str(told(mse, attacks, ssim=ssim, found=named, victims=victims)["level"])


def told(
    mse: Json, rows: list[Json], ssim: Json | None = None, victims: int = 1000, **more: Any
) -> Json:
    best = {"MSE": mse} | ({"SSIM": ssim} if ssim else {})
    none = {"class_floor": None}
    with_floors = {name: {"floor": FLOORS[name], **none, **each} for name, each in best.items()}
    return verdict("conv", with_floors, rows, victims, **more)


CLOSE = found(0.0797, 0.0790, 0.0805)
"""At the floor, and known to be."""


def test_nothing_was_found_where_that_is_known() -> None:
    assert level(CLOSE) == "floor"
    assert level(CLOSE, ssim=found(0.1, 0.08, 0.12)) == "floor"
    assert level(CLOSE, row("mixture", "skipped", "inapplicable")) == "floor"
    assert level(CLOSE, row("decoder", "skipped", "too large")) == "floor"  # the ridge learnt


@pytest.mark.parametrize(
    ("mse", "more", "expected"),
    [
        (found(0.03, 0.02, 0.04), {}, "leaks"),
        (found(0.06, 0.05, 0.07), {}, "partly"),
        (found(0.0795, 0.030, 0.13), {}, "unknown"),  # its interval reaches far
        (found(0.06, 0.03, 0.09), {}, "unknown"),  # more than nothing, by chance maybe
        (CLOSE, {"ssim": found(0.8, 0.79, 0.81)}, "leaks"),  # contrast alone is lost
        (CLOSE, {"ssim": found(0.5, 0.48, 0.52)}, "partly"),
        (CLOSE, {"ssim": found(0.12, 0.05, 0.3)}, "unknown"),
        (CLOSE, {"named": {"value": 0.2, "low": 0.1, "high": 0.3, "candidates": 1000}}, "partly"),
        (found(0.03, 0.02, 0.04, 16), {}, "unknown"),  # scored on a few of many
        (found(0.03, 0.02, 0.04, 16), {"victims": 16}, "unknown"),
    ],
)
def test_a_verdict_goes_by_all_that_is_known(mse: Json, more: Json, expected: str) -> None:
    assert level(mse, **more) == expected


def test_who_names_victims_is_not_taken_for_who_rebuilds_them_best() -> None:
    named = {"value": 0.2, "low": 0.1, "high": 0.3, "candidates": 1000}
    for by, said in (
        (["ridge"], ", and picks the right"),
        (["decoder"], ", and decoder picks the"),
        (["decoder", "ridge"], ", and decoder and ridge pick the"),
    ):
        sentence = told(CLOSE, [row("ridge")], found={**named, "by": by})["sentence"]
        assert "attack (ridge) leaves" in sentence and said in sentence


def test_where_nothing_was_found_who_holds_the_pictures_may_know_which_one_it_was() -> None:
    def sentence(**matched: float) -> str:
        given = matched or None
        said = told(CLOSE, [row("ridge")], matched=given)
        assert said["level"] == "floor"
        return str(said["sentence"])

    known = "; but who holds 1000 pictures and the client tells which one was sent, for 99 of 100."
    assert sentence(value=0.99, low=0.98, high=1, candidates=1000).endswith(known)
    assert "holds" not in sentence(value=0.001, low=0.0001, high=0.01, candidates=1000)
    assert "holds" not in sentence()


@pytest.mark.parametrize("cause", CAUSES)
def test_what_did_not_run_is_not_nothing(cause: str) -> None:
    status = "failed" if cause == "failed" else "skipped"
    rows = [row("ridge", status, cause), row("nearest")]
    said = told(CLOSE, rows)
    assert said["level"] == "unknown"  # nothing that ran could have learnt
    assert not learned(rows)
    assert len(lost(rows)) == (cause != "inapplicable")
    beside = [row("decoder"), *rows]
    open_still = cause in ("unpaid", "failed")
    assert bool(lost(beside)) == open_still
    said = told(CLOSE, beside)
    assert said["level"] == ("unknown" if open_still else "floor")
    part = told(found(0.06, 0.05, 0.07), beside)
    assert ("there may be more, as ridge" in part["sentence"]) == open_still


def test_pictures_whose_floor_is_a_rounding_error_are_alike() -> None:
    said = told({**found(0, 0, 0), "floor": 5.6e-17}, [row("ridge")])
    assert said["level"] == "unknown" and "all alike" in said["sentence"]


def test_of_pictures_that_are_nearly_alike_there_is_no_share_of_rounding() -> None:
    """Their structural similarity is 1 but for the last digits of single precision."""
    wire = digits_wire()
    flat = replace(wire, own=0.5 + 1e-5 * wire.own, victims=0.5 + 1e-5 * wire.victims)
    guesses = flat.own.mean(0).expand(60, -1, -1, -1) + 1e-5
    for scale in (each for each in scales(flat, None) if each.column in ("MSE", "SSIM")):
        done = {"a": [Attempt(RIDGE, 0, guesses=guesses.clone())]}
        assert gained(done, {"a": [scale.of(guesses, flat)]}, scale, flat) is None, scale.column


def test_what_is_not_known_is_not_recommended() -> None:
    def cut(name: str, level: str, share: float) -> Json:
        return {"name": name, "verdict": {"level": level}, "gains": {"MSE": {"value": share}}}

    cuts = [cut("a", "leaks", 0.9), cut("b", "unknown", 0), cut("c", "partly", 0.3)]
    assert recommended(cuts + [cut("d", "partly", 0.1)])["cut"] == "d"  # type: ignore[index]
    assert recommended(cuts + [cut("d", "floor", 0.0)])["cut"] == "d"  # type: ignore[index]
    assert recommended(cuts[1:2]) is None
    assert "all cuts" not in recommended(cuts[:1])["reason"]  # type: ignore[index]


def test_nothing_is_said_of_a_cut_of_which_nothing_is_known() -> None:
    def reason(*levels: str, **more: Json) -> str:
        cuts = [{"name": each, "verdict": {"level": each}, "gains": {}} for each in levels]
        for cut, gain in zip(cuts, more.values()):
            cut["gains"] = {"MSE": gain}
        chosen = recommended(cuts)
        assert chosen
        return str(chosen["reason"]).partition(": noise")[0]

    most, less = {"value": 0.9, "low": 0.88, "high": 0.92}, {
        "value": 0.8,
        "low": 0.78,
        "high": 0.82,
    }
    told = "of all cuts it leaks least, yet pictures leak at every one"
    assert reason("leaks", "leaks", a=most, b=less) == told
    # By chance, maybe, or nobody knows.
    less["value"] = 0.89
    for close in ({}, {"a": most, "b": {**less, "high": 0.91}}):
        said = "of all cuts none is known to leak less, yet pictures leak at every one"
        assert reason("leaks", "leaks", **close) == said
    assert reason("leaks") == "pictures leak"
    only = "it is the only cut of which enough is known, and pictures leak"
    assert reason("leaks", "unknown") == only
    of = "of the cuts of which enough is known"
    said = f"{of} none is known to leak less, yet pictures leak at every one of them"
    assert reason("leaks", "unknown", "leaks") == said
    said = f"{of} it leaks least, yet "
    assert reason("unknown", "leaks", "partly") == f"{said}it leaks in part"


# ---------------------------------------------------------------- in numbers


def test_an_attack_on_a_few_victims_does_not_speak_for_all() -> None:
    generator = torch.Generator().manual_seed(1)
    full = 0.08 + 0.002 * torch.randn(1000, generator=generator).double()
    few = 0.05 + 0.03 * torch.randn(16, generator=generator).double()
    best = strongest_of({"ridge": full, "inversion": few}, True, 1000)
    assert best and best["victims"] == 1000 and best["by"] == ["ridge"]
    alone = strongest_of({"inversion": few}, True, 1000)
    assert alone and alone["victims"] == 16
    some = strongest_of({"ridge": full, "inversion": full[:LEAST] / 2}, True, 1000)
    assert some and some["victims"] == LEAST and some["by"] == ["inversion"]


def digits_wire(victims: int = 60) -> Wire:
    """Real digits; what is heard says nothing."""
    images = torch.from_numpy(load_digits().images[: victims + 80] / 16).float().unsqueeze(1)
    labels = torch.zeros(victims, dtype=torch.long)
    own, rest, scored = images[:60], images[60:80], images[80:]
    nothing = [torch.zeros(60, 3), torch.zeros(1, 20, 3), torch.zeros(1, victims, 3)]
    return Wire(own, nothing[0], rest, nothing[1], scored, labels, nothing[2])


def share(wire: Wire, column: str, guesses: Tensor) -> Json:
    (scale,) = (each for each in scales(wire, None) if each.column == column)
    done = [Attempt(RIDGE, 0, guesses=guesses)]
    found = gained({"a": done}, {"a": [scale.of(guesses, wire)]}, scale, wire)
    assert found is not None
    return found


def test_a_share_is_of_the_very_victims_that_were_scored() -> None:
    wire = digits_wire()
    truth, mean = wire.victims[:40], wire.own.mean(0)
    got = share(wire, "MSE", truth + 0.3 * (mean - truth))
    # Where everybody has the same share of theirs there is no doubt, however hard they are.
    assert [got["low"], got["high"]] == pytest.approx([got["value"]] * 2, abs=1e-6)
    floor = float((mean - truth).square().mean())
    assert got["floor"] == pytest.approx(floor, rel=1e-4) and got["victims"] == 40
    assert got["value"] == pytest.approx(1 - 0.09, rel=1e-4)
    # How hard victims are is no doubt about whether anything was found.
    nothing = share(wire, "MSE", mean.expand(60, -1, -1, -1).clone())
    assert [nothing[end] for end in ("low", "value", "high")] == pytest.approx([0, 0, 0], abs=1e-5)


def test_the_interval_of_a_share_is_that_of_a_ratio() -> None:
    """Victims of all sizes, each left with so much of it and a bit more: by draws of which the truth is known."""
    draws, held = np.random.default_rng(4), 0
    for _ in range(300):
        wholes = draws.lognormal(0, 0.7, 60)
        parts = 0.3 + 0.2 * wholes + draws.normal(0, 0.1, 60)
        got = _share(torch.from_numpy(parts), torch.from_numpy(wholes))
        assert float(got.mean()) == pytest.approx(parts.sum() / wholes.sum())
        half = stats.t.ppf(0.975, 59) * float(got.std()) / math.sqrt(60)
        held += abs(float(got.mean()) - (0.3 / math.exp(0.245) + 0.2)) < half
    assert 0.9 * 300 < held < 0.98 * 300


def test_one_sharp_picture_for_everybody_is_no_information() -> None:
    wire = digits_wire()
    (scale,) = (each for each in scales(wire, None) if each.column == "SSIM")
    everywhere = [each.expand(60, -1, -1, -1) for each in wire.own]
    sharp = max(everywhere, key=lambda guess: float(scale.of(guess, wire).mean()))
    got = share(wire, "SSIM", sharp.clone())
    assert got["value"] < 1e-6 and got["high"] < 0.1
    assert share(wire, "SSIM", wire.victims.clone())["value"] == pytest.approx(1, abs=1e-6)
    assert scale.floors(60)["floor"] is not None and isinstance(scale, Scale)


def test_who_was_asked_for_a_few_victims_looks_for_these_among_all() -> None:
    wire = digits_wire()
    others = wire.victims.roll(1, 0)

    def attempts(**guesses: Tensor) -> dict[str, list[Attempt]]:
        return {name: [Attempt(RIDGE, 0, guesses=each)] for name, each in guesses.items()}

    found, _ = searched(attempts(ridge=others, inversion=wire.victims[:30]), wire)
    assert found and (found["value"], found["victims"], found["candidates"]) == (1, 30, 60)
    assert found["by"] == ["inversion"] and found["low"] == pytest.approx(0.025 ** (1 / 30))
    # Of nobody the more victims say more.
    found, _ = searched(attempts(inversion=others[:30], ridge=others), wire)
    assert found and (found["value"], found["victims"], found["by"]) == (0, 60, ["ridge"])
    assert searched(attempts(ridge=wire.victims[:1]), digits_wire(1)) == (None, None)


def test_an_interval_over_seeds_has_the_width_of_victims_and_of_seeds() -> None:
    draws = np.random.default_rng(0)
    victims = draws.normal(1, 0.3, 400)
    seeds = [
        torch.from_numpy(victims + shift + draws.normal(0, 0.05, 400)) for shift in (0, 0.02, 0.05)
    ]
    got = estimate(seeds)
    means = [float(each.mean()) for each in seeds]
    mean = np.mean([each.numpy() for each in seeds], 0)
    of_victims = 1.96 * mean.std() / math.sqrt(400)
    of_seeds = stats.t.ppf(0.975, 2) * np.std(means, ddof=1) / math.sqrt(3)
    assert got["value"] == pytest.approx(np.mean(means)) and got["over"] == "victims and seeds"
    for half in (got["value"] - got["low"], got["high"] - got["value"]):
        assert half == pytest.approx(math.hypot(of_victims, of_seeds), rel=0.05)
    # Seeds that find the same are no more victims than one.
    one, same = estimate(seeds[:1]), estimate([seeds[0]] * 3)
    assert (same["low"], same["high"]) == pytest.approx((one["low"], one["high"]))
    assert one["over"] == "victims"


def test_the_strongest_has_an_interval_over_seeds_too() -> None:
    draws = np.random.default_rng(0)
    victims = draws.normal(1, 0.3, 400)
    seeds = [
        torch.from_numpy(victims + shift + draws.normal(0, 0.05, 400)) for shift in (0, 0.02, 0.05)
    ]
    means = [float(each.mean()) for each in seeds]
    scores = {"a": torch.stack(seeds).mean(0), "b": torch.from_numpy(victims + 1)}
    alone = strongest_of(scores, True, 400)
    found = strongest_of(scores, True, 400, {"a": seeds, "b": [scores["b"]] * 3})
    assert alone and found and alone["over"] == "victims" and found["over"] == "victims and seeds"
    assert found["value"] == alone["value"] and found["by"] == ["a"]
    of_seeds = stats.t.ppf(0.975, 2) * np.std(means, ddof=1) / math.sqrt(3)
    for end in ("low", "high"):
        wanted = math.hypot(alone[end] - alone["value"], of_seeds)
        assert abs(found[end] - found["value"]) == pytest.approx(wanted)
    assert strongest_of(scores, True, 400, {"a": seeds[:1]}) == alone
    single = strongest_of({"a": scores["a"][:1]}, True, 1, {"a": seeds})
    assert single and single["over"] == "seeds" and single["low"] < single["value"]


@pytest.mark.parametrize("lower_leaks", [True, False])
def test_what_one_in_a_hundred_fares_worse_than_lies_in_its_interval(lower_leaks: bool) -> None:
    """Nineteen times of twenty, by draws of which it is known; and the worst victim is the worst of all but few."""
    sign = 1 if lower_leaks else -1
    truth, draws = stats.gamma(2).ppf(0.01) * sign, np.random.default_rng(2)
    sides, better = np.zeros(2), 0
    for _ in range(400):
        values = torch.from_numpy(draws.gamma(2, 1, 1000)) * sign
        got = of_quantile(values, 0.01, lower_leaks)
        assert got["low"] <= got["value"] <= got["high"]
        sides += got["low"] > truth, got["high"] < truth
        worst = float((sign * values).min())
        better += stats.gamma(2).cdf(worst) > unseen(1000)
    assert max(sides) < 0.025 * 400 + 3 * math.sqrt(0.025 * 400) and sides.sum() > 0
    assert 0.05 * 400 - 12 < better < 0.05 * 400 + 12
    few = of_quantile(values[:100], 0.01, lower_leaks)
    # No victim of so few is sure to fare worse than one person in a hundred.
    assert few["low" if lower_leaks else "high"] is None
    assert few["high" if lower_leaks else "low"] is not None
    assert of_quantile(values[:1], 0.01, lower_leaks)["value"] == values[0]


@pytest.mark.parametrize("count", [2, 6, LEAST, 200])
def test_victims_without_skew_have_students_interval(count: int) -> None:
    half = np.random.default_rng(3).normal(0.1, 0.1, count // 2)
    values = 0.4 + np.concatenate([half, -half])
    got = estimate([torch.from_numpy(values)])
    low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert (got["low"], got["high"]) == pytest.approx((low, high)) and got["over"] == "victims"


def test_a_single_victim_has_an_interval_over_seeds_alone() -> None:
    got = estimate([torch.tensor([1.0]).double(), torch.tensor([2.0]).double()])
    assert got["over"] == "seeds" and got["low"] < 1 < 2 < got["high"]
    assert estimate([torch.tensor([1.0]).double()])["low"] is None


# ---------------------------------------------------------------- what is paid for


def test_the_plan_follows_from_the_work_not_from_a_clock() -> None:
    wire = digits_wire(100)
    wire.work = 10**6
    descent = Planned("inversion", "x", {"steps": 20, "restarts": 3}, True, own=6)
    # 40 victims with 3 starts of 20 steps, each 3 times the client's work.
    budget = Budget(60, 100, 40.5 * 60 * 3 * 10**6 / 5e10, (descent, NEAREST))
    for _ in range(2):
        settled, given = budget.ready(descent, wire)
        assert settled.settings == {"steps": 20, "restarts": 3}
        assert (len(given.victims), given.heard.shape[1], len(given.labels)) == (40, 40, 40)
    assert budget.ready(NEAREST, wire) == (NEAREST, wire)
    less = Budget(60, 100, 1e-9, (descent,)).ready(descent, wire)[1]
    assert len(less.victims) == LEAST
    wire.work = None
    assert len(budget.ready(descent, wire)[1].victims) == LEAST
