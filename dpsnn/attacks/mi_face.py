"""MI-FACE (Fredrikson, Jha & Ristenpart, CCS 2015): rebuild the picture of a class from a classifier that knows it.

Gradient descent on the picture until the classifier is sure of it. What comes out is no single training image but what
the classifier takes for typical of the class; for a classifier of people, one person's face.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dpsnn.attacks.base import Need, WhiteBox, check_finite
from dpsnn.errors import UsageError
from dpsnn.networks.faces import smooth
from dpsnn.signals import check
from dpsnn.tensors import Labels, Logits, Number

Classify = Callable[[Tensor], Tensor]
"""Pictures `(N, C, H, W)` → logits `(N, classes)`, row by row."""


class Inversion(NamedTuple):
    """What came of the attack, a row for each target."""

    images: Float[Tensor, "n c h w"]
    """The best picture seen."""
    cost: Float[Tensor, " n"]
    """Its cost."""
    confidence: Float[Tensor, " n"]
    """The classifier's probability of the target class for it, in [0, 1]."""
    iterations: Int[Tensor, " n"]
    """Steps taken until a stopping rule held."""


# ---------------------------------------------------------------- priors


def total_variation(images: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """Mean absolute difference of neighbouring pixels, down and across: small for smooth pictures."""
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().flatten(1).mean(1)
    across = (images[..., :, 1:] - images[..., :, :-1]).abs().flatten(1).mean(1)
    return down + across


# ---------------------------------------------------------------- the attack


@dataclass(frozen=True, kw_only=True)
class MIFace:
    """Algorithm 1 of the paper, for all target classes at once; each row stops by itself.

    The cost of a picture x for class y is c(x) = 1 - p_y(x) + `tv_weight` · TV(x). From x₀ = `start` everywhere each
    step is x ← Process(x - λ ∇c(x)), where Process calls `process` and clips to `box`. With `smoothing` the gradient is
    blurred first; pictures themselves would melt under a blur in each of a thousand steps. A row stops when its cost is
    not below the highest of its last β costs, when the classifier's confidence has reached `confidence`, or after α
    steps. The paper prints the second rule as a threshold γ = .99 on the cost, which would stop at a confidence of .01;
    here it is one on the confidence. Defaults are the paper's, for pixels in [-1, 1].

    The attacker holds the model (or may ask it for gradients) and knows the names of its classes; no image is needed.

    Raises:
        UsageError: If a value is out of range.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.WEIGHTS, Need.SERVER, Need.LABELS})

    step_size: Number = 0.1
    """λ; in units of `box`."""
    iterations: int = 5000
    """α."""
    patience: int = 100
    """β."""
    confidence: Number = 0.99
    start: Number = 0.0
    box: tuple[Number, Number] | None = (-1.0, 1.0)
    """Range of pixels that the model takes; None leaves them free."""
    tv_weight: Number = 0.0
    smoothing: Number = 0.0
    """Standard deviation of the blur, in pixels; 0 is none."""
    process: Callable[[Tensor], Tensor] | None = field(default=None, compare=False)
    """Any denoising of pictures before they are clipped (the paper denoises and sharpens)."""

    def __post_init__(self) -> None:
        for name, least in (("step_size", 0), ("iterations", 1), ("patience", 1)):
            if not getattr(self, name) >= least:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be {least} or more")
        for name in ("tv_weight", "smoothing"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if self.box is not None and not self.box[0] < self.box[1]:
            raise UsageError(f"box is {self.box}; its first value must be below the second")

    def rebuild(self, knowledge: WhiteBox, people: Labels | None = None) -> Inversion:
        """Rebuild a picture in [0, 1] of each class of a target, through whatever noise there is on its wire.

        Args:
            knowledge: Of a target that takes pictures in [0, 1]; the attack works in [-1, 1], the units of λ.
            people: Classes to rebuild; by default all.
        """
        server = knowledge.server
        assert server is not None and knowledge.labels is not None, "it needs both"

        model = Centred(lambda images: server(knowledge.defend(knowledge.client(images))))
        channels, height, width = knowledge.image_shape
        found = self.invert(
            model, knowledge.labels if people is None else people, (channels, height, width)
        )
        return found._replace(images=((found.images + 1) / 2).clamp(0, 1))

    def invert(
        self,
        model: nn.Module | Classify,
        targets: Labels,
        image_shape: tuple[int, int, int],
        logits: bool = True,
    ) -> Inversion:
        """Rebuild one picture for each target class.

        Args:
            model: Pictures in units of `box` → logits; a module is in evaluation mode meanwhile, and its weights
                collect no gradients.
            targets: Classes `(N,)` from 0.
            image_shape: `(C, H, W)` of a picture.
            logits: False where the model gives probabilities already.

        Raises:
            UsageError: If the model gives no value for one of the classes.
            NotFinite: If the cost of a picture, or its gradient, is no finite number.
        """
        modules = list(model.modules()) if isinstance(model, nn.Module) else []
        modes = [module.training for module in modules]
        for module in modules:
            module.training = False
        try:
            return self._invert(model, targets, image_shape, logits)
        finally:
            for module, mode in zip(modules, modes):
                module.training = mode

    def _invert(
        self, model: Classify, targets: Tensor, image_shape: tuple[int, int, int], logits: bool
    ) -> Inversion:
        count, device = len(targets), targets.device
        best = torch.full((count, *image_shape), float(self.start), device=device)
        best_cost = torch.full((count,), torch.inf, device=device)
        sure = torch.zeros(count, device=device)
        steps = torch.zeros(count, dtype=torch.long, device=device)
        # Costs of the last β iterates, round and round; those before the first are infinite, so that none stops early.
        recent = torch.full((count, self.patience), torch.inf, device=device)

        # Rows that go on: where they stand, and which they are.
        images, rows = best.clone(), torch.arange(count, device=device)
        for step in range(self.iterations + 1):
            check()
            gradient, cost, probability = self.gradient(model, images, targets[rows], logits)
            for what, values in (("cost", cost), ("gradient", gradient)):
                check_finite(values, step, what, "the model gives such values; mend or replace it")
            better = cost < best_cost[rows]
            if len(rows) == count and better.all():
                # The usual case needs no copies: every iterate is a tensor of its own.
                best, best_cost, sure = images, cost, probability
            else:
                won = rows[better]
                best[won], best_cost[won] = images[better], cost[better]
                sure[won] = probability[better]
            steps[rows] = step
            stalled = cost >= recent[rows].amax(1)
            recent[rows, step % self.patience] = cost
            on = ~(stalled | (probability >= self.confidence))
            if step == self.iterations or not on.any():
                break
            if not on.all():
                images, gradient, rows = images[on], gradient[on], rows[on]
            step_taken = smooth(gradient, self.smoothing)
            images = self._processed(torch.sub(images, step_taken, alpha=self.step_size))
        return Inversion(best, best_cost, sure, steps)

    def gradient(
        self, model: Classify, images: Tensor, targets: Labels, logits: bool = True
    ) -> tuple[Tensor, Float[Tensor, " n"], Float[Tensor, " n"]]:
        """∇c at each picture, the cost c there, and the probability p_y of the target class."""
        with torch.enable_grad():
            images = images.detach().requires_grad_()
            scores = model(images)
            if scores.dim() != 2 or not 0 <= targets.min() <= targets.max() < scores.shape[1]:
                raise UsageError(
                    f"the model gives scores of shape {tuple(scores.shape)}; the targets {targets.min()} to"
                    f" {targets.max()} must be classes of theirs"
                )
            probabilities = scores.float().softmax(1) if logits else scores.float()
            probability = probabilities.gather(1, targets.unsqueeze(1)).squeeze(1)
            cost = 1 - probability
            if self.tv_weight:
                cost = cost + self.tv_weight * total_variation(images)
            # A model that gives the same for every picture has no gradient at all.
            gradient = torch.zeros_like(images)
            if cost.requires_grad:
                (found,) = torch.autograd.grad(cost.sum(), images, allow_unused=True)
                gradient = gradient if found is None else found
        return gradient, cost.detach(), probability.detach()

    def _processed(self, images: Tensor) -> Tensor:
        if self.process is not None:
            images = self.process(images)
        return images if self.box is None else images.clamp(*self.box)


class Centred(nn.Module):
    """A classifier of pictures in [0, 1] as one of pictures in [-1, 1], the units in which λ is stated."""

    def __init__(self, model: nn.Module | Classify) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Float[Tensor, "n c h w"]) -> Logits:
        return self.model((images + 1) * 0.5)
