"""Clip every value and add Laplace noise: a guarantee without any δ for any network."""

from collections.abc import Sequence
from dataclasses import dataclass

from dpsnn.defences.base import CutInfo, Defence, DefenceModule, checked_strength
from dpsnn.defences.mechanism import Step
from dpsnn.defences.noise import LaplaceNoise
from dpsnn.defences.values import Clamp
from dpsnn.errors import UsageError
from dpsnn.parts import option
from dpsnn.tensors import Activation, Number, Smashed


@dataclass(frozen=True, kw_only=True)
class ClampedLaplace(Defence):
    """Clip every value to [-r, r], then add Laplace noise, in training and after it: ε for any network."""

    key = "clamp"
    heading = "clip and noise on the wire"
    label = "clamped, Laplace"
    order = 75
    noisy = True

    scale: Number = option(
        0.0, "scale b of Laplace noise on the wire behind a clip of every value by itself"
    )
    radius: Number = option(1.0, "largest absolute value that is left", check="positive")

    @property
    def place(self) -> int:
        """Before other noise, which would have no likelihood once it is clipped."""
        return 6

    def build(self, cut: CutInfo) -> DefenceModule:
        return ClampLaplace(self.scale, self.radius)


class ClampLaplace(DefenceModule):
    """Clip every value to [-radius, radius], an L∞ ball, then add independent Laplace(0, scale) to each.

    The L1 distance of two activations is then at most 2·radius·values, whatever the network, and ε that over the scale
    (Dwork et al. 2006). Laplace noise is worth the more the fewer values there are; of many, `clip` costs less.

    Args:
        scale: Of the noise; 0 is exactly the identity, as a clip alone promises nothing.
        radius: Of the ball, above 0.

    Raises:
        UsageError: If one of the two is not finite or out of range.
    """

    def __init__(self, scale: Number, radius: Number = 1.0) -> None:
        super().__init__()
        self.noise = LaplaceNoise(scale)
        self.clamp = Clamp(checked_strength(radius, "the radius of the clamp"))
        if not radius:
            raise UsageError("the radius of the clamp is 0; nothing but noise would be sent")

    def forward(self, activation: Activation) -> Smashed:
        if self.noise.scale == 0:
            return activation
        return self.noise(self.clamp.apply(activation))

    def mechanism(self) -> Sequence[Step]:
        return (self.clamp, *self.noise.mechanism()) if self.noise.scale else ()

    def extra_repr(self) -> str:
        return f"radius={self.clamp.radius}"
