"""Leakage along a curve of noises, for little more than one of them costs.

The client is asked once for every image, the attackers that train nothing are found anew for each noise, and the
learned one is a single decoder for all: where it is not as good as dedicated ones, these take its place.

More noise is something that anybody can add to what was heard: N(0, t²) is N(0, s²) plus N(0, t² - s²), and Laplace(c)
is Laplace(b) plus Laplace(c), or, with probability (b/c)², plus nothing. So whoever does well under some noise does as
well under less, and the curves fall: `falling` says so of what was measured.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from dpsnn.attacks.base import Attack, AttackModule, Knowledge, Learn
from dpsnn.attacks.decoder import LearnedDecoder
from dpsnn.audit.calibrate_decoder import Check, ConditionedDecoder, checked_places, own_error
from dpsnn.audit.calibrate_noise import NoisyWire, upwards
from dpsnn.audit.calibrate_result import Shown
from dpsnn.audit.intervals import around
from dpsnn.audit.plan import FEWER_OWN, LOWER, MOST_WEIGHTS, Planned
from dpsnn.audit.wire import at_lower, reduced
from dpsnn.errors import UsageError, one_line
from dpsnn.evaluation.strongest import Strongest, strongest
from dpsnn.metrics.base import Metric, Scored, known, mean, standard_error
from dpsnn.parts import find
from dpsnn.target import Client, Target
from dpsnn.tensors import Activation, Images, Inputs, Labels, Number, Pixels
from dpsnn.training import device, seeded

UNTRAINED = ("ridge", "mixture")
"""Attacks that are found anew for each noise."""

DEDICATED, CONDITIONED = "decoder", "conditioned decoder"

TWICE = 2
"""Times the epochs of a dedicated decoder: as long a decoder for all noises learns."""

NORMAL = 1.96
"""Standard errors from a mean to the ends of its 95 % interval."""

HELD = 2 * 10**8
"""Values of activations that are remembered."""


class Roles(NamedTuple):
    """Images that attackers own, and others that users send.

    Large ones are attacked at a lower resolution: these here are of that then, and what the client makes of them as
    they are sent is said beside.
    """

    own: Pixels
    victims: Images
    own_labels: Labels | None = None
    labels: Labels | None = None
    own_codes: Activation | None = None
    """Activations of the own images; None: the client is asked for them."""
    codes: Activation | None = None
    """Those of the victims."""
    again: Callable[[], Activation] | None = None
    """Asks the client for the victims' once more."""
    reduced: bool = False
    """Whether they have a lower resolution than those that are sent: who asks for images of his own is left out."""


def remembering(client: Client) -> Client:
    """The same client, which need not compute again what it was asked for before without gradients."""
    answers: dict[bytes, Activation] = {}
    held = 0

    def ask(images: Inputs) -> Activation:
        nonlocal held
        if torch.is_grad_enabled() and images.requires_grad:
            return client(images)
        key = sha256(images.detach().cpu().contiguous().numpy().tobytes()).digest()
        if key not in answers:
            with torch.no_grad():
                answer = client(images)
            held += answer.numel()
            if held > HELD:
                return answer
            answers[key] = answer
        return answers[key].clone()

    return ask


class Heard(NamedTuple):
    """What an attack of an audit made of the first victims' transmissions."""

    transmissions: Float[Tensor, "queries n *cut"]
    guesses: Images


Attackers = Callable[[Target], Mapping[str, Heard | str]]
"""Makes every attack of an audit's budget under one noise, and says by name what each found, or why nobody knows what
it would have found."""


class Failed(NamedTuple):
    """An attacker of which nobody knows what it would have found."""

    place: int | None
    """Of the noise; None where it was for all of them."""
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} failed ({self.reason})"


