"""The published inversion of suppress-privacy (MindSpore Armour): a hundred steps of sign descent from noise.

After Mahendran & Vedaldi 2015 (arXiv 1412.0035), much simplified. Weak: see `feature_inversion` for a strong attacker.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dpsnn.attacks.base import (
    BLOCK,
    Attack,
    AttackModule,
    Knowledge,
    Need,
    WhiteBox,
    check_finite,
    progress_bar,
)
from dpsnn.parts import option
from dpsnn.tensors import Activation, Images, Number

WEIGHTS = (1.0, 0.1, 5.0)
"""Of the misfit, the variation and the square of the pixels."""

STEPS = 100
STEP_SIZE = 0.01


@dataclass(frozen=True, kw_only=True)
class PublishedInversion(Attack):
    """A hundred steps of sign descent from noise, as suppress-privacy was published with: weak, white-box."""

    key = "sign"
    order = 30
    since = 1
    needs = frozenset({Need.WEIGHTS, Need.TRANSMISSIONS})
    scored = 500

    steps: int | None = option(
        None,
        "steps (default: 100)",
        name="steps",
        least=1,
    )
    learning_rate: Number | None = option(
        None,
        "by which every pixel moves in a step (default: 0.01)",
        name="learning_rate",
        check="positive",
    )

    def build(self, knowledge: Knowledge, queries: int, seed: int) -> AttackModule:
        assert isinstance(knowledge, WhiteBox)
        return SignDescent(knowledge, self.steps or STEPS, self.learning_rate or STEP_SIZE)

    def columns(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return {"Steps": self.steps or STEPS}


def published_loss(
    features: Activation,
    wanted: Activation,
    images: Images,
    weights: tuple[Number, Number, Number] = WEIGHTS,
) -> Float[Tensor, " n"]:
    """w0·MSE(f(x), f*)/MSE(f*, 0) + w1·TV(x) + w2·mean x², for each image by itself.

    TV is the mean squared difference of vertical neighbours plus that of horizontal ones. (The authors' code adds the
    means of all rows, and of all columns: for images of H = W pixels H - 1 times as much.)
    """
    rows = (images[..., 1:, :] - images[..., :-1, :]).pow(2).flatten(1).mean(1)
    columns = (images[..., 1:] - images[..., :-1]).pow(2).flatten(1).mean(1)
    # Dead features, all zero, have no scale; the misfit is then taken as it is.
    scale = wanted.pow(2).flatten(1).mean(1)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    misfit = (features - wanted).pow(2).flatten(1).mean(1) / scale
    square = images.pow(2).flatten(1).mean(1)
    return weights[0] * misfit + weights[1] * (rows + columns) + weights[2] * square


def sign_descent(
    client: Callable[[Images], Activation],
    wanted: Activation,
    start: Images,
    steps: int = STEPS,
    step_size: Number = STEP_SIZE,
    weights: tuple[Number, Number, Number] = WEIGHTS,
    advance: Callable[[], None] = lambda: None,
) -> Images:
    """x ← clip(x - step_size·sign ∇loss, 0, 1); images do not touch one another, so a batch gives what single ones do.

    Raises:
        NotFinite: If the loss of an image, or its gradient, is no finite number.
    """
    images = start.clone()
    for step in range(steps):
        images.requires_grad_()
        loss = published_loss(client(images), wanted, images, weights)
        check_finite(loss, step)
        (gradient,) = torch.autograd.grad(loss.sum(), images)
        check_finite(gradient, step, "gradient")  # the sign of NaN is 0
        images = (images.detach() - step_size * gradient.sign()).clamp(0, 1)
        advance()
    return images


class SignDescent(AttackModule):
    """The published attacker: it knows no noise, averages what it hears, and has no images of its own.

    Args:
        knowledge: Weights of the client.
        steps: Steps of descent.
        step_size: By which every pixel moves in a step.
        start: The first guess is uniform in [0, start].
    """

    def __init__(
        self,
        knowledge: WhiteBox,
        steps: int = STEPS,
        step_size: Number = STEP_SIZE,
        start: Number = 0.05,
    ) -> None:
        super().__init__()
        self.knowledge = knowledge
        self.steps, self.step_size, self.start = steps, step_size, start

    def infer(self, heard: Float[Tensor, "q n *cut"]) -> Images:
        """Guess the images from several transmissions of each."""
        with torch.inference_mode(False), torch.enable_grad():
            blocks = heard.mean(0).split(BLOCK)
            shape = self.knowledge.surrogate.shape[1:]
            guesses = []
            with progress_bar("sign descent", len(blocks) * self.steps) as advance:
                for block in blocks:
                    wanted = block.clone()
                    start = self.start * torch.rand(len(wanted), *shape, device=wanted.device)
                    guesses.append(
                        sign_descent(
                            self.knowledge.client,
                            wanted,
                            start,
                            self.steps,
                            self.step_size,
                            advance=advance,
                        )
                    )
            return torch.cat(guesses)
