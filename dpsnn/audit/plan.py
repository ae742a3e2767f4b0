"""Which attacks a budget pays for, with which settings, and on how many pictures of which size."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from dpsnn import parts
from dpsnn.attacks import Attack
from dpsnn.attacks.base import Need
from dpsnn.attacks.feature_inversion import OWN, SQUARES, VARIATIONS
from dpsnn.audit.lacking import INAPPLICABLE, TOO_LARGE, UNPAID
from dpsnn.audit.wire import NO_CLIENT, Wire, at_lower, attacked_shape, reduced
from dpsnn.errors import one_of
from dpsnn.networks.grid import dense_weights

MOST_WEIGHTS = 6 * 10**7
"""Of one dense layer, 240 MB in float32."""

SPEED = 5e10
"""Operations a second, about, of two cores."""

BOTH_WAYS = 3
"""A gradient costs twice what the answer costs, which comes first."""

SHORTEST = 20
"""Steps of a descent below which it finds nothing."""

OVER = 15
"""Times its share that a descent may take rather than be missing: `SHORTEST` steps for each of `LEAST` victims."""

LEAST = 30
"""Victims on which every attack is scored, if there are so many: on fewer there is no verdict."""

FEWER_OWN = 5000
"""Own pictures, at most, of a map that fits only at a lower resolution: its inputs are many, and so are decompositions
of as many pictures."""

SMALLEST_SIDE = 8
"""Pixels on the longer side below which pictures say nothing."""

SMALLEST_MAP = 4
"""Pixels on a side from which on a map has a layout worth keeping."""


class Shaped(Protocol):
    """A cut, as far as its sizes go."""

    @property
    def cut_shape(self) -> tuple[int, ...]: ...

    @property
    def image_shape(self) -> tuple[int, ...]: ...


class Hindrance(NamedTuple):
    """Why an attack is not made at a cut."""

    cause: str
    """Of `dpsnn.audit.lacking.CAUSES`."""
    reason: str


@dataclass(frozen=True)
class Planned:
    """One attack of a plan."""

    key: str
    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    gradients: bool = False
    """Whether each victim takes its own descent: it is scored on as many as its share of the budget pays for."""
    noise: bool = False
    """Whether it is for noise on the wire, and without it nothing that others are not."""
    asks: bool = True
    """Whether it asks the client for pictures that it makes up."""
    own: int | None = None
    """Own pictures that it is given, if not all."""
    learns: bool = True
    """Whether its error on own validation pictures says how well it learnt."""
    share: float = 0.05
    """Of the time of a cut, about, where the client costs little: for who asks how long it will take."""

    @property
    def maps(self) -> bool:
        """Whether it learns a map from what is heard to pictures."""
        return self.learns and not self.gradients

    def affordable(self, wire: Wire, seconds: float) -> int | None:
        """Steps of a descent that its share of the budget pays for; None where nothing limits them.

        They follow from the client's work, not from a clock: who goes on with an audit takes as many.
        """
        if "steps" not in self.settings or not self.gradients or not wire.work:
            return None
        pictures = LEAST + (len(VARIATIONS) + len(SQUARES) - 1) * self.tuned(wire)
        return int(seconds * SPEED / (BOTH_WAYS * wire.work * pictures))

    def tuned(self, wire: Wire) -> int:
        """Own pictures on which it tunes its prior, by descents as well."""
        return max(1, min(OWN, (self.own or len(wire.own)) - 1)) if self.key == "inversion" else 0

    def paid(self, wire: Wire, seconds: float) -> "Planned | None":
        """The same with the steps that its share of the budget pays for; None where these are too few.

        Before it is left out it is tuned on ever fewer own pictures, and then it takes up to `OVER` times its share.
        """
        made, steps = self, self.affordable(wire, seconds)
        if steps is None:
            return self
        least = min(SHORTEST, self.settings["steps"])
        while steps < least and (tuned := made.tuned(wire)) > 1:
            made = replace(made, own=1 + tuned // 2)
            steps = made.affordable(wire, seconds) or 0
        if steps < least and (made.affordable(wire, OVER * seconds) or 0) < least:
            return None
        steps = max(least, min(steps, self.settings["steps"]))
        return replace(made, settings={**self.settings, "steps": steps})

    def scored(self, wire: Wire, seconds: float) -> int:
        """Victims on which it is scored: all, or those whose descents as much time again pays for, from LEAST on."""
        total = len(wire.victims)
        if not self.gradients:
            return total
        steps = self.settings.get("steps", 1) * self.settings.get("restarts", 1)
        paid = int(seconds * SPEED / (BOTH_WAYS * wire.work * steps)) if wire.work else 0
        return min(total, max(LEAST, paid))

    def method(self, wire: Wire) -> Attack:
        """Its settings at a cut."""
        settings = dict(self.settings)
        if self.key == "decoder":
            settings["decoder"] = "grid" if is_map(wire) else "conv"
            if wire.is_reduced or wire.target is None:
                settings["augment"] = "none"
        made: Attack = parts.find("attack", self.key)(**settings)
        return made

    def applies(self, wire: Wire) -> bool:
        """Whether it is of any use there; what is not is no row."""
        return wire.noisy or not self.noise

    def hindrance(self, wire: Wire) -> Hindrance | None:
        """Why it cannot be done there, whatever the budget; None where it can."""
        if wire.target is None and not self.method(wire).needs <= {
            Need.QUERIES,
            Need.TRANSMISSIONS,
        }:
            return Hindrance(INAPPLICABLE, NO_CLIENT)
        if wire.is_reduced and self.asks:
            return Hindrance(INAPPLICABLE, LOWER)
        if self.shape(wire) is None:
            told = f"it would need {self._weights(wire, wire.image_shape):,} weights, more than {MOST_WEIGHTS:,}"
            return Hindrance(TOO_LARGE, told)
        return None

    def shape(self, wire: Shaped) -> tuple[int, ...] | None:
        """Of the pictures that it rebuilds.

        Those that are attacked; of vectors that are too long for a map to these, smaller ones; None if none are small
        enough. For feature maps there is a decoder that does not grow with them.
        """
        whole = wire.image_shape
        if self._weights(wire, whole) <= MOST_WEIGHTS:
            return whole
        side = 0 if is_map(wire) or self.key not in ("ridge", "decoder") else max(whole[1:])
        while (side := side // 2) >= SMALLEST_SIDE:
            if self._weights(wire, small := attacked_shape(whole, side)) <= MOST_WEIGHTS:
                return small
        return None

    def _weights(self, wire: Shaped, image_shape: tuple[int, ...]) -> int:
        """Of its largest dense layer, where pictures have that shape."""
        first, members = (str(self.settings.get(name, "")) for name in ("first", "members"))
        made_of = {self.key, first, *members.split("+")}
        found = [0]
        if "ridge" in made_of:
            found.append(math.prod(wire.cut_shape) * math.prod(image_shape))
        if "decoder" in made_of and not (self.key == "decoder" and is_map(wire)):
            found.append(dense_weights(wire.cut_shape, image_shape))
        return max(found)


LOWER = (
    "does not apply: it asks the client for pictures that it makes up, which would have a lower resolution than those"
    " that are sent"
)


def is_map(wire: Shaped) -> bool:
    """Whether a cut is a feature map whose layout is worth keeping."""
    shape = wire.cut_shape
    return len(shape) == 3 and min(shape[1:]) >= SMALLEST_MAP


def _smaller(wire: Wire, shape: tuple[int, ...]) -> Wire:
    """The same with pictures of a lower resolution."""
    target = None if wire.target is None else at_lower(wire.target, shape)
    own, validation, victims = (
        reduced(part, shape) for part in (wire.own, wire.validation, wire.victims)
    )
    return replace(wire, own=own, validation=validation, victims=victims, target=target)


@dataclass(frozen=True)
class Budget:
    """What an audit may take."""

    own: int
    """Own pictures, at most."""
    victims: int
    seconds: float
    """For each attack that takes a descent for each victim."""
    attacks: tuple[Planned, ...]

    def at(self, wire: Wire) -> list[Planned]:
        """Those that are of use at a cut, the cheap ones first."""
        return [each for each in self.attacks if each.applies(wire)]

    def hindrance(self, planned: Planned, wire: Wire) -> Hindrance | None:
        """Why one of them is not made there; None where it is."""
        if (found := planned.hindrance(wire)) or planned.paid(wire, self.seconds):
            return found
        payers = [
            name
            for name, each in BUDGETS.items()
            if any(p.key == planned.key and p.paid(wire, each.seconds) for p in each.attacks)
        ]
        cost = "the client's gradients cost more than"
        if not payers:
            return Hindrance(TOO_LARGE, f"{cost} any budget pays for")
        return Hindrance(UNPAID, f"{cost} this budget pays for; --budget {payers[0]} pays for them")

    def ready(self, planned: Planned, wire: Wire) -> tuple[Planned, Wire]:
        """An attack as it is made, and what it is made on: with steps, victims and pictures that are paid for.

        All of it follows from the work there is: whoever repeats an audit, on whatever machine, makes the same.
        """
        shape = planned.shape(wire)
        if shape is not None and shape != wire.image_shape:
            wire = _smaller(wire, shape)
            planned = replace(planned, own=min(planned.own or FEWER_OWN, FEWER_OWN))
        planned = planned.paid(wire, self.seconds) or planned
        count = planned.scored(wire, self.seconds)
        if count < len(wire.victims):
            wire = replace(
                wire,
                victims=wire.victims[:count],
                labels=wire.labels[:count],
                heard=wire.heard[:, :count],
            )
        return planned, wire


RIDGE = Planned("ridge", "linear map (ridge)", asks=False)
NEAREST = Planned("nearest", "nearest own picture", asks=False, learns=False)


def _decoder(epochs: int, doublings: int = 0) -> Planned:
    more = {"max_epochs": epochs, "doublings": doublings}
    return Planned("decoder", "learned decoder", more, asks=False, share=0.5)


def _refiner(epochs: int, doublings: int = 0) -> Planned:
    more = {"first": "ridge", "epochs": epochs, "doublings": doublings}
    return Planned("refiner", "refined linear map", more, share=0.2)


def _inversion(steps: int, restarts: int, own: int | None = None) -> Planned:
    more = {"steps": steps, "restarts": restarts}
    return Planned(
        "inversion", "inversion by gradients", more, True, asks=False, own=own, share=0.3
    )


BUDGETS = {
    "quick": Budget(
        3000,
        1000,
        15.0,
        (
            RIDGE,
            NEAREST,
            _decoder(10),
            Planned("mixture", "likelihood mixture", noise=True, own=1000),
            _inversion(60, 1, 5),
        ),
    ),
    "standard": Budget(
        5000,
        2000,
        90.0,
        (
            RIDGE,
            NEAREST,
            _decoder(20, 1),
            Planned("mixture", "likelihood mixture", noise=True),
            _refiner(5),
            _inversion(300, 2, 18),
        ),
    ),
    "thorough": Budget(
        50_000,
        10_000,
        600.0,
        (
            RIDGE,
            NEAREST,
            _decoder(40, 3),
            Planned("mixture", "likelihood mixture", noise=True),
            _refiner(10, 1),
            Planned(
                "map",
                "most likely picture",
                {"first": "decoder", "steps": 100},
                True,
                noise=True,
                share=0.3,
            ),
            _inversion(500, 2),
        ),
    ),
}


def budget(name: str) -> Budget:
    """A budget by its name.

    Raises:
        UsageError: If there is none.
    """
    one_of(name, BUDGETS, "budget")
    return BUDGETS[name]
