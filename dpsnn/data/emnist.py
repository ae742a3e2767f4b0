"""EMNIST letters (Cohen, Afshar, Tapson & van Schaik 2017), turned upright."""

import sys

import torch
import torchvision
from torch import Tensor

from dpsnn.data.base import ImageDataModule, Pool, contiguous_roles
from dpsnn.data.files import find, find_or_download, read_pair


def _files(stem: str) -> tuple[str, ...]:
    return tuple(
        f"EMNIST/raw/{stem}-{part}-{kind}-ubyte"
        for part in ("train", "test")
        for kind in ("images-idx3", "labels-idx1")
    )


LETTERS = _files("emnist-letters")
SAMPLE = _files("emnist-balanced-first2000")

BALANCED = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"
"""What the 47 labels of EMNIST's `balanced` split stand for."""


def balanced_to_letters(pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the letters of the `balanced` split and number them 0..25, both cases alike."""
    letter = torch.tensor([ord(c.upper()) - ord("A") if c.isalpha() else -1 for c in BALANCED])
    classes = letter[labels]
    return pixels[classes >= 0], classes[classes >= 0]


class EMNIST(ImageDataModule):
    """145,600 handwritten letters, 28×28, white on black, 26 classes, both cases alike.

    EMNIST's files are transposed; here the letters stand upright. Where only the first 4,000 images of the `balanced`
    split are at hand, its 3,128 letters are used; `source` records which.
    """

    image_shape = (1, 28, 28)
    num_classes = 26
    mean = 0.1722
    std = 0.3309

    def load(self) -> Pool:
        files = find(self.data_dir, LETTERS)
        if files is None and (sample := find(self.data_dir, SAMPLE)):
            train, test = (
                balanced_to_letters(*read_pair(*pair)) for pair in (sample[:2], sample[2:])
            )
            count = len(train[1]) + len(test[1])
            source = f"EMNIST sample ({count} letters)"
            print(f"emnist: the letters split is not here; using {source}", file=sys.stderr)
        else:
            files = files or find_or_download(
                self.data_dir,
                LETTERS,
                lambda root: torchvision.datasets.EMNIST(str(root), "letters", download=True),
                "EMNIST letters",
            )
            train, test = read_pair(*files[:2]), read_pair(*files[2:])
            train, test = ((pixels, labels - 1) for pixels, labels in (train, test))
            source = "EMNIST letters"
        pixels = torch.cat([train[0], test[0]]).transpose(-1, -2).contiguous()
        return Pool(pixels, torch.cat([train[1], test[1]]), source)

    def roles(self, pool: Pool) -> dict[str, range]:
        total = len(pool.labels)
        if total > 100_000:
            sizes = dict(
                train=100_000, surrogate=5_000, scoring=5_000, validation=14_800, test=20_800
            )
        else:
            sizes = dict(
                train=1_000, surrogate=300, scoring=130, validation=129, test=total - 1_559
            )
        return contiguous_roles(total, **sizes)
