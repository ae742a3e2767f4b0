"""What attacks found, in numbers: each with its interval over victims or seeds, its floor, and the honest strongest."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dpsnn.audit.attacking import Attempt
from dpsnn.audit.intervals import TAIL, around, binomial, over_seeds
from dpsnn.audit.people import People, by_person, others
from dpsnn.audit.plan import LEAST
from dpsnn.audit.result import Json
from dpsnn.audit.wire import Wire
from dpsnn.evaluation.strongest import strongest
from dpsnn.metrics.base import Metric, Scored, known
from dpsnn.metrics.floors import class_means
from dpsnn.tensors import Labels

ALIKE = 1e-9
"""Squared error of no information below which pictures are all alike: what is left is rounding."""


BLUNT = 1e-3
"""The same of a measure that is not 0 for the truth, as a share of what it is then; the structural similarity of a flat
picture and itself is off 1 by up to a tenth of it in single precision."""


def least_whole(perfect: float) -> float:
    """The same of a measure, as a distance from what it is for the truth: similarities of flat pictures are blunt."""
    return max(ALIKE, BLUNT * abs(perfect))


OTHERS = 4
"""Guesses of other victims beside which each victim is looked at."""

CANDIDATES = 1000
"""Pictures among which a victim's is to be found, at most."""


@dataclass(frozen=True, eq=False)
class Scale:
    """One measure, with what it gives for no information and for all of it."""

    metric: Metric
    nothing: Scored
    """The mean of the own pictures in the place of everybody's reconstruction."""
    classes: Float[Tensor, " n"] | None
    """For each victim what the mean own picture of its class gives; None where that is not known."""
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
            **self.floors(len(self.nothing.images)),
            "perfect": self.perfect,
        }

    def floors(self, count: int) -> Json:
        """What no information gives for the first victims of this cut, and the class alone."""
        parts = (self.nothing.reconstructions, self.nothing.images, self.nothing.labels)
        classes = None if self.classes is None else float(self.classes[:count].mean())
        few = Scored(*(part[:count] for part in parts))
        return {"floor": self.metric.least(few), "class_floor": classes}

    def of(self, guesses: Tensor, wire: Wire) -> Float[Tensor, " n"]:
        """One value for each of the first victims."""
        count = len(guesses)
        values = self.metric.defined(Scored(guesses, wire.victims[:count], wire.labels[:count]))
        assert values is not None
        return values.double()

    def of_others(self, guesses: Tensor, wire: Wire) -> Float[Tensor, " n"] | None:
        """For each of the first victims the mean of what guesses of other people give; None where there are none."""
        rows = others(wire.people, len(guesses), OTHERS)
        return (
            torch.stack([self.of(guesses[row], wire) for row in rows]).mean(0)
            if len(rows)
            else None
        )


