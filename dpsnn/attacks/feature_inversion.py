"""The strong white-box attack: find the image that explains what crossed the wire, by gradient descent.

After Mahendran & Vedaldi 2015 (arXiv 1412.0035): a misfit, a bounded norm and total variation. Beyond them: the
likelihood of the noise that was really added, Adam with a cosine decay, weights tuned on the attacker's own images, and
several starts, of which each image keeps the one that ends lowest.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dpsnn.attacks.base import (
    Attack,
    AttackModule,
    Knowledge,
    Need,
    WhiteBox,
    check_finite,
    progress_bar,
)
from dpsnn.batches import derived_seed, to_unit
from dpsnn.errors import NoLikelihood, one_of
from dpsnn.metrics import relative_misfit
from dpsnn.parts import option
from dpsnn.tensors import Images, Number

STEPS = 500
RESTARTS = 2

AT_ONCE = 250
"""Images per block: fewer leave the processor idle, more leave its cache."""

BOXES = ("sigmoid", "projection")

RATES = {"sigmoid": 0.1, "projection": 0.03}
"""Adam's first step size, in logits or in pixels."""

OWN = 32
"""Own images on which the weights of the prior are tuned."""

VARIATIONS = (0.0, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)
SQUARES = (0.0, 1e-2, 0.1, 1.0, 10.0)
"""Weights that are tried."""

EDGE = 0.02
"""Where a sigmoid starts from: at exactly 0 or 1 it has no gradient."""


