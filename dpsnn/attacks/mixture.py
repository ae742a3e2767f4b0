"""The posterior mean: own images, each with the weight with which it explains what crossed the wire.

Nothing is trained. Of all guesses the mean of the images given what was heard has the least squared error, and by
Bayes' rule it is Σ x p(heard | x) / Σ p(heard | x) over the images x of the population: with own images for these it is
exact as they grow in number. Few of them are too far apart, so that one takes all the weight; more are made by moving
them, and the likelihood is tempered to p^t.
"""

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dpsnn.attacks.base import (
    BLOCK,
    Attack,
    AttackModule,
    Insider,
    Knowledge,
    Need,
    check_finite,
    held_out,
)
from dpsnn.batches import to_unit
from dpsnn.errors import NoLikelihood
from dpsnn.networks.augment import Move, moved, pictures
from dpsnn.parts import option
from dpsnn.signals import check
from dpsnn.tensors import Inputs, Number

AT_ONCE = 1000
"""Own images that meet what was heard at a time."""

AT_MOST = 300
"""So many own images held out decide on temperature and moves; beyond it the choice no longer gets better."""

WORTH = 0.01
"""By how much more images must lower the error: each costs as much as an own one."""

STAYING = (Move(),)
TURNED = tuple(Move(turn=turn) for turn in (0.0, -8.0, 8.0))
SHIFTED = tuple(
    Move(right, down, turn)
    for right, down in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
    for _, _, turn in TURNED
)

MOVES: tuple[tuple[Move, ...], ...] = (STAYING, TURNED, SHIFTED)
"""What may be made of each own image: only itself; turned both ways as well; and all these one pixel along each axis.

Turns serve better than shifts: at Laplace noise 1 the fifteen leave .0249 on MNIST, nine shifts .0260, the image .0293.
"""


@dataclass(frozen=True, kw_only=True)
class LikelihoodMixture(Attack):
    """Answer with the mean of the own images, moved a little, weighted by how well each explains what was heard."""

    key = "mixture"
    order = 30
    needs = frozenset({Need.QUERIES, Need.DENSITY, Need.TRANSMISSIONS})

    temper: Number | None = option(
        None,
        "power of the likelihood; 1 is Bayes' rule (default: chosen on own images)",
        check="positive",
    )

    def build(self, knowledge: Knowledge, queries: int, seed: int) -> AttackModule:
        assert isinstance(knowledge, Insider)
        return Mixture(knowledge, self.temper, queries, seed)


def posterior_means(
    blocks: Iterable[tuple[Float[Tensor, " m *image"], Float[Tensor, "n m"]]],
    tempers: Sequence[float],
) -> Float[Tensor, "t n *image"]:
    """Σ x e^(-t·u) / Σ e^(-t·u) for each power t, image by image as they come.

    Args:
        blocks: Some of the images x, and how badly each explains what was heard of each of n, in nats.
        tempers: The powers.
    """
    highest, totals, sums = torch.tensor(-torch.inf), torch.zeros(()), torch.zeros(())
    shape: Sequence[int] = ()
    for images, unexplained in blocks:
        shape = images.shape[1:]
        scores = -unexplained.new_tensor(tempers).view(-1, 1, 1) * unexplained
        top = torch.maximum(scores.amax(2, keepdim=True), highest)
        fade = (highest - top).exp()
        weights = scores.sub_(top).exp_()
        totals = totals * fade + weights.sum(2, keepdim=True)
        sums = sums * fade + weights @ images.flatten(1)
        highest = top
    return (sums / totals).unflatten(2, shape)