def scales(wire: Wire, own_labels: Labels | None) -> list[Scale]:
    """The measures that are defined for these victims.

    Args:
        wire: Whose victims.
        own_labels: Classes of the attacker's own pictures, where they are those of the victims.
    """
    truth, labels = wire.victims, wire.labels
    nothing = Scored(wire.usual.expand(len(truth), -1, -1, -1), truth, labels)
    guess = None if own_labels is None else class_means(wire.own, own_labels, labels)
    found = []
    for metric in known():
        values = metric.defined(Scored(truth, truth, labels))
        if values is None or len(values) != len(truth) or not bool(values.isfinite().all()):
            continue
        classes = None if guess is None else metric.defined(Scored(guess, truth, labels))
        classes = None if classes is None else classes.double()
        found.append(Scale(metric, nothing, classes, float(values.double().mean())))
    return found


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
    scores: Scores,
    lower_leaks: bool,
    total: int,
    of_seeds: OfSeeds | None = None,
    people: People = None,
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
        people: Whose pictures the victims are: halves and intervals are of people.

    Returns:
        None where there is nobody. `open` are attacks on a part of the victims of which it is not sure, by pairs, that
        they are behind, and `reach` is how far they may come on all.
    """
    finite = {name: each for name, each in scores.items() if bool(each.isfinite().all())}
    many = {name: each for name, each in finite.items() if len(each) >= min(LEAST, total)}
    usable = many or finite
    if not usable:
        return None
    count = min(map(len, usable.values()))
    means = {name: float(each[:count].mean()) for name, each in usable.items()}
    best = (min if lower_leaks else max)(means, key=lambda name: means[name])
    each_one = {name: by_person(each[:count], people) for name, each in usable.items()}
    if len(each_one[best]) < 2:
        alone: Json = {"value": means[best], "low": None, "high": None, "over": None}
        return {
            **over_seeds(alone, *_means(of_seeds, [best], count)),
            "by": [best],
            "tried": len(usable),
            "best_of_each": means[best],
            "victims": count,
            **({} if count < 2 else {"people": 1}),
        }
    found = strongest(each_one, lower_leaks)
    every = {name: each for name, each in usable.items() if len(each) == total}
    # Where nobody finds any of a few, who was asked for all says more.
    tied = any(means[name] == means[best] for name in every)
    more: Json = {}
    if count < total and every and (tied or {*found.names} <= every.keys()):
        each_one = {name: by_person(each, people) for name, each in every.items()}
        found, count = strongest(each_one, lower_leaks), total
        more = _open(usable, found.names, found.value, lower_leaks, people)
    drawn = len(each_one[found.names[0]])
    who = "victims" if drawn == count else "people"
    ends = {"low": min(found.low, found.value), "high": max(found.high, found.value)}
    estimated = {"value": found.value, **ends, "over": who}
    return {
        **over_seeds(estimated, *_means(of_seeds, found.names, count)),
        "by": [*dict.fromkeys(found.names)],
        "tried": len(usable),
        "best_of_each": found.oracle,
        "victims": count,
        **({} if drawn == count else {"people": drawn}),
        **more,
    }


def _open(
    scores: Scores, names: Sequence[str], value: float, lower_leaks: bool, people: People
) -> Json:
    """Attacks on fewer victims than the strongest that may be ahead of it on all, and how far they may come."""
    best = torch.stack([scores[name] for name in names]).mean(0)
    reach: dict[str, float] = {}
    for name, each in scores.items():
        apart = by_person(each - best[: len(each)], people)
        if len(each) < len(best) and len(apart) > 1:
            _, low, high = around(apart)
            if (ahead := low if lower_leaks else high) * (1 if lower_leaks else -1) < 0:
                reach[name] = value + ahead
    if not reach:
        return {}
    return {"open": [*reach], "reach": (min if lower_leaks else max)(reach.values())}


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
    mean = scale.of(scale.nothing.reconstructions, wire)
    worse = 1 if scale.lower_leaks else -1
    shares: dict[str, list[Tensor]] = {}
    for name, scores in of_seeds.items():
        count = min(map(len, scores), default=0)
        nothing = [mean[:count]] * len(scores)
        if count > 1:
            done = [each.guesses[:count] for each in attempts[name] if each.status == "ok"]
            own = [each for guesses in done if (each := scale.of_others(guesses, wire)) is not None]
            if own and worse * float(torch.stack(own).mean() - mean[:count].mean()) < 0:
                nothing = own
        wholes = [scale.perfect - each for each in nothing]
        if count and min(abs(float(each.mean())) for each in wholes) >= least_whole(scale.perfect):
            shares[name] = [_share(s - n, whole) for s, n, whole in zip(scores, nothing, wholes)]
    means = {name: torch.stack(each).mean(0) for name, each in shares.items()}
    found = strongest_of(means, False, len(wire.victims), shares, wire.people)
    if found is None:
        return None
    floor = float(mean[: found["victims"]].mean())
    ends = ("value", "low", "high", "victims", "reach")
    return {**{end: found[end] for end in ends if end in found}, "floor": floor}


def _share(parts: Float[Tensor, " n"], wholes: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Values of which the mean is the share of all parts in all wholes, and the scatter that of this share.

    It is linearised (Cochran 1977, chapter 6): where everybody has the same share there is no doubt about it.
    """
    whole = wholes.mean()
    share = parts.mean() / whole
    return share + (parts - share * wholes) / whole


NEAR = 0.1
"""Of the error that the mean own picture has for somebody, the share below which a guess is nearly a copy."""


