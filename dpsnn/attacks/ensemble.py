"""The average of several attackers, which is closer to the truth than each where they err in different ways."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpsnn.attacks.base import (
    Attack,
    AttackModule,
    Knowledge,
    Learn,
    Need,
    held_out,
    prepare_within,
)
from dpsnn.batches import to_unit
from dpsnn.errors import UsageError
from dpsnn.parts import find, option
from dpsnn.tensors import Inputs
from dpsnn.training import FULL, Fitted, seeded

MOST = 8
"""Members."""


@dataclass(frozen=True, kw_only=True)
class Ensemble(Attack):
    """Answer with the average of the guesses of several attacks, weighted as serves best on own images held out."""

    key = "ensemble"
    order = 45
    learns = True

    members: str = option(
        "decoder+mixture", "attacks, with + between, each with its usual settings"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        keys = self.members.split("+")
        if not 2 <= len(keys) <= MOST or len({*keys}) < len(keys) or self.key in keys:
            raise UsageError(
                f"ensemble_members is {self.members!r}; name 2 to {MOST} different other attacks, with + between"
            )
        self.methods  # known

    @property
    def methods(self) -> list[Attack]:
        """The settings of the members."""
        return [find("attack", key)() for key in self.members.split("+")]

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset[Need]().union(*(method.needs for method in self.methods))

    @property
    def scored(self) -> int | None:  # type: ignore[override]
        """As few images as any of them is."""
        return min((each.scored for each in self.methods if each.scored), default=None)

    def build(self, knowledge: Knowledge, queries: int, seed: int) -> AttackModule:
        return Average(knowledge, self.methods, queries, seed)


def best_weights(
    guesses: Float[Tensor, "m n *image"], truth: Float[Tensor, " n *image"]
) -> Float[Tensor, " m"]:
    """Weights from 0 that sum to 1 with which the average of m guesses has the least squared error, exactly.

    Of every choice of those that count at all the best is found by linear equations; it is the answer if none of its
    weights is below 0 and no other such choice has less error.
    """
    errors = (guesses - truth).flatten(1).double()
    products = errors @ errors.T / errors.shape[1]
    # Errors that are alike up to rounding leave the equations without one answer. In units of each: one that diverged
    # does not hide how the others differ.
    products += (1e-12 * products.diagonal() + 1e-300).diag()
    best, least = None, torch.inf
    for size in range(1, len(products) + 1):
        for some in combinations(range(len(products)), size):
            rows = torch.tensor(some)
            inverse = torch.linalg.solve(products[rows][:, rows], torch.ones(size).double())
            chosen = inverse / inverse.sum()
            error = float(chosen @ products[rows][:, rows] @ chosen)
            if bool((chosen >= 0).all()) and error < least:
                best, least = torch.zeros(len(products)).double(), error
                best[rows] = chosen
    assert best is not None, "each by itself is such a choice"
    return best.float()


class Average(AttackModule):
    """Prepare several attacks on most of the own images, and weigh them on the others.

    Args:
        knowledge: What all of them need.
        methods: Their settings.
        queries: Transmissions of each image that will be heard.
        seed: Of the members and of the images held out.
    """

    weights: Tensor

    def __init__(
        self, knowledge: Knowledge, methods: Sequence[Attack], queries: int = 1, seed: int = 0
    ) -> None:
        super().__init__()
        self.knowledge, self.methods = knowledge, methods
        self.queries, self.seed = queries, seed
        self.members = self._made(knowledge)
        self.register_buffer("weights", torch.full((len(methods),), 1 / len(methods)))

    def _made(self, known: Knowledge) -> nn.ModuleDict:
        return nn.ModuleDict(
            {method.key: method.build(known, self.queries, self.seed) for method in self.methods}
        )

    @property
    def at_once(self) -> int | None:  # type: ignore[override]
        """As many as all of them take."""
        each: list[Any] = [member.at_once for member in self.members.values()]
        return None if None in each else max(each)

    def chosen(self) -> dict[str, Any]:
        return {f"weight_{key}": w for key, w in zip(self.members, self.weights.tolist())}

    def prepare(self, learn: Learn) -> Fitted:
        """Prepare each member, and weigh their guesses of own images that none of them was prepared on."""
        start = time.monotonic()
        own = self.knowledge.surrogate
        if len(own) < 4:
            raise UsageError(
                f"an ensemble with {len(own)} images of its own cannot learn; it needs 4 or more"
            )
        rest, out = held_out(len(own), self.seed)
        self.members = self._made(changed(self.knowledge, surrogate=own[rest]))
        for key, member in self.members.items():
            assert isinstance(member, AttackModule)
            prepare_within(member, learn, f"a member: {key}", self.weights.device)
        truth = to_unit(own[out])
        with torch.no_grad(), seeded(self.seed, 15):
            activation = self.knowledge.activations[out].to(self.weights.device)
            heard = torch.stack([self.knowledge.defend(activation) for _ in range(self.queries)])
            guesses = self._guesses(heard).cpu()
        self.weights.copy_(best_weights(guesses, truth))
        mean = torch.tensordot(self.weights.cpu(), guesses, 1)
        error = (mean - truth).square().mean().item()
        return Fitted(0, error, time.monotonic() - start, FULL)

    @torch.no_grad()
    def infer(self, heard: Float[Tensor, "queries n *cut"]) -> Inputs:
        """The weighted average of the guesses of all members."""
        return torch.tensordot(self.weights, self._guesses(heard), 1)

    def _guesses(self, heard: Tensor) -> Tensor:
        members: list[Any] = [*self.members.values()]
        return torch.stack([member.infer_in_parts(heard) for member in members])