class Curve:
    """Attackers at every noise, and what they make of what the victims send.

    Args:
        wire: The target and its kind of noise.
        noises: In rising order.
        pictures: Own images and victims.
        learn: Trains what has to be trained.
        decoder: Settings of a dedicated one.
        seed: Of everything that is drawn; of all noises from the same numbers.
    """

    def __init__(
        self,
        wire: NoisyWire,
        noises: Sequence[float],
        pictures: Roles,
        learn: Learn,
        decoder: LearnedDecoder = LearnedDecoder(),
        seed: int = 0,
    ) -> None:
        self.wire, self.noises, self.pictures = wire, list(noises), pictures
        self.learn, self.decoder, self.seed = learn, decoder, seed
        self.targets = [wire.at(noise) for noise in noises]
        codes = pictures.codes
        self.codes = wire.target.encode(pictures.victims) if codes is None else codes
        self.guesses: list[dict[str, Images]] = [{} for _ in noises]
        """Of each noise: attacker → its guesses."""
        self.audited: list[dict[str, Heard]] = [{} for _ in noises]
        """Of each noise: attack of an audit → what it found, where they were made."""
        self.checks: list[Check] = []
        self.failed: list[Failed] = []

    def untrained(self) -> None:
        """Attack every noise with what trains nothing."""
        for place in range(len(self.targets)):
            for name in self.untrained_names():
                if made := self._tried(place, name, find("attack", name)()):
                    self.hear(place, name, made)

    def untrained_names(self) -> list[str]:
        """Those of `UNTRAINED` that can be made here."""
        asks = {"mixture"} if self.pictures.reduced else set()
        return [name for name in UNTRAINED if name not in asks and self.shape(name)]

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Of the images that an attacker rebuilds, as in an audit; None where its map would be too large for any."""
        return Planned(name, name).shape(self.wire.target)

    def limits(self) -> list[str]:
        """What of the attackers is less than it would be for smaller images."""
        target, found = self.wire.target, []
        for name in (*UNTRAINED, self.decoder.key):
            shape = self.shape(name)
            if shape is None:
                found.append(
                    f"{name} is left out: its map would have more than {MOST_WEIGHTS:,} weights"
                )
            elif name not in (*self.untrained_names(), self.decoder.key):
                found.append(f"{name} is left out: it {LOWER.partition(': it ')[2]}")
            elif shape != target.image_shape:
                size = "×".join(map(str, shape[1:]))
                found.append(
                    f"{name} rebuilds pictures of {size} pixels: a map to larger ones would be too large"
                )
        return found

    def knowledge(self, target: Target, attack: Attack) -> Knowledge:
        """What an attack is granted, with own images of the size that it rebuilds; all have the same activations."""
        own, codes = self.pictures.own, self.pictures.own_codes
        shape = self.shape(attack.key)
        if shape is not None and shape != target.image_shape:
            own, target = reduced(own[:FEWER_OWN], shape), at_lower(target, shape)
            codes = None if codes is None else codes[:FEWER_OWN]
        known = target.knowledge(own, attack.needs)
        if codes is not None:
            # In the place of the cached properties: they are asked for once for all.
            known.__dict__["activations"] = codes.to(device())
            known.__dict__["cut_shape"] = target.cut_shape
        return known

    def learned(self) -> None:
        """Attack every noise with a decoder: one for all, or, around noises at which it is no good, one for each."""
        if self.shape(self.decoder.key) is None:
            return
        dedicated = {
            place: self._tried(place, DEDICATED, self.decoder)
            for place in checked_places(len(self.targets))
        }
        if len(self.targets) > len(dedicated):
            try:
                self._all_in_one(dedicated)
            except Exception as error:  # whatever it fails of, each noise has its own then
                self.checks = []
                self.failed.append(Failed(None, CONDITIONED, one_line(error)))
        for place in range(len(self.targets)):
            if place not in dedicated and place not in self.conditioned_places():
                dedicated[place] = self._tried(place, DEDICATED, self.decoder)
            if made := dedicated.get(place):
                self.hear(place, DEDICATED, made)

    def _all_in_one(self, dedicated: Mapping[int, AttackModule | None]) -> None:
        """Attack noises with one decoder for all, where it is as good as dedicated ones."""
        part = self.decoder
        known = [self.knowledge(target, part) for target in self.targets]
        with seeded(self.seed, 43):
            made = ConditionedDecoder(
                known,
                part.decoder,
                self.wire.queries,
                part.learning_rate,
                TWICE * part.max_epochs,
                self.seed,
                part.augment,
                part.batch_size,
            )
            made.to(device()).prepare(self.learn)
        made.to(device())
        for place, each in dedicated.items():
            if each is not None:
                errors = (
                    own_error(attack, known[place], self.wire.queries, self.seed)
                    for attack in (made.at(place), each)
                )
                self.checks.append(Check(place, *errors))
        for place in self.conditioned_places():
            self.hear(place, CONDITIONED, made.at(place))

    def ensured(self) -> None:
        """Refuse noises at which nobody attacked.

        Raises:
            UsageError: If there is one.
        """
        for place, guesses in enumerate(self.guesses):
            if not guesses:
                reasons = [str(each) for each in self.failed if each.place in (None, place)]
                raise UsageError(
                    f"every attacker failed at noise {self.noises[place]:g}: {'; '.join(reasons)}; mend the cause, as"
                    " nothing is known of what they would find"
                )

    def conditioned_places(self) -> list[int]:
        """The noises at which the conditioned decoder stands for dedicated ones: where both neighbours that were looked
        at found it as good."""
        found = {check.place for check in self.checks if check.passed}
        places = checked_places(len(self.targets))
        between = [
            range(low, high + 1)
            for low, high in zip(places, places[1:])
            if low in found and high in found
        ]
        return sorted(found.union(*between))

    def _tried(self, place: int, name: str, attack: Attack) -> AttackModule | None:
        """The attack at a noise; None where it failed, which is kept."""
        try:
            return self._prepared(attack, self.targets[place])
        except Exception as error:  # a failed attack is a row, whatever it failed of
            self.failed.append(Failed(place, name, one_line(error)))
            return None

    def _prepared(self, attack: Attack, target: Target) -> AttackModule:
        knowledge = self.knowledge(target, attack)
        with seeded(self.seed, 43):
            made = attack.build(knowledge, self.wire.queries, self.seed).to(device())
            made.prepare(self.learn)
        return made.to(device()).eval()

    @torch.no_grad()
    def hear(self, place: int, name: str, attack: AttackModule) -> None:
        """What an attacker makes of the victims' transmissions under one of the noises, if it does not fail."""
        try:
            found = torch.cat([attack.infer_in_parts(each).cpu() for each in self.heard(place)])
            if not bool(found.isfinite().all()):
                raise UsageError("a guess is no finite picture")
            size = self.pictures.victims.shape[2:]
            if found.shape[2:] != size:
                found = F.interpolate(found, size, mode="bilinear", align_corners=False).clamp(0, 1)
        except Exception as error:  # as where it is prepared
            self.failed.append(Failed(place, name, one_line(error)))
            return
        self.guesses[place][name] = found

    def heard(self, place: int) -> list[Float[Tensor, "queries n *cut"]]:
        """The victims' transmissions, in parts; those of all noises are drawn from the same numbers."""
        with seeded(self.seed, 44):
            parts = self.codes.split(1000)
            return [self.targets[place].transmit(part, self.wire.queries) for part in parts]

    def found(self, place: int) -> dict[str, Images]:
        """All guesses at a noise of who guessed every victim."""
        whole = len(self.codes)
        audited = {
            name: heard.guesses
            for name, heard in self.audited[place].items()
            if len(heard.guesses) == whole
        }
        return {**self.guesses[place], **audited}

    def sure(self, place: int, metric: Metric, rows: Tensor) -> dict[str, float]:
        """Of attacks that were made on fewer victims, what each surely reaches at least, on those of them."""
        reached = {}
        sign = 1 if metric.leaks == "higher" else -1
        for name, heard in self.audited[place].items():
            count = len(heard.guesses)
            if (few := rows[rows < count]).numel() > 1 and count < len(self.codes):
                values = self.values(metric, heard.guesses, few)
                reached[name] = mean(values) - sign * NORMAL * standard_error(values)
        return reached

    def reach(self, place: int, metric: Metric, rows: Tensor) -> dict[str, float]:
        """Of the same attacks, how far each may come on all of these victims, as in an audit: by pairs with the
        strongest of those that guessed them all; infinitely far where fewer than two tell."""
        best = self.strongest(place, metric, rows)
        if best is None:
            return {}
        found, reached = self.found(place), {}
        for name, heard in self.audited[place].items():
            count = len(heard.guesses)
            if count >= len(self.codes):
                continue
            few = rows[rows < count]
            reached[name] = math.inf if metric.leaks == "higher" else -math.inf
            if few.numel() > 1:
                theirs = [self.values(metric, found[each], few) for each in best.names]
                apart = self.values(metric, heard.guesses, few) - torch.stack(theirs).mean(0)
                _, low, high = around(apart)
                reached[name] = best.value + (high if metric.leaks == "higher" else low)
        return reached

    def strongest(
        self, place: int, metric: Metric, rows: Tensor, audited: bool = True
    ) -> Strongest | None:
        """The strongest attacker at a noise, on some of the victims; None where the measure is not defined.

        Args:
            place: Of the noise.
            metric: By which.
            rows: Of the victims.
            audited: Whether attacks of an audit count, which are not made at every noise.
        """
        scores = {}
        for name, guesses in (self.found(place) if audited else self.guesses[place]).items():
            scores[name] = self.values(metric, guesses, rows)
            if not bool(scores[name].isfinite().all()):
                return None
        return strongest(scores, metric.leaks == "lower", self.seed) if scores else None

    def values(
        self, metric: Metric, guesses: Images, rows: Int[Tensor, " rows"]
    ) -> Float[Tensor, " rows"]:
        """A measure of the guesses for some of the victims; not a number where it is not defined."""
        truth, labels = self.pictures.victims[rows], self.pictures.labels
        classes = torch.zeros(len(truth), dtype=torch.long) if labels is None else labels[rows]
        values = metric.defined(Scored(guesses[rows], truth, classes))
        return torch.full((len(truth),), torch.nan) if values is None else values


