"""How far a number that victims gave may be from that of all people: 95 % intervals."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import betaincinv, stdtrit
from scipy.stats import binom
from torch import Tensor

from dpsnn.audit.people import People, by_person
from dpsnn.audit.result import Json
from dpsnn.audit.skewed import TAIL, limits
from dpsnn.tensors import Number


def estimate(values: Sequence[Float[Tensor, " n"]], people: People = None) -> Json:
    """The mean over victims, and over seeds where there are several, with its 95 % interval.

    Over victims it is that of `around`, of each one's mean over seeds. Of several seeds Student's t over their means is
    added in squares: seeds share their victims, so that their means alone do not say how far those are from all
    people's.

    Args:
        values: For each seed one value for each victim.
        people: Whose pictures the victims are: where somebody has several, people are drawn and not pictures.
    """
    means = [float(each.mean()) for each in values]
    each_one = by_person(torch.stack([*values]).mean(0), people)
    value, count = float(np.mean(means)), len(each_one)
    who = "victims" if count == len(values[0]) else "people"
    low: float | None = None
    high: float | None = None
    over: str | None = None
    if count > 1:
        low, high, over = *_limits(value, each_one), who
    return over_seeds({"value": value, "low": low, "high": high, "over": over}, means)


def over_seeds(found: Json, *means: Sequence[float]) -> Json:
    """The same with an interval that is over seeds as well, where there are several.

    Args:
        found: A value with its interval over victims, or none.
        means: One for each seed; of several attacks those that vary most count.
    """
    halves = [
        float(stdtrit(len(each) - 1, 1 - TAIL)) * float(np.std(each, ddof=1)) / math.sqrt(len(each))
        for each in means
        if len(each) > 1
    ]
    if not halves:
        return found
    half, value, low, high = max(halves), found["value"], found["low"], found["high"]
    below, above = (0.0, 0.0) if low is None or high is None else (value - low, high - value)
    over = "seeds" if low is None else f"{found.get('over') or 'victims'} and seeds"
    ends = {"low": value - math.hypot(below, half), "high": value + math.hypot(above, half)}
    return {**found, **ends, "over": over}


def around(values: Float[Tensor, " n"], tail: Number = TAIL) -> tuple[float, float, float]:
    """The mean of two or more values and the ends of its interval, 95 % unless told: Hall's, of skewed values."""
    value = float(values.mean())
    return value, *_limits(value, values, tail)


def _limits(value: float, values: Float[Tensor, " n"], tail: Number = TAIL) -> tuple[float, float]:
    known = values.double().numpy()
    return limits(value, float(known.std(ddof=1)) / math.sqrt(len(known)), known, tail)


def of_quantile(values: Float[Tensor, " n"], level: Number, lower_leaks: bool) -> Json:
    """What so many of all people fare worse than, with its exact 95 % interval by order statistics.

    No distribution is assumed; an end that no victim reaches is None.

    Args:
        values: For each victim.
        level: Share of people.
        lower_leaks: Whether lower values leak more.
    """
    ordered, count = values.sort(descending=not lower_leaks).values.tolist(), len(values)
    ranks = int(binom.ppf(TAIL, count, level)), int(binom.ppf(1 - TAIL, count, level)) + 1
    ends = [ordered[rank - 1] if 1 <= rank <= count else None for rank in ranks]
    low, high = ends if lower_leaks else ends[::-1]
    return {"value": ordered[math.ceil(count * level) - 1], "low": low, "high": high}


def unseen(count: int, tried: int = 1) -> float:
    """The share of people who at most fare worse than the worst of so many victims, 95 times of 100.

    Args:
        count: Of them.
        tried: Attacks among which the one under which somebody fares worst was chosen (Bonferroni).
    """
    return 1 - (2 * TAIL / tried) ** (1 / count)


def binomial(share: float, count: Number, tail: Number = TAIL) -> tuple[float, float]:
    """The exact interval of a share of `count` (Clopper & Pearson 1934), 95 % unless its tails are said."""
    right = share * count
    low = float(betaincinv(right, count - right + 1, tail)) if right > 0 else 0.0
    high = float(betaincinv(right + 1, count - right, 1 - tail)) if right < count else 1.0
    return low, high


def share_of(right: Float[Tensor, " n"], people: People = None) -> tuple[float, float, float]:
    """Which share is 1, and not 0, with its 95 % interval.

    Where people have several pictures it is that of so many strangers as would say as much (Korn & Graubard 1998);
    where all are right, or none is, that of all people.
    """
    value, each_one = float(right.mean()), by_person(right, people)
    count: Number = len(each_one)
    if 1 < count < len(right) and 0 < value < 1:
        spread = max(float(each_one.var()), np.finfo(float).tiny)
        # How far apart people are is known from them alone, and of a few not well.
        wider = stdtrit(len(right) - 1, TAIL) / stdtrit(len(each_one) - 1, TAIL)
        count = min(len(right), value * (1 - value) * count / spread * float(wider) ** 2)
    return value, *binomial(value, count)
