"""Pictures that are there twice, nearly: as they are, mirrored, compressed anew, a little
lighter, or of another size."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dpsnn.audit.held import at_once

ALIKE = 0.02
"""Root of the mean squared difference, at a side of THUMB, below which two pictures are the same one."""

THUMB = 16

UNSURE = 4
"""Bits of a hash that are taken both ways."""

CHUNK = 1000
"""Pictures that are looked at together, at most."""


def thumbs(images: Tensor, most: int = THUMB, mirrored: bool = False) -> Tensor:
    """Small grey pictures, `(N, side²)`, with sides of at most `most`; area interpolation."""
    small = []
    for block in images.split(at_once(images.shape[1:], CHUNK)):
        block = block.flip(-1) if mirrored else block
        grey = (block.float() / 255 if block.dtype == torch.uint8 else block).mean(1, keepdim=True)
        side = [min(most, each) for each in grey.shape[-2:]]
        small.append(F.interpolate(grey, side, mode="area").flatten(1))
    return torch.cat(small)


def _hashes(images: Tensor, mirrored: bool = False) -> Tensor:
    """By which of sixteen parts are lighter than the whole: `(N, 2**UNSURE)` of int64, the likeliest first.

    Compression and a new size hardly change it; the parts nearest to the whole are taken both ways.
    """
    small = thumbs(images, 4, mirrored)
    above = small - small.mean(1, keepdim=True)
    bits = 2 ** torch.arange(small.shape[1])
    sure = ((above > 0).long() * bits).sum(1, keepdim=True)
    unsure = bits[above.abs().argsort(1)[:, :UNSURE]]
    flips = torch.zeros(len(images), 1, dtype=torch.long)
    for bit in unsure.unbind(1):
        flips = torch.cat([flips, flips ^ bit.unsqueeze(1)], 1)
    return sure ^ flips


def near_duplicates(images: Tensor, others: Tensor | Sequence[Tensor]) -> Tensor:
    """Which of some images are, nearly, among others, as they are or mirrored: `(N,)` of bool.

    Pictures meet only where a coarse hash of both is the same, then they are compared.

    Args:
        images: `(N, C, H, W)`, bytes or floats in [0, 1].
        others: As these, or several such tensors of one shape of picture.
    """
    parts = [others] if isinstance(others, Tensor) else [*others]
    if images.shape[1:] != parts[0].shape[1:]:
        side = min(min(images.shape[-2:]), min(parts[0].shape[-2:]))
        images, parts = _side(images, side), [_side(part, side) for part in parts]
    theirs = torch.cat([thumbs(part) for part in parts])
    places: dict[int, list[int]] = {}
    for row, key in enumerate(key for part in parts for key in _hashes(part)[:, 0].tolist()):
        places.setdefault(key, []).append(row)
    found = torch.zeros(len(images), dtype=torch.bool)
    for mirrored in (False, True):
        own = thumbs(images, mirrored=mirrored)
        for row, keys in enumerate(_hashes(images, mirrored).tolist()):
            rows = [] if found[row] else [each for key in keys for each in places.get(key, ())]
            if rows:
                apart = (theirs[rows] - own[row]).square().mean(1).sqrt()
                found[row] = bool((apart < ALIKE).any())
    return found


def _side(images: Tensor, side: int) -> Tensor:
    """In grey: nothing else is looked at."""
    parts = []
    for block in images.split(at_once(images.shape[1:], CHUNK)):
        floats = block.float() / 255 if block.dtype == torch.uint8 else block
        parts.append(F.interpolate(floats.mean(1, keepdim=True), (side, side), mode="area"))
    return torch.cat(parts)
