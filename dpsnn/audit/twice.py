"""Pictures that are there twice, nearly: as they are, compressed anew, a little lighter, or of another size."""

import torch
from torch import Tensor
from torch.nn import functional as F

ALIKE = 0.02
"""Root of the mean squared difference, at a side of THUMB, below which two pictures are the same one."""

THUMB = 16

CHUNK = 1000


def thumbs(images: Tensor, most: int = THUMB) -> Tensor:
    """Small grey pictures, `(N, side²)`, with sides of at most `most`; area interpolation."""
    small = []
    for block in images.split(CHUNK):
        grey = (block.float() / 255 if block.dtype == torch.uint8 else block).mean(1, keepdim=True)
        side = [min(most, each) for each in grey.shape[-2:]]
        small.append(F.interpolate(grey, side, mode="area").flatten(1))
    return torch.cat(small)


def _hashes(images: Tensor) -> list[bytes]:
    """By which of sixteen parts are lighter than the whole: compression and a new size hardly change it."""
    return [row.tobytes() for row in (images > images.mean(1, keepdim=True)).numpy()]


def near_duplicates(images: Tensor, others: Tensor) -> Tensor:
    """Which of some images are, nearly, among others: `(N,)` of bool.

    Pictures meet only where a coarse hash of both is the same, then they are compared.
    """
    if images.shape[1:] != others.shape[1:]:
        side = min(min(images.shape[-2:]), min(others.shape[-2:]))
        images, others = (_side(each, side) for each in (images, others))
    own, theirs = thumbs(images), thumbs(others)
    places: dict[bytes, list[int]] = {}
    for row, key in enumerate(_hashes(thumbs(others, 4))):
        places.setdefault(key, []).append(row)
    found = torch.zeros(len(own), dtype=torch.bool)
    for row, key in enumerate(_hashes(thumbs(images, 4))):
        if rows := places.get(key):
            apart = (theirs[rows] - own[row]).square().mean(1).sqrt()
            found[row] = bool((apart < ALIKE).any())
    return found


def _side(images: Tensor, side: int) -> Tensor:
    floats = images.float() / 255 if images.dtype == torch.uint8 else images
    return F.interpolate(floats, (side, side), mode="area")
