"""Omniglot (Lake, Salakhutdinov & Tenenbaum 2015): characters of many alphabets, as drawn and at MNIST's size."""

import io
import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets.utils import download_url

from dpsnn.data.base import ImageDataModule, Pool, contiguous_roles
from dpsnn.data.files import find_or_download
from dpsnn.errors import UsageError

FOLDER = "omniglot-py"
URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
DRAWINGS = 7_000


def _files(data_dir: Path, *sets: str) -> list[Path]:
    """The archives of these sets, from the data folder, the mirror, or the authors."""

    def download(root: Path) -> None:
        for name in sets:
            download_url(f"{URL}/{name}.zip", str(root / FOLDER))

    return find_or_download(
        data_dir, [f"{FOLDER}/{name}.zip" for name in sets], download, "Omniglot"
    )


def read_drawings(path: Path, count: int, size: int) -> tuple[Tensor, list[str]]:
    """A fixed random choice of drawings in random order, strokes bright on black, shrunk to `size` pixels by averaging.

    Args:
        path: An archive of `<set>/<alphabet>/<character>/<drawing>.png`.
        count: How many; as many as there are takes all.
        size: Height and width; 105 leaves them as drawn.

    Returns:
        uint8 `(count, 1, size, size)` and the alphabet of each.

    Raises:
        UsageError: If the file is damaged or holds fewer.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith(".png"))
            if len(names) < count:
                raise ValueError(f"{len(names)} drawings, not {count}")
            order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0))
            chosen = [names[i] for i in order[:count].tolist()]
            box = Image.Resampling.BOX
            drawings = [
                Image.open(io.BytesIO(archive.read(n))).convert("L").resize((size, size), box)
                for n in chosen
            ]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is damaged ({error}); fetch it again") from error
    pixels = torch.from_numpy(255 - np.stack([np.asarray(drawing) for drawing in drawings]))
    return pixels.unsqueeze(1), [name.split("/")[1] for name in chosen]


class Omniglot28(ImageDataModule):
    """7,000 drawings of characters from 30 alphabets, 28×28, white on black; the task is to name the alphabet.

    A fixed random choice of the 19,280 of `images_background`. The small sets will not do: they share two alphabets.
    """

    image_shape = (1, 28, 28)
    num_classes = 30
    mean = 0.0785
    std = 0.2323

    def load(self) -> Pool:
        (file,) = _files(self.data_dir, "images_background")
        pixels, alphabets = read_drawings(file, DRAWINGS, 28)
        return Pool(pixels, _numbered(alphabets), "Omniglot background")

    def roles(self, pool: Pool) -> dict[str, range]:
        return contiguous_roles(
            len(pool.labels), train=4_000, surrogate=1_000, scoring=600, validation=600, test=800
        )


class Omniglot(ImageDataModule):
    """Drawings as they are, 105×105, white on black; the target names which of 20 alphabets a character is from.

    The target learns on 13,180 drawings of the evaluation set, the attacker owns drawings of other alphabets (`small1`),
    and attacks are scored on yet others (all 3,120 of `small2`). Both small sets hold Greek and Latin: these the attacker
    goes without.
    """

    image_shape = (1, 105, 105)
    num_classes = 20
    mean = 0.0842
    std = 0.2777
    judged = False

    SHARED: ClassVar[tuple[str, ...]] = ("Greek", "Latin")
    """Alphabets that stand in both small sets."""

    def load(self) -> Pool:
        sets = ("images_evaluation", "images_background_small1", "images_background_small2")
        files = _files(self.data_dir, *sets)
        target, surrogate, scoring = (
            read_drawings(file, count, 105) for file, count in zip(files, (13_180, 2_720, 3_120))
        )
        own = torch.tensor([name not in self.SHARED for name in surrogate[1]])
        surrogate = surrogate[0][own], [n for n in surrogate[1] if n not in self.SHARED]
        self.alphabets = sorted(set(scoring[1]))
        """Of the drawings that attacks are scored on, in the order of their labels."""
        parts = (target, surrogate, scoring)
        labels = [_numbered(names) for _, names in parts]
        return Pool(torch.cat([p for p, _ in parts]), torch.cat(labels), "Omniglot")

    def roles(self, pool: Pool) -> dict[str, range]:
        surrogate = len(pool.labels) - 13_180 - 3_120
        return contiguous_roles(
            len(pool.labels),
            train=11_000,
            validation=1_090,
            test=1_090,
            surrogate=surrogate,
            scoring=3_120,
        )


class OmniglotOverlap(Omniglot):
    """The same with the attacker's images as published: all of `small1`, Greek and Latin like some of the scored."""

    SHARED: ClassVar[tuple[str, ...]] = ()


def _numbered(names: list[str]) -> Tensor:
    """Labels from 0 in alphabetical order."""
    number = {name: i for i, name in enumerate(sorted(set(names)))}
    return torch.tensor([number[name] for name in names])
