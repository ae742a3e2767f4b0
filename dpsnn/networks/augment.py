"""More own images than an attacker has: the same ones, moved a little."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dpsnn.batches import to_unit
from dpsnn.tensors import Activation, Images, Inputs

SHIFT, TURN, STRETCH = 0.5, 5.0, 0.05
"""The most by which an image is moved, in pixels, turned, in degrees, and made larger or smaller, as a share."""

PAYS = 0.99
"""Of the error without augmentation: what it must bring that below."""

Pair = tuple[Tensor, Tensor]
"""Activations, and the images (bytes) that they are of."""

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


def copied(
    own: Inputs, ask: Callable[[Inputs], Activation], way: str, generator: torch.Generator
) -> Pair:
    """Every image augmented, as bytes, and what the client makes of that."""
    made = (255 * AUGMENTATIONS[way](to_unit(own), generator)).round().to(own.dtype)
    return ask(made), made


def best_way(
    own: Inputs,
    ask: Callable[[Inputs], Activation],
    error: Callable[[Sequence[Pair]], float],
    generator: torch.Generator,
) -> str:
    """The augmentation that serves best: none, unless another does clearly better.

    Args:
        own: Images.
        ask: Bytes → activations.
        error: Of whoever learns from these pairs as well, on images held out.
        generator: Of what is drawn.
    """
    errors = {"none": PAYS * error([])}
    for way in AUGMENTATIONS:
        if way not in errors:
            errors[way] = error([copied(own, ask, way, generator)])
    return min(errors, key=lambda way: errors[way])


def chosen(own: Pair, copies: Sequence[Pair], seed: int) -> Pair:
    """What is shown in an epoch: of every own image itself or one of its copies."""
    if not copies:
        return own
    activations, images = (part.clone() for part in own)
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(1 + len(copies), (len(images),), generator=generator)
    for number, copy in enumerate(copies):
        rows = (which == number).to(images.device)
        activations[rows], images[rows] = copy[0][rows], copy[1][rows]
    return activations, images


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
