"""scikit-learn's handwritten digits: embedded, so that everything runs at once and offline."""

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from dpsnn.data.base import ImageDataModule, Pool, contiguous_roles


class Digits(ImageDataModule):
    """1,797 real handwritten digits (Alpaydin & Kaynak 1998, UCI), 8×8 with 17 grey levels, scaled to 28×28.

    Their order in the source goes by writer, so they are shuffled once, with a fixed seed, before roles are given out.
    """

    key = "digits"

    image_shape = (1, 28, 28)
    num_classes = 10
    mean = 0.3045
    std = 0.3246

    def load(self) -> Pool:
        raw = load_digits()
        order = torch.randperm(len(raw.target), generator=torch.Generator().manual_seed(0))
        small = torch.from_numpy(raw.images).float()[order].unsqueeze(1) / 16
        large = F.interpolate(small, size=28, mode="bilinear", align_corners=False)
        pixels = large.mul(255).round().to(torch.uint8)
        return Pool(pixels, torch.from_numpy(raw.target).long()[order], "scikit-learn digits")

    def roles(self, pool: Pool) -> dict[str, range]:
        return contiguous_roles(
            len(pool.labels), train=800, surrogate=450, scoring=150, validation=147, test=250
        )