class Mixture(AttackModule):
    """Mix own images by their likelihood.

    Args:
        knowledge: The client as an oracle, the density of the mechanism, own images.
        temper: Power of the likelihood; None: that which serves best on own images held out.
        queries: Transmissions of each image that will be heard.
        seed: Of the choice of own images held out.
    """

    own: Tensor
    temper: Tensor
    moves: Tensor

    def __init__(
        self, knowledge: Insider, temper: Number | None = None, queries: int = 1, seed: int = 0
    ) -> None:
        super().__init__()
        self.knowledge = knowledge
        self.wanted, self.queries, self.seed = temper, queries, seed
        self.blind = ""
        """Why the mechanism has no likelihood, once that is found."""
        self.register_buffer("own", knowledge.surrogate.clone())
        self.register_buffer("temper", torch.tensor(temper or 1.0))
        self.register_buffer("moves", torch.tensor(0))

    def chosen(self) -> dict[str, Any]:
        return {"temper": self.temper.item(), "moves": len(MOVES[int(self.moves)])}

    @torch.no_grad()
    def fit(self) -> float | None:
        """Hear some of the own images, and choose with what the others come closest to them."""
        if len(self.own) < 2:
            return None
        rest, out = held_out(len(self.own), self.seed)
        truth, known = to_unit(self.own[out[:AT_MOST]]), self.own[rest]
        activation = torch.cat([self.knowledge.client(block) for block in truth.split(BLOCK)])
        heard = torch.stack([self.knowledge.defend(activation) for _ in range(self.queries)])
        tempers, least = self._tempers(known, heard), math.inf
        for choice, moves in enumerate(MOVES if pictures(self.own) else MOVES[:1]):
            means = posterior_means(self._explained(known, moves, heard), tempers)
            errors = (means - truth).pow(2).flatten(1).mean(1).tolist()
            if min(errors) > (1 - WORTH) * least:
                break
            least, best = min(errors), errors.index(min(errors))
            self.moves.fill_(choice)
            self.temper.fill_(tempers[best])
            # More images stand closer together, and the power rises or stays about the same.
            tempers = tempers[max(0, best - 2) : best + 3]
        return least

    def _tempers(self, known: Tensor, heard: Tensor) -> list[float]:
        """Powers worth trying, in order: up to 1, and, without noise, until the nearest image counts alone."""
        if self.wanted is not None:
            return [self.wanted]
        blocks = [unexplained for _, unexplained in self._explained(known, STAYING, heard)]
        unexplained = torch.cat(blocks, 1)
        spread = (unexplained.median(1).values - unexplained.amin(1)).median().item()
        usual = [2 ** (-step / 3) for step in range(18)]
        return sorted(usual + ([2.0**step / spread for step in range(12)] if spread > 0 else []))

    @torch.no_grad()
    def infer(self, heard: Float[Tensor, "queries n *cut"]) -> Inputs:
        """The posterior mean of each image.

        Raises:
            NotFinite: If what was heard holds infinity or NaN, which nothing explains.
        """
        check_finite(heard.flatten(2).sum(2).sum(0), what="smashed tensor")
        blocks = self._explained(self.own, MOVES[int(self.moves)], heard)
        return posterior_means(blocks, [self.temper.item()])[0].clamp(0, 1)

    def _explained(
        self, own: Tensor, moves: Iterable[Move], heard: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images, and how badly each explains what was heard of each."""
        for move in moves:
            for block in own.split(AT_ONCE):
                check()
                images = to_unit(block)
                images = moved(images, move) if images.dim() == 4 else images
                activations = [self.knowledge.client(some) for some in images.split(BLOCK)]
                yield images, self._unexplained(torch.cat(activations).to(heard.device), heard)

    def _unexplained(self, known: Tensor, heard: Tensor) -> Tensor:
        """By the mechanism; by squares, where it has no likelihood."""
        if not self.blind:
            assert self.knowledge.pairwise is not None
            try:
                return self.knowledge.pairwise(known, heard)
            except NoLikelihood as reason:
                self.blind = str(reason)
                print(f"mixture: {reason}; plain squares are taken instead", file=sys.stderr)
        distances = torch.cdist(heard.mean(0).flatten(1), known.flatten(1))
        return len(heard) * distances.pow(2) / 2