@dataclass(frozen=True, kw_only=True)
class Inversion(Attack):
    """Find by gradients the image that explains what crossed the wire, whatever noise was added: strong, white-box."""

    key = "inversion"
    order = 20
    since = 1
    needs = frozenset({Need.WEIGHTS, Need.TRANSMISSIONS})
    scored = 500

    naive: bool = option(
        False, "take what crossed the wire for the activation, ignoring the noise", name="naive"
    )
    steps: int | None = option(
        None,
        "steps from each start (default: 500)",
        name="steps",
        least=1,
    )
    restarts: int | None = option(
        None, "starts of an inversion, the best of which counts [2]", name="restarts", least=1
    )
    learning_rate: Number | None = option(
        None,
        "first step size, in logits of pixels (default: 0.1)",
        name="learning_rate",
        check="positive",
    )

    def build(self, knowledge: Knowledge, queries: int, seed: int) -> AttackModule:
        assert isinstance(knowledge, WhiteBox)
        return FeatureInversion(
            knowledge,
            self.steps or STEPS,
            self.restarts or RESTARTS,
            self.learning_rate,
            naive=self.naive,
            queries=queries,
            seed=seed,
        )

    def columns(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return {"Steps": self.steps or STEPS, "Restarts": self.restarts or RESTARTS}


def total_variation(images: Images) -> Float[Tensor, " n"]:
    """Anisotropic total variation per pixel: Σ|x(i+1, j) - x(i, j)| + Σ|x(i, j+1) - x(i, j)|, over C·H·W.

    Mahendran & Vedaldi's equation 3 with β = 1, and with absolute values for the root of the two squares.
    """
    rows = (images[..., 1:, :] - images[..., :-1, :]).abs().flatten(1).sum(1)
    columns = (images[..., 1:] - images[..., :-1]).abs().flatten(1).sum(1)
    return (rows + columns) / images[0].numel()


def squared_norm(
    images: Images, centre: Float[Tensor, "c h w"] | Float[Tensor, "n c h w"]
) -> Float[Tensor, " n"]:
    """Mean squared distance to the mean image: their norm with α = 2, for images that have their mean taken off."""
    return (images - centre).pow(2).flatten(1).mean(1)


class Prior(NamedTuple):
    """Weights beside the misfit, for all images or `(N,)`, one for each."""

    variation: Number | Float[Tensor, " n"]
    square: Number | Float[Tensor, " n"]


def _used(weight: Number | Tensor) -> bool:
    return isinstance(weight, Tensor) or weight != 0


class Found(NamedTuple):
    """What a descent ended with."""

    images: Images
    values: Float[Tensor, " n"]
    """The objective of each."""


def descend(
    objective: Callable[[Images], Tensor],
    start: Images,
    steps: int,
    rate: Number,
    box: str = "sigmoid",
    advance: Callable[[], None] = lambda: None,
) -> Found:
    """Adam with a step size that decays to 0 along a cosine, within [0, 1].

    The sum over images is minimised. Adam scales every pixel by itself, so an image goes the same way in any company.

    Args:
        objective: Images → one value each, which no other image changes.
        start: First guesses, `(N, C, H, W)` in [0, 1].
        steps: Steps of Adam.
        rate: First step size: in logits for a `sigmoid`, in pixels for a `projection`.
        box: `sigmoid`, where pixels are sigmoids of what is moved, or `projection`, where they are clipped.
        advance: Called after every step.

    Raises:
        NotFinite: If the objective of an image is no finite number.
    """
    one_of(box, BOXES, "box")
    bounded = box == "sigmoid"
    free = start.clamp(EDGE, 1 - EDGE).logit() if bounded else start.clone()
    free.requires_grad_()
    optimiser = torch.optim.Adam([free], float(rate), fused=True)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        values = objective(free.sigmoid() if bounded else free)
        check_finite(values, step)
        (free.grad,) = torch.autograd.grad(values.sum(), free)
        optimiser.step()
        if not bounded:
            with torch.no_grad():
                free.clamp_(0, 1)
        advance()
    with torch.no_grad():
        images = free.sigmoid() if bounded else free.detach()
        values = objective(images)
        check_finite(values, steps)
    return Found(images, values)


def lowest(found: Sequence[Found]) -> Found:
    """For each image the end with the lowest objective, the first of equal ones."""
    values = torch.stack([end.values for end in found])
    best = values.argmin(0)
    pictures = torch.stack([end.images for end in found])
    each = torch.arange(len(best), device=best.device)
    return Found(pictures[best, each], values[best, each])


class FeatureInversion(AttackModule):
    """Invert images of any cut of any network, under any noise on the wire.

    Args:
        knowledge: Weights of the client, likelihood of the mechanism, own images.
        steps: Steps from each start.
        restarts: Starts: the mean of the own images, then single ones of them.
        rate: Adam's first step size; None: 0.1 logits or 0.03 pixels.
        box: How pixels are kept in [0, 1]: `sigmoid` or `projection`.
        naive: Whether to take what crossed the wire for the activation itself, whatever noise there is.
        queries: Transmissions of each image that will be heard.
        seed: Of the choice of own images.
    """

    weights: Tensor
    starts: Tensor

    def __init__(
        self,
        knowledge: WhiteBox,
        steps: int = STEPS,
        restarts: int = RESTARTS,
        rate: Number | None = None,
        box: str = "sigmoid",
        naive: bool = False,
        queries: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.knowledge = knowledge
        self.steps, self.restarts, self.box = steps, restarts, box
        self.rate = RATES[box] if rate is None else rate
        self.naive, self.queries, self.seed = naive, queries, seed
        self.blind = ""
        """Why the mechanism has no likelihood, once that is found."""
        self.register_buffer("weights", torch.zeros(2))
        self.register_buffer("starts", torch.zeros(restarts, *knowledge.surrogate.shape[1:]))

    @property
    def prior(self) -> Prior:
        return Prior(*self.weights.tolist())

    def fit(self) -> float:
        """Choose the starts and tune the prior: first the variation, then the square, by the error on own images."""
        own = self.knowledge.surrogate
        generator = torch.Generator().manual_seed(derived_seed(self.seed, 6))
        order = torch.randperm(len(own), generator=generator)
        # The images that starts are made of would be too easy to find.
        chosen = (torch.arange(self.restarts - 1) % len(own)).tolist()
        mean = to_unit(own).mean(0, keepdim=True)
        self.starts.copy_(torch.cat([mean, *(to_unit(own[order[i : i + 1]]) for i in chosen)]))
        rest = order[self.restarts - 1 :] if len(own) >= 2 * self.restarts else order
        images = to_unit(own[rest[:OWN]]).to(self.starts.device)
        with torch.no_grad():
            activation = self.knowledge.client(images)
            heard = torch.stack([self.knowledge.defend(activation) for _ in range(self.queries)])
        steps = max(1, self.steps // 2)
        with progress_bar("tuning the prior", 2 * steps) as advance:

            def errors(priors: Sequence[Prior]) -> dict[Prior, float]:
                """All tried in one descent: no image meets another, and a few at a time leave the processor idle."""
                count, tried = len(images), len(priors)
                each = torch.tensor(priors, device=images.device).repeat_interleave(count, 0)
                everything = heard.repeat(1, tried, *[1] * (heard.dim() - 2))
                prior = Prior(each[:, 0], each[:, 1])
                guesses = self._descend(everything, self.starts[:1], prior, steps, advance).images
                wrong = (guesses.unflatten(0, (tried, count)) - images).pow(2).flatten(1).mean(1)
                return dict(zip(priors, wrong.tolist()))

            tried = errors([Prior(weight, 0.0) for weight in VARIATIONS])
            variation = min(tried, key=lambda prior: tried[prior]).variation
            # Without a square it is known already.
            tried |= errors([Prior(variation, weight) for weight in SQUARES if weight])
        self.weights.copy_(torch.tensor(min(tried, key=lambda prior: tried[prior])))
        return min(tried.values())

    def infer(self, heard: Float[Tensor, "q n *cut"]) -> Images:
        """Guess the images from several transmissions of each.

        Raises:
            NotFinite: If the objective of an image is no finite number.
        """
        blocks = heard.split(AT_ONCE, dim=1)
        total = len(blocks) * self.restarts * self.steps
        guesses = []
        with progress_bar("inverting", total) as advance:
            for block in blocks:
                found = self._descend(block, self.starts, self.prior, self.steps, advance)
                guesses.append(found.images)
        return torch.cat(guesses)

    def _misfit(self, activation: Tensor, heard: Tensor) -> Tensor:
        """By the mechanism; by squares, where the attacker is naive or the mechanism has no likelihood."""
        if not self.naive and not self.blind:
            try:
                return self.knowledge.misfit(activation, heard)
            except NoLikelihood as reason:
                self.blind = str(reason)
                print(f"inversion: {reason}; plain squares are taken instead", file=sys.stderr)
        return relative_misfit(activation, heard)

    def _descend(
        self,
        heard: Tensor,
        starts: Tensor,
        prior: Prior,
        steps: int,
        advance: Callable[[], None],
    ) -> Found:
        """The best of several descents, for each image."""
        with torch.inference_mode(False), torch.enable_grad():
            # Tensors of inference mode take no part in a backward pass.
            heard, centre = heard.clone(), self.starts[0].clone()

            def objective(images: Images) -> Tensor:
                value = self._misfit(self.knowledge.client(images), heard)
                if _used(prior.variation):
                    value = value + prior.variation * total_variation(images)
                if _used(prior.square):
                    value = value + prior.square * squared_norm(images, centre)
                return value

            count = heard.shape[1]
            return lowest(
                [
                    descend(
                        objective,
                        start.expand(count, -1, -1, -1).clone(),
                        steps,
                        self.rate,
                        self.box,
                        advance,
                    )
                    for start in starts
                ]
            )
