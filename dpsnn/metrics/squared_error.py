"""How far a reconstruction is off, pixel by pixel: mean squared error, and the same in decibels."""

from jaxtyping import Float
from torch import Tensor

from dpsnn.metrics.base import Metric, Scored, Values
from dpsnn.tensors import Images


def mse(reconstructions: Images, images: Images) -> Float[Tensor, " n"]:
    """Mean squared error per image, in squared units of [0, 1]."""
    return (reconstructions - images).pow(2).flatten(1).mean(1)


def psnr(reconstructions: Images, images: Images) -> Float[Tensor, " n"]:
    """Peak signal-to-noise ratio per image in dB, for a peak of 1; at most 100, which stands for a perfect copy."""
    return -10 * mse(reconstructions, images).clamp(min=1e-10).log10()


class MSE(Metric):
    """Mean squared error, in squared units of [0, 1]."""

    key = "mse"
    column = "MSE"
    class_floor = "{}ClassFloor"
    label = "MSE (lower: leaks more)"
    short = "MSE"
    perfect = "0"
    leaks = "lower"
    digits = 4
    shown = True
    order = 10

    def values(self, seen: Scored) -> Values:
        return mse(seen.reconstructions, seen.images)


class PSNR(Metric):
    """Peak signal-to-noise ratio in dB."""

    key = "psnr"
    column = "PSNR"
    error = ""
    label = "PSNR in dB (higher: leaks more)"
    short = "PSNR"
    order = 20

    def values(self, seen: Scored) -> Values:
        return psnr(seen.reconstructions, seen.images)
