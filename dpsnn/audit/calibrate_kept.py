"""Whether a promise is kept on victims that had no part in finding the noise."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from scipy.stats import binom
from torch import Tensor

from dpsnn.audit.calibrate_curve import Curve, Heard, estimated, measure_named
from dpsnn.audit.calibrate_noise import Goal, optimum_errors
from dpsnn.audit.intervals import TAIL, around
from dpsnn.batches import derived_seed
from dpsnn.evaluation.bounds import Beaten, Bounds
from dpsnn.metrics.base import mean
from dpsnn.numbers import Number
from dpsnn.target import Client
from dpsnn.tensors import Activation, Images

FEW = 30
"""Victims below which a promise is not judged by them, unless they break it for sure."""

TOLD, DRAWS = 8, 20
"""Victims below which their errors break nothing for sure, for each is that of the same few pairs; and draws of the
noise of which each one's is the mean. Of one draw most are 0, which is taken for what all errors are."""


def checked(
    curve: Curve,
    place: int,
    goal: Goal,
    fresh: Int[Tensor, " fresh"],
    client: Client,
    measures: tuple[str, ...],
    answers: Sequence[Activation] = (),
) -> tuple[dict[str, Any], list[str]]:
    """Every attacker, and the exact optimum, on the fresh victims, under the noise that was found.

    Args:
        curve: Attacked already.
        place: Of that noise.
        goal: The promise.
        fresh: Rows of the victims.
        client: As it is, which gradients may be taken of.
        measures: Of the attackers.
        answers: Of the client to every victim, where it answers otherwise each time; the worst of them counts.

    Returns:
        What stands in `Calibration.checked`; and what speaks against the account of what is sent, or leaves open
        whether the promise is kept.
    """
    wire, noise = curve.wire, curve.noises[place]
    images = curve.pictures.victims[fresh]
    beaten = _beaten(curve, place, fresh, client, len(answers) > 1)
    seen = [
        optimum_errors(wire, noise, codes[fresh], images, derived_seed(curve.seed, 46))
        for codes in (answers or [curve.codes])
    ]
    best = {
        metric.column: estimated(curve.strongest(place, metric, fresh))
        for metric in map(measure_named, measures)
    }
    among = len(seen[0][1])
    promised = curve.targets[place].naming(among, wire.queries)
    told = seen
    if goal.measure == "mse" and TOLD <= among < FEW:
        told = [
            (_mean_errors(curve, place, codes[fresh], images), right)
            for codes, (_, right) in zip(answers or [curve.codes], seen)
        ]
    named, least = max(mean(right) for _, right in seen), min(mean(errors) for errors, _ in seen)
    worst, nothing = best["SSIM"], float(images.double().var(0, correction=0).mean())
    surely = curve.sure(place, measure_named("ssim"), fresh)
    kept: bool | None = {
        # Draws of the noise scatter around what is promised of their mean.
        "naming": not _for_sure(goal, seen, promised, worst, nothing),
        "mse": least >= goal.value,
        "ssim": worst is not None and max([worst["value"], *surely.values()]) <= goal.value,
    }[goal.measure]
    said = list(beaten)
    if goal.measure == "ssim" and kept:
        failed = any(each.place in (None, place) for each in curve.failed)
        reach = curve.reach(place, measure_named("ssim"), fresh)
        ahead = {name: most for name, most in reach.items() if most > goal.value}
        said += [_open(name, most) for name, most in ahead.items()]
        kept = None if failed or ahead else kept
    found = {
        "victims": among,
        "strongest": best,
        "tried": len(curve.guesses[place]) + len(curve.audited[place]),
        "optimum": {"mse": least, "named": named, "promised": promised},
        "kept": (
            kept
            if among >= FEW
            else False if _for_sure(goal, told, promised, worst, nothing) else None
        ),
    }
    if beaten:
        found["kept"] = False
    return found, said


def _for_sure(
    goal: Goal,
    seen: Sequence[tuple[Tensor, Tensor]],
    promised: Number,
    worst: dict[str, Any] | None,
    nothing: Number = 0.0,
) -> bool:
    """Whether a promise is broken by more than the chance of these victims: 39 times of 40 it is not if it holds.

    Errors are 0 but for victims that are like another. Where there is none among few, so many of all people may be such
    as would be missed once in 40 times, and of these nothing at all may be known.

    Args:
        goal: The promise.
        seen: Of each answer of the client the errors, and 1 where the right one is named.
        promised: Share that is named, at most.
        worst: The strongest attacker, by SSIM.
        nothing: Error of who hears nothing.
    """
    tail = TAIL / len(seen)  # of several answers the worst counts
    if goal.measure == "naming":
        return any(binom.sf(int(right.sum()) - 1, len(right), promised) < tail for _, right in seen)
    if goal.measure == "mse":
        return any(len(e) >= TOLD and _at_most(e, tail, nothing) < goal.value for e, _ in seen)
    return worst is not None and worst["low"] is not None and worst["low"] > goal.value


def _at_most(errors: Tensor, tail: float, nothing: Number) -> float:
    missed = 1 - tail ** (1 / len(errors))
    value, _, high = around(errors, tail)
    return max(high, value + missed * max(0.0, nothing - value))


def _mean_errors(curve: Curve, place: int, codes: Activation, images: Images) -> Tensor:
    """What `optimum_errors` gives, over several draws of the noise, `(N,)`."""
    draws = [
        optimum_errors(
            curve.wire, curve.noises[place], codes, images, derived_seed(curve.seed, 46, draw)
        )[0]
        for draw in range(DRAWS)
    ]
    return torch.stack(draws).mean(0)


def _open(name: str, most: float) -> str:
    """What is to be said of an attack that was made on fewer victims, and may break the promise on all."""
    far = f"its SSIM may be up to {most:.3g}" if math.isfinite(most) else "its SSIM is not known"
    return f"{name} was made on some victims alone, and on all of them {far}: a larger --budget says more"


def _beaten(
    curve: Curve, place: int, fresh: Tensor, client: Client, restless: bool = False
) -> list[str]:
    """Every attacker, watched by who knows what nobody can beat: what he says, once."""
    queries, heard = curve.wire.queries, torch.cat(curve.heard(place), 1)
    target = replace(curve.targets[place], client=client)
    everybody = [Heard(heard, guesses) for guesses in curve.guesses[place].values()]
    # Who answers otherwise each time told an audit something else than is known here.
    audited = [] if restless else [*curve.audited[place].values()]
    for each in (*everybody, *audited):
        rows = fresh[fresh < len(each.guesses)]
        if not len(rows):
            continue
        bounds = Bounds(target, curve.codes[rows], curve.pictures.victims[rows], queries)
        bounds.hear(each.transmissions[:, rows], each.guesses[rows])
        try:
            bounds.cells()
        except Beaten as error:
            return [f"{error}; do not use these numbers before this is understood"]
    return []