@dataclass(frozen=True, eq=False)
class Sought:
    """What a guess of each of the first n victims is nearest to, among all candidates."""

    named: Float[Tensor, " n"]
    """1 where the victim's own picture is nearest, else 0."""
    copies: int
    """Victims whose picture it nearly is."""
    strays: int
    """Pictures of others that it nearly is, over all victims."""


def sought(
    guesses: Tensor, candidates: Tensor, near: Float[Tensor, " candidates"] | None = None
) -> Sought:
    """Look for each of the first victims among all candidates.

    Args:
        guesses: Of the first n of them.
        candidates: Pictures of different people.
        near: For each of them the distance below which a guess is nearly a copy; by default it is never one.
    """
    found, copies, strays = [torch.zeros(0, dtype=torch.bool)], 0, 0
    candidates = candidates.flatten(1)
    near = torch.zeros(len(candidates)) if near is None else near
    for start in range(0, min(len(guesses), len(candidates)), 250):
        block = guesses[start : start + 250].flatten(1)[: len(candidates) - start]
        # A guess that is as near to another counts as one that is not: who cannot tell them apart names neither.
        apart = torch.cdist(block, candidates, compute_mode="donot_use_mm_for_euclid_dist")
        own = apart.gather(1, torch.arange(start, start + len(block)).unsqueeze(1))
        found.append((apart < own).sum(1) + ((apart == own).sum(1) > 1) == 0)
        right = int((own[:, 0] < near[start : start + len(block)]).sum())
        copies, strays = copies + right, strays + int((apart < near).sum()) - right
    return Sought(torch.cat(found).double(), copies, strays)


def searched(
    attempts: Mapping[str, Sequence[Attempt]], wire: Wire
) -> tuple[Json | None, Json | None]:
    """The victims that the strongest attacker at this finds among the candidates, and those that any rebuilds nearly.

    Candidates are pictures of different people; of one candidate nothing is known. An attack that was scored on the
    first victims alone looks for these, among as many candidates.
    """
    candidates = wire.victims[: min(CANDIDATES, wire.strangers)]
    if len(candidates) < 2:
        return None, None
    near = math.sqrt(NEAR) * (candidates - wire.usual).flatten(1).norm(dim=1)
    every = {
        name: [sought(one.guesses, candidates, near) for one in each if one.status == "ok"]
        for name, each in attempts.items()
    }
    made = {name: each for name, each in every.items() if each}
    return _reidentified(made, len(candidates)), _copied(made, len(candidates))


def _reidentified(made: Mapping[str, Sequence[Sought]], candidates: int) -> Json | None:
    of_seeds = {}
    for name, each in made.items():
        count = min(len(one.named) for one in each)
        of_seeds[name] = [one.named[:count] for one in each]
    scores = {name: torch.stack(each).mean(0) for name, each in of_seeds.items()}
    found = strongest_of(scores, False, candidates)
    if found is None:
        return None
    share, count = min(1.0, max(0.0, found["value"])), found["victims"]
    low, high = binomial(share, count)
    wide = over_seeds(
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
        **({"open": found["open"], "reach": min(1.0, found["reach"])} if "open" in found else {}),
    }


def _copied(made: Mapping[str, Sequence[Sought]], candidates: int) -> Json | None:
    """Of all attacks the largest share of victims that one rebuilds nearly exactly, be it ever so poor on the others.

    Its interval is that of the most of so many attacks (Bonferroni), and beside it stands the chance that a guess of
    somebody is nearly the picture of somebody else: one more than were seen, so that it is never 0.
    """
    tried = sum(map(len, made.values()))
    found: list[Json] = []
    for name, one in ((name, one) for name, runs in made.items() for one in runs):
        count = len(one.named)
        low, high = binomial(one.copies / count, count, TAIL / tried)
        chance = (one.strays + 1) / (count * (candidates - 1) + 1)
        ends = {"value": one.copies / count, "low": low, "high": high, "chance": chance}
        found.append({**ends, "victims": count, "by": [name], "tried": tried})
    return max(found, key=lambda each: (each["low"], each["victims"]), default=None)
