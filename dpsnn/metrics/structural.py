"""How much a reconstruction looks like the image: structural similarity (Wang, Bovik, Sheikh & Simoncelli 2004)."""

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from dpsnn.metrics.base import Metric, Scored, Values
from dpsnn.tensors import Images, Number

BLOCK = 100
"""Images at once: more leave the processor's cache, which takes SSIM twice as long."""

SMALLEST = 6
"""Pixels on a side, the centre of SSIM's window and what it sees to one side."""


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


class SSIM(Metric):
    """Structural similarity, the border mirrored, in [-1, 1]."""

    key = "ssim"
    column = "SSIM"
    class_floor = "{}ClassFloor"
    shuffled = "{}Shuffled"
    label = "SSIM (higher: leaks more)"
    short = "SSIM"
    perfect = "1"
    shown = True
    order = 30
    smallest = SMALLEST

    def values(self, seen: Scored) -> Values:
        return ssim(seen.reconstructions, seen.images)


class WideSSIM(Metric):
    """Structural similarity with a data range of 2, as some published values were taken: kinder to a bad guess."""

    key = "ssim2"
    column = "SSIM2"
    shuffled = "{}Shuffled"
    label = "SSIM, data range 2"
    short = "SSIM, range 2"
    order = 40
    smallest = SMALLEST

    def values(self, seen: Scored) -> Values:
        return ssim(seen.reconstructions, seen.images, 2.0)