def measure_named(key: str) -> Metric:
    """One of the metrics of reconstructions."""
    return next(each for each in known() if each.key == key)


def grid(around: Number, steps: int, factor: Number) -> list[float]:
    """Noises by a constant factor, so many to either side of one, in so many digits as are said of them."""
    return [upwards(around * float(factor) ** step) for step in range(-steps, steps + 1)]


Estimate = Mapping[str, Any]


def estimated(found: Strongest | None) -> dict[str, Any] | None:
    """What the strongest attacker reaches, with its interval, and who that is."""
    if found is None:
        return None
    by = list(dict.fromkeys(found.names))
    ends = {"low": found.low, "high": found.high, "over": "victims"}
    return {"value": found.value, **ends, "by": by, "tried": found.tried}


def falling(values: Sequence[Estimate | None], leaks: str = "higher") -> list[Estimate | None]:
    """What is reached at each noise, in rising order: what was measured there, or under more noise, if that is better.

    Args:
        values: Estimates, each with its `value`; None where there is none.
        leaks: Which values are better for who hears, `higher` or `lower`.
    """
    found: list[Estimate | None] = []
    best: Estimate | None = None
    sign = 1 if leaks == "higher" else -1
    for each in reversed(values):
        if each is not None and (best is None or sign * _value(each) > sign * _value(best)):
            best = each
        found.append(None if each is None else best)
    return found[::-1]


