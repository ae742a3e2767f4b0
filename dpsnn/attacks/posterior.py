"""The most likely image near another attack's guess: maximum a posteriori, where that guess is the prior's mean.

The prior is Gaussian around the guess, of one width for all pixels, which is chosen on own images; the likelihood is
the mechanism's. Nothing else is learnt.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace as changed
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dpsnn.attacks.base import (
    Attack,
    AttackModule,
    Knowledge,
    Learn,
    Need,
    WhiteBox,
    check_finite,
    prepare_within,
    progress_bar,
)
from dpsnn.batches import to_unit
from dpsnn.errors import UsageError
from dpsnn.parts import find, option
from dpsnn.tensors import Images
from dpsnn.training import FULL, Fitted, seeded

AT_ONCE = 250
"""Images per block: fewer leave the processor idle, more leave its cache."""

OWN = 32
"""Own images on which the prior's width is chosen, and which the first attack does not know."""

WEIGHTS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0)
"""Of the mean squared distance to the guess, beside the misfit."""

RATE = 0.1
"""Adam's first step size, in logits of pixels."""

EDGE = 0.005
"""Where pixels start: at exactly 0 or 1 their logit has no end."""


@dataclass(frozen=True, kw_only=True)
class MaximumAPosteriori(Attack):
    """Descend from another attack's guess to the image nearby that best explains what was heard; white-box."""

    key = "map"
    order = 26
    learns = True

    first: str = option("decoder", "attack that gives the first guess, with its usual settings")
    steps: int = option(100, "steps of Adam", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first == self.key:
            raise UsageError("it cannot start from itself; name another attack as --map_first")
        self.method  # known

    @property
    def method(self) -> Attack:
        """The settings of the attack that guesses first."""
        made: Attack = find("attack", self.first)()
        return made

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.WEIGHTS, Need.QUERIES, Need.TRANSMISSIONS}) | self.method.needs

    @property
    def scored(self) -> int:  # type: ignore[override]
        return min(self.method.scored or 500, 500)

    def build(self, knowledge: Knowledge, queries: int, seed: int) -> AttackModule:
        assert isinstance(knowledge, WhiteBox)
        return Descent(
            knowledge,
            lambda known: self.method.build(known, queries, seed),
            self.steps,
            queries,
            seed,
        )


class Descent(AttackModule):
    """Descend on misfit + weight · ‖x - guess‖², the square a mean over pixels.

    Args:
        knowledge: The client with gradients, the likelihood of the mechanism, own images.
        make: The first attack, of some knowledge.
        steps: Steps of Adam.
        queries: Transmissions of each image that will be heard.
        seed: Of the choice of own images, and noise.
    """

    weight: Tensor

    def __init__(
        self,
        knowledge: WhiteBox,
        make: Callable[[Knowledge], AttackModule],
        steps: int = 100,
        queries: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.knowledge, self.make = knowledge, make
        self.steps, self.queries, self.seed = steps, queries, seed
        self.first = make(knowledge)
        self.register_buffer("weight", torch.ones(()))

    @property
    def at_once(self) -> int | None:  # type: ignore[override]
        """As many as the first attack takes."""
        return self.first.at_once

    def chosen(self) -> dict[str, Any]:
        return {"prior_weight": self.weight.item()}

    def prepare(self, learn: Learn) -> Fitted:
        """Prepare the first attack, and choose the width of the prior on own images that it does not know.

        Raises:
            NoLikelihood: If the mechanism has none.
            UsageError: If there are too few own images.
        """
        start = time.monotonic()
        own = self.knowledge.surrogate
        if len(own) < 4:
            raise UsageError(
                f"an attacker with {len(own)} images of its own cannot choose; it needs 4 or more"
            )
        with seeded(self.seed, 16):
            order = torch.randperm(len(own))
        count = min(OWN, len(own) // 4)
        known = changed(self.knowledge, surrogate=own[order[count:]])
        self.first = prepare_within(self.make(known), learn, "first guesses", self.weight.device)
        truth = to_unit(own[order[:count]]).to(self.weight.device)
        with torch.no_grad(), seeded(self.seed, 17):
            activation = self.knowledge.client(truth)
            heard = torch.stack([self.knowledge.defend(activation) for _ in range(self.queries)])
            guess = self.first.infer_in_parts(heard)
        # All weights in one descent, as no image meets another.
        each = torch.tensor(WEIGHTS, device=truth.device).repeat_interleave(count)
        times = len(WEIGHTS), *[1] * (truth.dim() - 1)
        everything = heard.repeat(1, *times[:1], *[1] * (heard.dim() - 2))
        found = self._descend(guess.repeat(times), everything, each)
        errors = (found.unflatten(0, (-1, count)) - truth).square().flatten(1).mean(1).tolist()
        self.weight.fill_(WEIGHTS[errors.index(min(errors))])
        return Fitted(0, min(errors), time.monotonic() - start, FULL)

    def infer(self, heard: Float[Tensor, "queries n *cut"]) -> Images:
        """The images at the end of the descents.

        Raises:
            NotFinite: If the objective of an image is no finite number.
        """
        with torch.no_grad():
            guesses = self.first.infer(heard)
        blocks = zip(guesses.split(AT_ONCE), heard.split(AT_ONCE, 1))
        return torch.cat([self._descend(*block, self.weight) for block in blocks])

    def _descend(self, guess: Tensor, heard: Tensor, weight: Tensor) -> Tensor:
        """Adam with a step size that decays to 0 along a cosine; the last images."""
        with torch.inference_mode(False), torch.enable_grad():
            # Tensors of inference mode take no part in a backward pass.
            guess, heard, weight = guess.clone(), heard.clone(), weight.clone()
            logits = guess.clamp(EDGE, 1 - EDGE).logit().requires_grad_()
            optimiser = torch.optim.Adam([logits], RATE, fused=True)
            with progress_bar("descending", self.steps) as advance:
                for step in range(self.steps):
                    rate = RATE * 0.5 * (1 + math.cos(math.pi * step / self.steps))
                    optimiser.param_groups[0]["lr"] = rate
                    images = logits.sigmoid()
                    values = self.knowledge.misfit(self.knowledge.client(images), heard)
                    values = values + weight * (images - guess).square().flatten(1).mean(1)
                    check_finite(values, step)
                    (logits.grad,) = torch.autograd.grad(values.sum(), logits)
                    optimiser.step()
                    advance()
            return logits.detach().sigmoid()
