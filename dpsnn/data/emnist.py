"""EMNIST letters (Cohen, Afshar, Tapson & van Schaik 2017), turned upright."""

import sys
from pathlib import Path
from typing import ClassVar

import torch
import torchvision
from torch import Tensor

from dpsnn.data.base import ImageDataModule, Pool, contiguous_roles
from dpsnn.data.files import AGAIN, Idx, find, find_or_download, read_pair
from dpsnn.errors import UsageError

LETTERS = "EMNIST/raw/emnist-letters"
SAMPLE = "EMNIST/raw/emnist-balanced-first2000"

BALANCED = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"
"""What the 47 labels of EMNIST's `balanced` split stand for."""


def balanced_to_letters(pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the letters of the `balanced` split and number them 0..25, both cases alike."""
    letter = torch.tensor([ord(c.upper()) - ord("A") if c.isalpha() else -1 for c in BALANCED])
    classes = letter[labels]
    return pixels[classes >= 0], classes[classes >= 0]


def _numbered_from_0(paths: list[Path], files: tuple[Idx, ...]) -> tuple[Tensor, Tensor]:
    """Images and labels of the `letters` split, whose files count from 1."""
    pixels, labels = read_pair(paths, files)
    counts = labels.bincount(minlength=27)
    if len(counts) != 27 or counts[0] or counts[1:].unique().numel() != 1:
        raise UsageError(
            f"{paths[1]} is damaged: the labels 1 to 26 must be there equally often, and no other; {AGAIN}"
        )
    return pixels, labels - 1


class EMNIST(ImageDataModule):
    """145,600 handwritten letters, 28×28, white on black, 26 classes, both cases alike.

    EMNIST's files are transposed; here the letters stand upright. Where only the first 4,000 images of the `balanced`
    split are at hand, its 3,128 letters are used; `source` records which.
    """

    key = "emnist"

    image_shape = (1, 28, 28)
    num_classes = 26
    mean = 0.1722
    std = 0.3309
    letters: ClassVar[tuple[Idx, ...]] = (
        Idx(f"{LETTERS}-train-images-idx3-ubyte", (124_800, 28, 28)),
        Idx(f"{LETTERS}-train-labels-idx1-ubyte", (124_800,)),
        Idx(f"{LETTERS}-test-images-idx3-ubyte", (20_800, 28, 28)),
        Idx(f"{LETTERS}-test-labels-idx1-ubyte", (20_800,)),
    )
    """Images and labels to train on, then those to test on; every letter is there equally often."""
    sample: ClassVar[tuple[Idx, ...]] = (
        Idx(
            f"{SAMPLE}-train-images-idx3-ubyte",
            (2_000, 28, 28),
            "1bd766eb7732de6a964e83a21fd079817724f84755cd1cce121ae84a72d1568c",
        ),
        Idx(
            f"{SAMPLE}-train-labels-idx1-ubyte",
            (2_000,),
            "d06759e269784c9508e69c6825a0c7af19f94bb454df7ac962e1ff390ab07dbe",
        ),
        Idx(
            f"{SAMPLE}-test-images-idx3-ubyte",
            (2_000, 28, 28),
            "7cfea12bf2974569082b4ed175cf220995ae4f2a9e5248a953e3d277ce25d575",
        ),
        Idx(
            f"{SAMPLE}-test-labels-idx1-ubyte",
            (2_000,),
            "ffe34a757f5cf454b795b530e149b97154a964a5eb65d02211ea4738eb11f826",
        ),
    )

    def load(self) -> Pool:
        letters, sample = ([file.name for file in kind] for kind in (self.letters, self.sample))
        files = find(self.data_dir, letters)
        if files is None and (found := find(self.data_dir, sample)):
            train, test = (
                balanced_to_letters(*read_pair(found[i : i + 2], self.sample[i : i + 2]))
                for i in (0, 2)
            )
            count = len(train[1]) + len(test[1])
            source = f"EMNIST sample ({count} letters)"
            print(f"emnist: the letters split is not here; using {source}", file=sys.stderr)
        else:
            files = files or find_or_download(
                self.data_dir,
                letters,
                lambda root: torchvision.datasets.EMNIST(str(root), "letters", download=True),
                "EMNIST letters",
            )
            train, test = (
                _numbered_from_0(files[i : i + 2], self.letters[i : i + 2]) for i in (0, 2)
            )
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
