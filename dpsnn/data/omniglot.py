"""Omniglot (Lake, Salakhutdinov & Tenenbaum 2015) at MNIST's size: characters that MNIST has never seen."""

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets.utils import download_url

from dpsnn.data.base import ImageDataModule, Pool, contiguous_roles
from dpsnn.data.files import find_or_download
from dpsnn.errors import UsageError

FILE = "omniglot-py/images_background.zip"
URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/images_background.zip"
DRAWINGS = 7_000


def read_drawings(path: Path, count: int, size: int) -> tuple[Tensor, list[str]]:
    """A fixed random choice of drawings, strokes bright on black, shrunk to `size` pixels by averaging.

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
        (file,) = find_or_download(
            self.data_dir,
            [FILE],
            lambda root: download_url(URL, str(root / "omniglot-py")),
            "Omniglot",
        )
        pixels, alphabets = read_drawings(file, DRAWINGS, 28)
        number = {name: i for i, name in enumerate(sorted(set(alphabets)))}
        return Pool(
            pixels, torch.tensor([number[name] for name in alphabets]), "Omniglot background"
        )

    def roles(self, pool: Pool) -> dict[str, range]:
        return contiguous_roles(
            len(pool.labels), train=4_000, surrogate=1_000, scoring=600, validation=600, test=800
        )
