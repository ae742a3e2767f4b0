"""Additive noise on the wire, in training and at inference (Titcombe et al. 2021)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dpsnn.defences import densities
from dpsnn.defences.base import CutInfo, Defence, DefenceModule, checked_strength
from dpsnn.defences.mechanism import Step
from dpsnn.parts import option
from dpsnn.tensors import Activation, Number, Smashed


@dataclass(frozen=True, kw_only=True)
class Laplace(Defence):
    """Laplace noise on the wire, in training and after it (Titcombe et al. 2021, arXiv 2104.05743)."""

    key = "noise"
    heading = "noise on the wire"
    order = 10
    since = 1
    noisy = True
    always = True

    scale: Number = option(
        0.0,
        "scale b of the Laplace(0, b) noise added to what crosses the wire",
        after="model_noise",
    )

    def build(self, cut: CutInfo) -> DefenceModule:
        return LaplaceNoise(self.scale)


@dataclass(frozen=True, kw_only=True)
class Gaussian(Defence):
    """Gaussian noise on the wire, in training and after it."""

    key = "gaussian"
    heading = "noise on the wire"
    label = "Gaussian noise"
    order = 20
    since = 1
    noisy = True
    tabled = True

    std: Number = option(0.0, "standard deviation of Gaussian noise on the wire")

    def build(self, cut: CutInfo) -> DefenceModule:
        return GaussianNoise(self.std)


def precision(module: DefenceModule) -> torch.dtype:
    """In which a module draws and adds its noise, before the sum is rounded to what is sent.

    Single precision gives noise away: a draw is one of 2²⁴ numbers, and what is sent less the true activation always is
    one of them, less a wrong one seldom (Mironov 2012, doi 10.1145/2382196.2382264; tests/test_lattice.py). The sum in
    double precision may become any number that can be sent. In training, where nothing is promised, time counts more.
    """
    return torch.float32 if module.training else torch.float64


class LaplaceNoise(DefenceModule):
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
        # Inverse of the distribution function, from U(-1/2, 1/2): eight times faster than two exponential draws. The
        # lowest draw is moved by half a step, or its logarithm would be infinite.
        drawn = precision(self)
        uniform = torch.rand(activation.shape, dtype=drawn, device=activation.device) - 0.5
        uniform.clamp_(min=torch.finfo(drawn).eps / 4 - 0.5)
        noise = torch.copysign(torch.log1p(uniform.abs().mul_(-2)), uniform)
        return (activation.to(drawn) + self.scale * noise).to(activation.dtype)

    def mechanism(self) -> Sequence[Step]:
        return (densities.Laplace(self.scale),) if self.scale else ()

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


class GaussianNoise(DefenceModule):
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
        return with_gaussian(activation, self.std, precision(self))

    def mechanism(self) -> Sequence[Step]:
        return (densities.Gaussian(self.std),) if self.std else ()

    def extra_repr(self) -> str:
        return f"std={self.std}"


def with_gaussian(activation: Activation, std: Number, drawn: torch.dtype) -> Smashed:
    """An activation with N(0, std²) added to every value, drawn and added in this precision."""
    noise = torch.randn(activation.shape, dtype=drawn, device=activation.device)
    return (activation.to(drawn) + std * noise).to(activation.dtype)
