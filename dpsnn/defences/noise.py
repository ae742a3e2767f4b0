"""Additive noise on the wire, in training and at inference (Titcombe et al. 2021)."""

import torch

from dpsnn.defences.base import Defence, checked_strength
from dpsnn.tensors import Activation, Number, Smashed


class LaplaceNoise(Defence):
    """Add independent Laplace(0, scale) noise to every value; scale 0 is exactly the identity.

    Args:
        scale: b of the distribution; its standard deviation is √2·b.

    Raises:
        UsageError: If the scale is negative or not finite.
    """

    def __init__(self, scale: Number) -> None:
        super().__init__()
        self.scale = checked_strength(scale, "the noise scale")

    def forward(self, activation: Activation) -> Smashed:
        if self.scale == 0:
            return activation
        # The difference of two exponential variables has the Laplace distribution.
        noise = torch.empty_like(activation).exponential_()
        noise = noise.sub_(torch.empty_like(activation).exponential_())
        return activation + self.scale * noise

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


class GaussianNoise(Defence):
    """Add independent N(0, std²) noise to every value; std 0 is exactly the identity.

    Raises:
        UsageError: If std is negative or not finite.
    """

    def __init__(self, std: Number) -> None:
        super().__init__()
        self.std = checked_strength(std, "the standard deviation of the noise")

    def forward(self, activation: Activation) -> Smashed:
        if self.std == 0:
            return activation
        return activation + self.std * torch.randn_like(activation)

    def extra_repr(self) -> str:
        return f"std={self.std}"
