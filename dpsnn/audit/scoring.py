"""What attacks found, in numbers: each with its interval over victims or seeds, its floor, and the honest strongest."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import betaincinv, stdtrit
from scipy.stats import binom
from torch import Tensor

from dpsnn.audit.attacking import Attempt
from dpsnn.audit.plan import LEAST
from dpsnn.audit.result import Json
from dpsnn.audit.wire import Wire
from dpsnn.evaluation.strongest import LEVEL, RESAMPLES, strongest
from dpsnn.metrics.base import Metric, Scored, known
from dpsnn.metrics.floors import class_means, mean_image
from dpsnn.tensors import Labels, Number

TAIL = (1 - LEVEL) / 2

ALIKE = 1e-9
"""Distance between no information and the truth below which pictures are all alike: what is left is rounding."""

OTHERS = 4
"""Guesses of other victims beside which each victim is looked at."""

CANDIDATES = 1000
"""Pictures among which a victim's is to be found, at most."""


@dataclass(frozen=True)
class Scale:
    """One measure, with what it gives for no information and for all of it."""

    metric: Metric
    floor: float | None
    class_floor: float | None
    perfect: float | None

    @property
    def column(self) -> str:
        return self.metric.column

    @property
    def lower_leaks(self) -> bool:
        return self.metric.leaks == "lower"

    def plain(self) -> Json:
        return {
            "column": self.column,
            "label": self.metric.label,
            "lower_leaks": self.lower_leaks,
            "floor": self.floor,
            "class_floor": self.class_floor,
            "perfect": self.perfect,
        }

    def of(self, guesses: Tensor, wire: Wire) -> Float[Tensor, " n"]:
        """One value for each of the first victims."""
        count = len(guesses)
        values = self.metric.defined(Scored(guesses, wire.victims[:count], wire.labels[:count]))
        assert values is not None
        return values.double()

    def of_others(self, guesses: Tensor, wire: Wire) -> Float[Tensor, " n"]:
        """For each of the first victims the mean of what guesses of other ones give; two victims or more."""
        count = len(guesses)
        steps = {1 + (count - 1) * each // OTHERS for each in range(min(OTHERS, count - 1))}
        return torch.stack([self.of(guesses.roll(step, 0), wire) for step in steps]).mean(0)


def scales(wire: Wire, own_labels: Labels | None) -> list[Scale]:
    """The measures that are defined for these victims.

    Args:
        wire: Whose victims.
        own_labels: Classes of the attacker's own pictures, where they are those of the victims.
    """
    truth, labels = wire.victims, wire.labels
    nothing = Scored(mean_image(wire.own, len(truth)), truth, labels)
    guess = None if own_labels is None else class_means(wire.own, own_labels, labels)
    found = []
    for metric in known():
        values = metric.defined(Scored(truth, truth, labels))
        if values is None or len(values) != len(truth) or not bool(values.isfinite().all()):
            continue
        classes = None
        if guess is not None:
            of_classes = metric.defined(Scored(guess, truth, labels))
            classes = None if of_classes is None else float(of_classes.double().mean())
        perfect = float(values.double().mean())
        found.append(Scale(metric, metric.least(nothing), classes, perfect))
    return found


# ---------------------------------------------------------------- intervals


def estimate(values: Sequence[Float[Tensor, " n"]], seed: int = 0) -> Json:
    """The mean over victims, and over seeds where there are several, with its 95 % interval.

    Over victims it is a bootstrap of each one's mean over seeds, or Student's t where there are few. Of several seeds
    Student's t over their means is added in squares: seeds share their victims, so that their means alone do not say
    how far those are from all people's.

    Args:
        values: For each seed one value for each victim.
        seed: Of the bootstrap.
    """
    means = [float(each.mean()) for each in values]
    value, count = float(np.mean(means)), len(values[0])
    low: float | None = None
    high: float | None = None
    over: str | None = None
    if 1 < count < LEAST:
        # Resamples of a few are too narrow: of two victims they hold the truth half of the time.
        low, high, over = (*students(torch.stack([*values]).mean(0))[1:], "victims")
    elif count > 1:
        draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
        spread = draws @ torch.stack([*values]).mean(0).numpy() / count
        ends = np.quantile(spread, [TAIL, 1 - TAIL])
        low, high, over = min(float(ends[0]), value), max(float(ends[1]), value), "victims"
    return _over_seeds({"value": value, "low": low, "high": high, "over": over}, means)


def _over_seeds(found: Json, *means: Sequence[float]) -> Json:
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
    over = "seeds" if low is None else "victims and seeds"
    ends = {"low": value - math.hypot(below, half), "high": value + math.hypot(above, half)}
    return {**found, **ends, "over": over}


def students(values: Float[Tensor, " n"]) -> tuple[float, float, float]:
    """The mean of two or more values and the ends of its 95 % interval, by Student's t."""
    value = float(values.mean())
    half = float(stdtrit(len(values) - 1, 1 - TAIL)) * float(values.std()) / math.sqrt(len(values))
    return value, value - half, value + half


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


def unseen(count: int) -> float:
    """The share of people who at most fare worse than the worst of so many victims, 95 times of 100."""
    return 1 - (2 * TAIL) ** (1 / count)


def binomial(share: float, count: int) -> tuple[float, float]:
    """The exact 95 % interval of a share of `count` (Clopper & Pearson 1934)."""
    right = share * count
    low = float(betaincinv(right, count - right + 1, TAIL)) if right > 0 else 0.0
    high = float(betaincinv(right + 1, count - right, 1 - TAIL)) if right < count else 1.0
    return low, high


# ---------------------------------------------------------------- of attacks

Scores = Mapping[str, Float[Tensor, " n"]]
"""Attack → one value for each of the first victims, the mean over seeds."""

OfSeeds = Mapping[str, Sequence[Float[Tensor, " _"]]]
"""Attack → for each seed one value for each of the first victims, of which some attacks have fewer than others."""


def per_victim(attempts: Sequence[Attempt], scale: Scale, wire: Wire) -> list[Tensor]:
    """For each seed the values of the victims that all of them were scored on."""
    done = [each for each in attempts if each.status == "ok"]
    count = min((each.victims for each in done), default=0)
    return [scale.of(each.guesses[:count], wire) for each in done] if count else []


def strongest_of(
    scores: Scores, lower_leaks: bool, total: int, of_seeds: OfSeeds | None = None
) -> Json | None:
    """The strongest, chosen on one half of the victims and scored on the other, all on the same victims.

    Attacks that were scored on fewer than LEAST victims are left out where there are others: a few victims say little
    of all. Where some were scored on a part of the victims only, and the strongest of all on these is one that was
    scored on every victim, it is compared anew with the others of which that is true.

    Args:
        scores: Of every attack.
        lower_leaks: Whether lower values leak more.
        total: Number of victims.
        of_seeds: Of the same attacks, where the interval shall be over seeds too.
    """
    finite = {name: each for name, each in scores.items() if bool(each.isfinite().all())}
    many = {name: each for name, each in finite.items() if len(each) >= min(LEAST, total)}
    usable = many or finite
    if not usable:
        return None
    count = min(map(len, usable.values()))
    means = {name: float(each[:count].mean()) for name, each in usable.items()}
    best = (min if lower_leaks else max)(means, key=lambda name: means[name])
    if count < 2:
        alone: Json = {"value": means[best], "low": None, "high": None, "over": None}
        return {
            **_over_seeds(alone, *_means(of_seeds, [best], count)),
            "by": [best],
            "tried": len(usable),
            "best_of_each": means[best],
            "victims": count,
        }
    found = strongest({name: each[:count] for name, each in usable.items()}, lower_leaks)
    every = {name: each for name, each in usable.items() if len(each) == total}
    # Where nobody finds any of a few, who was asked for all says more.
    tied = any(means[name] == means[best] for name in every)
    if count < total and every and (tied or {*found.names} <= every.keys()):
        found, count = strongest(every, lower_leaks), total
    ends = {"low": min(found.low, found.value), "high": max(found.high, found.value)}
    estimated = {"value": found.value, **ends, "over": "victims"}
    return {
        **_over_seeds(estimated, *_means(of_seeds, found.names, count)),
        "by": [*dict.fromkeys(found.names)],
        "tried": len(usable),
        "best_of_each": found.oracle,
        "victims": count,
    }


def _means(of_seeds: OfSeeds | None, names: Iterable[str], count: int) -> list[list[float]]:
    """For each of these attacks the means of all seeds over the first victims."""
    known = of_seeds or {}
    return [[float(each[:count].mean()) for each in known.get(name, ())] for name in {*names}]


def gained(
    attempts: Mapping[str, Sequence[Attempt]], of_seeds: OfSeeds, scale: Scale, wire: Wire
) -> Json | None:
    """The share of what lies between no information and the truth that the strongest attack gets, victim by victim.

    No information is the mean image, or, where that leaks more, the attack's own guesses of other victims: a sharp
    picture of anything may be more like a picture than a mean is. Both are beside the very victims that the attack was
    scored on: how hard they are is no doubt about whether anything was found. Each attack has a whole of its own, so
    that the truth is all of it.

    Args:
        attempts: Of every attack.
        of_seeds: Scores of the same.
        scale: By which.
        wire: What was attacked.

    Returns:
        None where the mean image is the truth already, and where nothing came to an end.
    """
    if scale.perfect is None:
        return None
    mean = scale.of(mean_image(wire.own, len(wire.victims)), wire)
    worse = 1 if scale.lower_leaks else -1
    shares: dict[str, list[Tensor]] = {}
    for name, scores in of_seeds.items():
        count = min(map(len, scores), default=0)
        nothing = [mean[:count]] * len(scores)
        if count > 1:
            done = [each.guesses[:count] for each in attempts[name] if each.status == "ok"]
            others = [scale.of_others(each, wire) for each in done]
            if worse * float(torch.stack(others).mean() - mean[:count].mean()) < 0:
                nothing = others
        wholes = [scale.perfect - float(each.mean()) for each in nothing]
        if count and min(map(abs, wholes)) >= ALIKE:
            shares[name] = [(s - n) / whole for s, n, whole in zip(scores, nothing, wholes)]
    means = {name: torch.stack(each).mean(0) for name, each in shares.items()}
    found = strongest_of(means, False, len(wire.victims), shares)
    if found is None:
        return None
    floor = float(mean[: found["victims"]].mean())
    return {**{end: found[end] for end in ("value", "low", "high", "victims")}, "floor": floor}


def named(guesses: Tensor, victims: Tensor) -> Float[Tensor, " n"]:
    """1 where of all candidates the victim's own picture is nearest to its reconstruction, else 0.

    Args:
        guesses: Of the first n victims.
        victims: All, the candidates.
    """
    candidates = victims[:CANDIDATES].flatten(1)
    found = []
    for start in range(0, min(len(guesses), len(candidates)), 250):
        block = guesses[start : start + 250].flatten(1)[: len(candidates) - start]
        # A guess that is as near to another counts as one that is not: who cannot tell them apart names neither.
        apart = torch.cdist(block, candidates, compute_mode="donot_use_mm_for_euclid_dist")
        own = apart.gather(1, torch.arange(start, start + len(block)).unsqueeze(1))
        found.append((apart < own).sum(1) + ((apart == own).sum(1) > 1) == 0)
    return torch.cat(found).double() if found else torch.zeros(0, dtype=torch.double)


def reidentified(attempts: Mapping[str, Sequence[Attempt]], wire: Wire) -> Json | None:
    """The share of victims that the strongest attacker at this finds among the candidates; of one candidate nothing.

    An attack that was scored on the first victims alone looks for these, among as many candidates.
    """
    candidates = min(CANDIDATES, len(wire.victims))
    of_seeds = {}
    for name, each in attempts.items():
        done = [one.guesses for one in each if one.status == "ok"]
        if count := min(map(len, done), default=0):
            of_seeds[name] = [named(guesses[:count], wire.victims) for guesses in done]
    scores = {name: torch.stack(each).mean(0) for name, each in of_seeds.items()}
    found = strongest_of(scores, False, candidates) if candidates > 1 else None
    if found is None:
        return None
    share, count = min(1.0, max(0.0, found["value"])), found["victims"]
    low, high = binomial(share, count)
    wide = _over_seeds(
        {"value": share, "low": low, "high": high}, *_means(of_seeds, found["by"], count)
    )
    return {
        "value": share,
        "low": max(0.0, wide["low"]),
        "high": min(1.0, wide["high"]),
        "candidates": candidates,
        "victims": count,
        "tried": found["tried"],
        "by": found["by"],
    }
