"""Which attacks a budget pays for, with which settings, and on how many pictures."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dpsnn import parts
from dpsnn.attacks import Attack
from dpsnn.attacks.base import Need
from dpsnn.attacks.feature_inversion import OWN, SQUARES, VARIATIONS
from dpsnn.audit.wire import NO_CLIENT, Wire
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

LEAST = 16
"""Victims on which every attack is scored, if there are so many."""

SMALLEST_MAP = 4
"""Pixels on a side from which on a map has a layout worth keeping."""


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

    def affordable(self, wire: Wire, seconds: float) -> int | None:
        """Steps of a descent that its share of the budget pays for; None where nothing limits them.

        They follow from the client's work, not from a clock: who goes on with an audit takes as many.
        """
        if "steps" not in self.settings or not self.gradients or not wire.work:
            return None
        tuned = min(OWN, (self.own or len(wire.own)) - 1)
        pictures = (len(VARIATIONS) + len(SQUARES) - 1) * max(1, tuned) + LEAST
        return int(seconds * SPEED / (BOTH_WAYS * wire.work * pictures))

    def method(self, wire: Wire, seconds: float = math.inf) -> Attack:
        """Its settings at a cut."""
        settings = dict(self.settings)
        steps = self.affordable(wire, seconds) if math.isfinite(seconds) else None
        if steps is not None:
            settings["steps"] = max(1, min(steps, settings["steps"]))
        if self.key == "decoder":
            settings["decoder"] = "grid" if _is_map(wire) else "conv"
            if wire.is_reduced or wire.target is None:
                settings["augment"] = "none"
        made: Attack = parts.find("attack", self.key)(**settings)
        return made

    def applies(self, wire: Wire) -> bool:
        """Whether it is of any use there; what is not is no row."""
        if self.noise and not wire.noisy:
            return False
        return not (wire.is_reduced and self.asks)

    def hindrance(self, wire: Wire) -> str:
        """Why it cannot be done there; empty where it can."""
        if wire.target is None and not self.method(wire).needs <= {
            Need.QUERIES,
            Need.TRANSMISSIONS,
        }:
            return NO_CLIENT
        values, pixels = wire.activations[0].numel(), wire.own[0].numel()
        dense = 0
        if self.key == "decoder" and not _is_map(wire):
            dense = dense_weights(wire.cut_shape, wire.image_shape)
        if self.key == "ridge" or self.settings.get("first") == "ridge":
            dense = values * pixels
        if dense > MOST_WEIGHTS:
            return f"it would need {dense:,} weights, more than {MOST_WEIGHTS:,}"
        return ""


def _is_map(wire: Wire) -> bool:
    """Whether a cut is a feature map whose layout is worth keeping."""
    shape = wire.cut_shape
    return len(shape) == 3 and min(shape[1:]) >= SMALLEST_MAP


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
        """Those that apply at a cut and that it pays for, the cheap ones first."""
        return [each for each in self.attacks if each.applies(wire) and self.pays(each, wire)]

    def pays(self, planned: Planned, wire: Wire) -> bool:
        """Whether it pays for a descent that is long enough to find anything."""
        steps = planned.affordable(wire, self.seconds)
        return steps is None or steps >= min(SHORTEST, planned.settings["steps"])

    def unpaid(self, wire: Wire) -> list[str]:
        """Labels of those that apply at a cut, but cost too much."""
        return [
            each.label for each in self.attacks if each.applies(wire) and not self.pays(each, wire)
        ]


RIDGE = Planned("ridge", "linear map (ridge)", asks=False)
NEAREST = Planned("nearest", "nearest own picture", asks=False, learns=False)


def _decoder(epochs: int, doublings: int = 0) -> Planned:
    more = {"max_epochs": epochs, "doublings": doublings}
    return Planned("decoder", "learned decoder", more, asks=False)


def _inversion(steps: int, restarts: int, own: int | None = None) -> Planned:
    more = {"steps": steps, "restarts": restarts}
    return Planned("inversion", "inversion by gradients", more, True, asks=False, own=own)


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
            Planned("refiner", "refined linear map", {"first": "ridge", "epochs": 5}),
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
            Planned("refiner", "refined linear map", {"first": "ridge", "epochs": 10}),
            Planned("map", "most likely picture", {"first": "decoder"}, True, noise=True),
            Planned("ensemble", "decoder and mixture", {"members": "decoder+mixture"}, noise=True),
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
