"""More images out of those that there are: moved and turned a little, as other pictures of the same kind would be."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dpsnn.tensors import Images


class Move(NamedTuple):
    """How an image is moved: by whole pixels, and around its middle."""

    right: int = 0
    down: int = 0
    turn: float = 0.0
    """In degrees, anticlockwise."""


def moved(images: Images, move: Move) -> Images:
    """The images `(N, C, H, W)` moved; what comes in from outside continues the edge."""
    right, down, turn = move
    if right or down:
        height, width = images.shape[-2:]
        rows = (torch.arange(height, device=images.device) - down).clamp(0, height - 1)
        columns = (torch.arange(width, device=images.device) - right).clamp(0, width - 1)
        images = images[..., rows[:, None], columns]
    return turned(images, turn) if turn else images


def turned(images: Images, degrees: float) -> Images:
    """The images turned anticlockwise around their middle, between pixels by straight lines."""
    height, width = images.shape[-2:]
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # Coordinates run from -1 to 1 along each side, whatever its length; the second one downwards.
    where: Tensor = images.new_tensor(
        [[cosine, -sine * height / width, 0], [sine * width / height, cosine, 0]]
    )
    grid = F.affine_grid(where.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
