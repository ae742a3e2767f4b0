"""Clip and add Gaussian noise: a guarantee for any network, also where nothing bounds what the client sends."""

from collections.abc import Sequence
from dataclasses import dataclass

from dpsnn.defences import densities
from dpsnn.defences.base import CutInfo, Defence, DefenceModule, checked_strength
from dpsnn.defences.mechanism import Step
from dpsnn.defences.noise import precision, with_gaussian
from dpsnn.defences.values import Clip
from dpsnn.errors import UsageError
from dpsnn.parts import option
from dpsnn.tensors import Activation, Number, Smashed


@dataclass(frozen=True, kw_only=True)
class ClippedGaussian(Defence):
    """Clip the activation to an L2 ball, then add Gaussian noise, in training and after it: (ε, δ) for any network."""

    key = "clip"
    heading = "clip and noise on the wire"
    label = "clipped, Gaussian"
    order = 70
    noisy = True

    std: Number = option(
        0.0, "standard deviation of Gaussian noise on the wire behind a clip to an L2 ball"
    )
    radius: Number = option(1.0, "radius of that ball", check="positive")

    @property
    def place(self) -> int:
        """Before other noise, which would have no likelihood once it is clipped."""
        return 5

    def build(self, cut: CutInfo) -> DefenceModule:
        return ClipGaussian(self.std, self.radius)


class ClipGaussian(DefenceModule):
    """Shrink the activation of each image into an L2 ball, then add independent N(0, std²) to every value.

    Two activations are then at most 2·radius apart, whatever the network: (ε, δ) is exactly that of the Gaussian curve
    (Balle & Wang 2018, arXiv 1805.06530) with this sensitivity, and does not grow with the number of values.

    Args:
        std: Standard deviation of the noise; 0 is exactly the identity, as a clip alone promises nothing.
        radius: Of the ball, above 0.

    Raises:
        UsageError: If one of the two is not finite or out of range.
    """

    def __init__(self, std: Number, radius: Number = 1.0) -> None:
        super().__init__()
        self.std = checked_strength(std, "the standard deviation of the noise behind the clip")
        self.clip = Clip(checked_strength(radius, "the radius of the clip"))
        if not radius:
            raise UsageError("the radius of the clip is 0; nothing but noise would be sent")

    def forward(self, activation: Activation) -> Smashed:
        if self.std == 0:
            return activation
        return with_gaussian(self.clip.apply(activation), self.std, precision(self))

    def mechanism(self) -> Sequence[Step]:
        return (self.clip, densities.Gaussian(self.std)) if self.std else ()

    def extra_repr(self) -> str:
        return f"std={self.std}, radius={self.clip.radius}"
