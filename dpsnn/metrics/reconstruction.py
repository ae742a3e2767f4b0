"""How close a reconstruction is to the picture: MSE, PSNR and SSIM, one value per image."""

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from dpsnn.tensors import Images, Number

BLOCK = 100
"""Images at once: more leave the processor's cache, which takes SSIM twice as long."""


SMALLEST = 6
"""Pixels on a side, the centre of SSIM's window and what it sees to one side."""


def mse(reconstructions: Images, images: Images) -> Float[Tensor, " n"]:
    """Mean squared error per image, in squared units of [0, 1]."""
    return (reconstructions - images).pow(2).flatten(1).mean(1)


def psnr(reconstructions: Images, images: Images) -> Float[Tensor, " n"]:
    """Peak signal-to-noise ratio per image in dB, for a peak of 1; at most 100, which stands for a perfect copy."""
    return -10 * mse(reconstructions, images).clamp(min=1e-10).log10()


def relative_l2(reconstructions: Images, images: Images) -> Float[Tensor, " n"]:
    """‖x̂ - x‖ / ‖x‖ per image: 0 for a copy, 1 for a black picture; without a limit for a black original."""
    difference, norm = (
        (part).flatten(1).norm(dim=1) for part in (reconstructions - images, images)
    )
    return difference / norm.clamp(min=1e-6)


def ssim(reconstructions: Images, images: Images, data_range: Number = 1.0) -> Float[Tensor, " n"]:
    """Structural similarity per image (Wang, Bovik, Sheikh & Simoncelli 2004), in [-1, 1].

    Their 11×11 Gaussian window of width 1.5, averaged over the whole image; where the window hangs over the border the
    image is mirrored (scikit-image leaves these pixels out instead). NaN for sides of less than SMALLEST pixels, which
    are not enough to mirror.

    Args:
        reconstructions: Guesses in [0, 1].
        images: The truth.
        data_range: 1 for such images; some published values were taken with 2, which is kinder to a bad guess.
    """
    if min(images.shape[-2:]) < SMALLEST:
        return images.new_full((len(images),), torch.nan)
    values = []
    for block in zip(reconstructions.split(BLOCK), images.split(BLOCK)):
        value = structural_similarity_index_measure(
            *block, data_range=float(data_range), reduction="none"
        )
        assert isinstance(value, Tensor)
        values.append(value.reshape(-1))
    return torch.cat(values)
