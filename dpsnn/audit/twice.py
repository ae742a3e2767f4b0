"""Pictures that are there twice, nearly: as they are, mirrored, compressed anew, a little
lighter, or of another size."""

import torch
from torch import Tensor
from torch.nn import functional as F

ALIKE = 0.02
"""Root of the mean squared difference, at a side of THUMB, below which two pictures are the same one."""

THUMB = 16

UNSURE = 4
"""Bits of a hash that are taken both ways."""

CHUNK = 1000


def thumbs(images: Tensor, most: int = THUMB) -> Tensor:
    """Small grey pictures, `(N, side²)`, with sides of at most `most`; area interpolation."""
    small = []
    for block in images.split(CHUNK):
        grey = (block.float() / 255 if block.dtype == torch.uint8 else block).mean(1, keepdim=True)
        side = [min(most, each) for each in grey.shape[-2:]]
        small.append(F.interpolate(grey, side, mode="area").flatten(1))
    return torch.cat(small)


def _hashes(images: Tensor) -> Tensor:
    """By which of sixteen parts are lighter than the whole: `(N, 2**UNSURE)` of int64, the likeliest first.

    Compression and a new size hardly change it; the parts nearest to the whole are taken both ways.
    """
    small = thumbs(images, 4)
    above = small - small.mean(1, keepdim=True)
    bits = 2 ** torch.arange(small.shape[1])
    sure = ((above > 0).long() * bits).sum(1, keepdim=True)
    unsure = bits[above.abs().argsort(1)[:, :UNSURE]]
    flips = torch.zeros(len(images), 1, dtype=torch.long)
    for bit in unsure.unbind(1):
        flips = torch.cat([flips, flips ^ bit.unsqueeze(1)], 1)
    return sure ^ flips


def near_duplicates(images: Tensor, others: Tensor) -> Tensor:
    """Which of some images are, nearly, among others, as they are or mirrored: `(N,)` of bool.

    Pictures meet only where a coarse hash of both is the same, then they are compared.
    """
    if images.shape[1:] != others.shape[1:]:
        side = min(min(images.shape[-2:]), min(others.shape[-2:]))
        images, others = (_side(each, side) for each in (images, others))
    theirs = thumbs(others)
    places: dict[int, list[int]] = {}
    for row, key in enumerate(_hashes(others)[:, 0].tolist()):
        places.setdefault(key, []).append(row)
    found = torch.zeros(len(images), dtype=torch.bool)
    for given in (images, images.flip(-1)):
        own = thumbs(given)
        for row, keys in enumerate(_hashes(given).tolist()):
            rows = [] if found[row] else [each for key in keys for each in places.get(key, ())]
            if rows:
                apart = (theirs[rows] - own[row]).square().mean(1).sqrt()
                found[row] = bool((apart < ALIKE).any())
    return found


def _side(images: Tensor, side: int) -> Tensor:
    floats = images.float() / 255 if images.dtype == torch.uint8 else images
    return F.interpolate(floats, (side, side), mode="area")
