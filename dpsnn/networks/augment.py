"""More own images than an attacker has: the same ones, moved a little."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dpsnn.tensors import Images, Inputs

SHIFT, TURN, STRETCH = 0.5, 5.0, 0.05
"""The most by which an image is moved, in pixels, turned, in degrees, and made larger or smaller, as a share."""

BEND = 0.35
"""Standard deviation, in pixels, of where its parts are moved beside that, smoothly: a grid of 4 × 4 of them."""


def warped(images: Images, generator: torch.Generator) -> Images:
    """Each image moved, turned, stretched and bent a little, by itself; never mirrored.

    After Simard, Steinkraus & Platt 2003 (elastic distortions), with smaller ones: an image must stay one that might
    have been among the own ones.
    """
    count, _, height, width = images.shape
    drawn = 2 * torch.rand(4, count, generator=generator) - 1
    angle, size = drawn[0] * TURN * math.pi / 180, (drawn[1] * STRETCH).exp()
    across, down = drawn[2] * 2 * SHIFT / width, drawn[3] * 2 * SHIFT / height
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1) * size[:, None]
    matrices = torch.cat([turn.view(-1, 2, 2), torch.stack([across, down], 1)[..., None]], 2)
    bends = torch.randn(count, 2, 4, 4, generator=generator)
    bends = F.interpolate(bends, (height, width), mode="bicubic", align_corners=True)
    bends = bends * (2 * BEND / torch.tensor([width, height])).view(1, 2, 1, 1)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    moved: Float[Tensor, "n c h w"] = F.grid_sample(
        images, grid + bends.permute(0, 2, 3, 1), padding_mode="border", align_corners=False
    )
    return moved.clamp(0, 1)


def mirrored(images: Images, generator: torch.Generator) -> Images:
    """Half of them left to right, all of them warped."""
    turned = torch.rand(len(images), generator=generator) < 0.5
    return warped(torch.where(turned.view(-1, 1, 1, 1), images.flip(3), images), generator)


def unchanged(images: Images, generator: torch.Generator) -> Images:
    return images


AUGMENTATIONS = {"none": unchanged, "warp": warped, "mirror": mirrored}


def pictures(images: Inputs) -> bool:
    """Whether these are pictures, of bytes, that may be moved: rows of anything else may not."""
    return images.dtype == torch.uint8 and images.dim() == 4 and min(images.shape[2:]) >= 4
