"""The best linear attacker in closed form: ridge regression from what is heard to pixels."""

import time
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dpsnn.attacks.base import (
    Attack,
    AttackModule,
    Knowledge,
    Learn,
    Need,
    average,
    check_finite,
    held_out,
)
from dpsnn.batches import to_unit
from dpsnn.networks.front import Front
from dpsnn.networks.ridge import PENALTIES, Ridge, ridge
from dpsnn.parts import option
from dpsnn.signals import check
from dpsnn.tensors import Activation, Images, Smashed
from dpsnn.training import FULL, Fitted

DRAWS = 8
"""Draws of the noise for every own image: its penalty comes out by itself, whatever noise it is."""

HELD = 10**8
"""Values heard that are kept in memory; where that is less than so many draws of all images, there are fewer draws."""


@dataclass(frozen=True, kw_only=True)
class RidgeRegression(Attack):
    """Turn what crosses the wire into pictures by the best linear map, found in closed form."""

    key = "ridge"
    order = 15
    needs = frozenset({Need.QUERIES, Need.TRANSMISSIONS})

    naive: bool = option(
        False, "fit on clean activations, ignoring the noise on the wire", name="naive"
    )

    def build(self, knowledge: Knowledge, queries: int, seed: int) -> AttackModule:
        return Linear(knowledge, self.naive, queries, seed)

    @property
    def unaware(self) -> bool:
        return self.naive

    def aware(self) -> Attack:
        return replace(self, naive=False)


class Linear(AttackModule):
    """The linear map with the least squared error, with a penalty on its weights chosen on own validation images.

    It maps what `Front` makes of the wire, all on one scale, so that the penalty weighs all alike; that is chosen on
    images held out and the map found anew on all. With noise on the wire the own images are heard several times.

    Args:
        knowledge: The client and the mechanism as oracles, and own images.
        naive: Whether to learn from clean activations, as if there were no noise.
        queries: Transmissions of each image that are averaged.
        seed: Of the split into training and own validation part.
    """

    at_once = 1000

    weights: Tensor
    mean: Tensor

    def __init__(
        self, knowledge: Knowledge, naive: bool = False, queries: int = 1, seed: int = 0
    ) -> None:
        super().__init__()
        self.knowledge, self.naive, self.queries, self.seed = knowledge, naive, queries, seed
        self.penalty = 0.0
        values = torch.Size(knowledge.cut_shape).numel()
        pixels = torch.Size(knowledge.image_shape).numel()
        self.front = Front(knowledge.cut_shape)
        self.register_buffer("weights", torch.zeros(values, pixels))
        self.register_buffer("mean", torch.zeros(pixels))

    def chosen(self) -> dict[str, Any]:
        return {"penalty": self.penalty}

    @torch.no_grad()
    def prepare(self, learn: Learn) -> Fitted:
        """Choose the penalty on own images held out, then find the map on all."""
        start = time.monotonic()
        rest, out = held_out(len(self.knowledge.surrogate), self.seed)
        self._look(rest)
        maps = self._maps(rest)
        heard, truth = self._heard(out, 1)
        errors = {}
        for penalty in PENALTIES:
            check()
            self._set(maps, penalty)
            errors[penalty] = float((self._pictures(heard) - truth).square().mean())
        self.penalty = min(errors, key=lambda each: errors[each])
        self._set(self._maps(torch.cat([rest, out])), self.penalty)
        return Fitted(0, errors[self.penalty], time.monotonic() - start, FULL)

    @torch.no_grad()
    def infer(self, heard: Float[Tensor, "queries n *cut"]) -> Images:
        check_finite(average(heard), what="smashed tensor", cause="train the target again")
        return self._pictures(self.front(heard).flatten(1)).unflatten(1, self.knowledge.image_shape)

    def _pictures(self, seen: Float[Tensor, "n d"]) -> Float[Tensor, "n p"]:
        return (seen @ self.weights + self.mean).clamp(0, 1)

    def _look(self, rows: Int[Tensor, " n"]) -> None:
        own = self.knowledge.activations[rows], to_unit(self.knowledge.surrogate[rows])
        self.front.look(own[0], self._hear, 1 if self.naive else self.queries, own[1])

    def _hear(self, activation: Activation) -> Smashed:
        return activation if self.naive else self.knowledge.defend(activation)

    def _heard(
        self, rows: Int[Tensor, " n"], draws: int
    ) -> tuple[Float[Tensor, "m d"], Float[Tensor, "m p"]]:
        """Own images as they are seen, with so many draws of the noise, and what they are."""
        activation = self.knowledge.activations[rows]
        images = to_unit(self.knowledge.surrogate[rows]).flatten(1).to(activation.device)
        some = activation[: max(1, HELD // activation[0].numel())]
        if torch.equal(self._hear(some), self._hear(some)):
            draws = 1
        queries = 1 if self.naive else self.queries
        seen = [
            self.front(self._hear(activation) for _ in range(queries)).flatten(1)
            for _ in range(max(1, min(draws, HELD // activation.numel())))
        ]
        if len(seen) == 1:
            return seen[0], images
        return torch.cat(seen), images.repeat(len(seen), 1)

    def _maps(self, rows: Int[Tensor, " n"]) -> "Centred":
        seen, images = self._heard(rows, DRAWS)
        centre, mean = seen.mean(0), images.mean(0)
        return Centred(ridge(seen - centre, images - mean), centre, mean)

    def _set(self, maps: "Centred", penalty: float) -> None:
        weights = maps.maps.weights(penalty)
        self.weights.copy_(weights)
        self.mean.copy_(maps.mean - maps.centre.double() @ weights)


class Centred(NamedTuple):
    """Maps between values less their means, and these."""

    maps: Ridge
    centre: Float[Tensor, " d"]
    mean: Float[Tensor, " p"]