def _value(estimate: Estimate) -> float:
    return float(estimate["value"])


def rising(values: Sequence[Estimate | None], leaks: str = "higher") -> list[int]:
    """Places at which surely more was measured than under some lesser noise, beyond both intervals.

    What was tried under the lesser noise was then too weak.

    Args:
        values: As they were measured, with `low` and `high`.
        leaks: As of `falling`.
    """
    ends = ("low", "high") if leaks == "higher" else ("high", "low")
    sign = 1 if leaks == "higher" else -1
    seen = [
        (at, sign * each[ends[0]], sign * each[ends[1]]) for at, each in enumerate(values) if each
    ]
    return [at for at, least, _ in seen if any(b < at and most < least for b, _, most in seen)]


def shown(curve: Curve, place: int, metrics: Sequence[Metric]) -> Shown:
    """Three victims at every noise, chosen at one by the first of the measures."""
    everybody = torch.arange(len(curve.codes))

    def best_at(at: int) -> tuple[Images, dict[str, Tensor]]:
        found = curve.strongest(at, metrics[0], everybody)
        assert found is not None
        guesses = curve.found(at)[found.names[0]]
        return guesses, {m.column: curve.values(m, guesses, everybody) for m in metrics}

    made = [best_at(at) for at in range(len(curve.noises))]
    order = made[place][1][metrics[0].column].argsort(descending=metrics[0].leaks == "lower")
    victims = {
        "best": int(order[0]),
        "median": int(order[len(order) // 2]),
        "worst": int(order[-1]),
    }
    return Shown(
        victims,
        [{which: guesses[row] for which, row in victims.items()} for guesses, _ in made],
        [
            {which: {c: float(v[row]) for c, v in values.items()} for which, row in victims.items()}
            for _, values in made
        ],
    )
