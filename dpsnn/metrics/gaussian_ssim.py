"""Structural similarity where its window fits: what scikit-image computes, and most published values are."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dpsnn.metrics.base import Metric, Scored, Values
from dpsnn.tensors import Images

RADIUS, WIDTH = 5, 1.5
"""Of the window, in pixels: 11×11, a Gaussian."""

C1, C2 = 0.01**2, 0.03**2
"""What keeps the quotients finite, for values in [0, 1]."""


def gaussian_ssim(reconstructions: Images, images: Images) -> Float[Tensor, " n"]:
    """Wang, Bovik, Sheikh & Simoncelli 2004, equation 13, the mean over all places where the window fits, in [-1, 1].

    As `skimage.metrics.structural_similarity` with `gaussian_weights` and without `use_sample_covariance`; over the
    channels it is the mean. NaN for sides shorter than the window.

    Args:
        reconstructions: Guesses in [0, 1].
        images: The truth.
    """
    if min(images.shape[-2:]) <= 2 * RADIUS:
        return images.new_full((len(images),), torch.nan)
    # Differences of squares: float64, lest rounding make a variance of flat places.
    x, y = (part.double().flatten(0, 1).unsqueeze(1) for part in (reconstructions, images))
    offsets = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64, device=x.device)
    line = (-0.5 * (offsets / WIDTH) ** 2).exp()
    line = line / line.sum()

    def blur(picture: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(picture, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))

    mean_x, mean_y = blur(x), blur(y)
    variances = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
    upper = (2 * mean_x * mean_y + C1) * (2 * (blur(x * y) - mean_x * mean_y) + C2)
    places = upper / ((mean_x**2 + mean_y**2 + C1) * (variances + C2))
    return places.view(len(images), -1).mean(1).to(images.dtype)


class GaussianSSIM(Metric):
    """Structural similarity as scikit-image has it, borders left out, in [-1, 1]."""

    key = "ssim_gaussian"
    column = "SSIMGaussian"
    class_floor = "{}ClassFloor"
    label = "SSIM, borders left out (higher: leaks more)"
    short = "SSIM, no borders"
    perfect = "1"
    shown = True
    # Whose values black borders inflate: .332 of the mean image of MNIST, here .109.
    instead_of = "ssim"
    order = 45
    smallest = 2 * RADIUS + 1

    def values(self, seen: Scored) -> Values:
        return gaussian_ssim(seen.reconstructions, seen.images)
