"""Omniglot (Lake, Salakhutdinov & Tenenbaum 2015): characters of many alphabets, as drawn and at MNIST's size."""

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets.utils import download_url

from dpsnn.data.base import ImageDataModule, Pool, contiguous_roles
from dpsnn.data.files import AGAIN, find_or_download, fingerprint
from dpsnn.data.pictures import decoded, quietly
from dpsnn.errors import reading

FOLDER = "omniglot-py"
URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
SIDE = 105
"""Height and width of a drawing."""

PATH = re.compile(r"\w+/[^/]+/\w+/\w+\.png")

MOST_BYTES = 2**24
"""Of an archive; the authors' largest has 9.5 million."""

MOST_OF_A_DRAWING = 2**14
"""Bytes; the authors' largest has 522."""


class Archive(NamedTuple):
    """One of the authors' archives, and what it must hold."""

    name: str
    drawings: int
    """How many there are."""
    used: int
    """How many are read."""
    digest: str = ""
    """The `fingerprint` of all names and of the drawings that are read; empty where nobody has computed it."""


BACKGROUND = Archive(
    "images_background",
    19_280,
    7_000,
    "583295a529aa223af7d876738e69aee7ab234e02c46e5d5659f7708837f2347e",
)
EVALUATION = Archive(
    "images_evaluation",
    13_180,
    13_180,
    "3069af4fd4556837260c946463f29e781e72c02580abf3dacf473d104368d7c2",
)
SMALL1 = Archive(
    "images_background_small1",
    2_720,
    2_720,
    "db2d7e5fc30ce6647c47858bc6e03c23236d218118ad70a4ea47fac832bfe882",
)
SMALL2 = Archive(
    "images_background_small2",
    3_120,
    3_120,
    "4c3d71dea85fb906d05ff655e31dd7df03d19dcd4c53cf59bc0238435acb49f6",
)


def _files(data_dir: Path, archives: Sequence[Archive]) -> list[Path]:
    """These archives, from the data folder, the mirror, or the authors."""
    names = [f"{FOLDER}/{archive.name}.zip" for archive in archives]

    def download(root: Path) -> None:
        for archive in archives:
            download_url(f"{URL}/{archive.name}.zip", str(root / FOLDER))

    return find_or_download(data_dir, names, download, "Omniglot")


def read_drawings(
    path: Path, count: int, size: int, known: Archive | None = None
) -> tuple[Tensor, list[str]]:
    """A fixed random choice of drawings in random order, strokes bright on black, shrunk to `size` pixels by averaging.

    Args:
        path: An archive of `<set>/<alphabet>/<character>/<drawing>.png`.
        count: How many; as many as there are takes all.
        size: Height and width; 105 leaves them as drawn.
        known: What the archive must hold.

    Returns:
        uint8 `(count, 1, size, size)` and the alphabet of each.

    Raises:
        UsageError: If the file is damaged, holds fewer, or holds anything else than what is known of it.
    """
    with reading(path, "an archive of Omniglot", AGAIN), quietly():
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES:,} bytes")
        with zipfile.ZipFile(path) as archive:
            entries = _drawings_in(archive)
            names = sorted(entries)
            if len(names) < count or known and len(names) != known.drawings:
                raise ValueError(f"{len(names)} drawings, not {known.drawings if known else count}")
            order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0))
            chosen = [names[i] for i in order[:count].tolist()]
            drawings = np.empty((count, SIDE, SIDE), np.uint8)
            for row, name in enumerate(chosen):
                # With a bound, for without one all is unpacked before it is cut to the stated size.
                with archive.open(entries[name]) as file:
                    content = file.read(MOST_OF_A_DRAWING)
                drawings[row] = decoded(content, 1, f"{path}/{name}", (SIDE, SIDE))
        if known and known.digest and known.digest != digest_of(names, drawings):
            raise ValueError("other drawings than the authors'")
    box = Image.Resampling.BOX
    if size != SIDE:
        shrunk = [np.asarray(Image.fromarray(d).resize((size, size), box)) for d in drawings]
        drawings = np.stack(shrunk)
    return torch.from_numpy(255 - drawings).unsqueeze(1), [name.split("/")[1] for name in chosen]


def digest_of(names: Sequence[str], drawings: np.ndarray) -> str:
    """The `fingerprint` of the names of all drawings and of those that are read, as drawn."""
    return fingerprint(np.frombuffer("\n".join(names).encode(), np.uint8), drawings)


def _drawings_in(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Entries by name, none of which unpacks to more than a drawing can have."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.filename
        if not name.endswith(".png"):
            continue
        if name in entries:
            raise ValueError(f"{name} is there twice")
        if not PATH.fullmatch(name):
            raise ValueError(f"{name} is not <set>/<alphabet>/<character>/<drawing>.png")
        if entry.flag_bits & 1:
            raise ValueError(f"{name} is encrypted")
        # The other methods allocate what the entry asks for, before anything is unpacked.
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{name} is packed by a method that Omniglot does not use")
        if entry.file_size > MOST_OF_A_DRAWING:
            raise ValueError(f"{name} has more than {MOST_OF_A_DRAWING:,} bytes")
        entries[name] = entry
    return entries


class Omniglot28(ImageDataModule):
    """7,000 drawings of characters from 30 alphabets, 28×28, white on black; the task is to name the alphabet.

    A fixed random choice of the 19,280 of `images_background`. The small sets will not do: they share two alphabets.
    """

    key = "omniglot28"

    image_shape = (1, 28, 28)
    num_classes = 30
    mean = 0.0785
    std = 0.2323
    archives: ClassVar[tuple[Archive, ...]] = (BACKGROUND,)

    def load(self) -> Pool:
        (file,), (known,) = _files(self.data_dir, self.archives), self.archives
        pixels, alphabets = read_drawings(file, known.used, 28, known)
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

    key = "omniglot"

    image_shape = (1, 105, 105)
    num_classes = 20
    mean = 0.0842
    std = 0.2777
    judged = False
    archives: ClassVar[tuple[Archive, ...]] = (EVALUATION, SMALL1, SMALL2)
    """Of the target, of the attacker, and of what attacks are scored on."""

    SHARED: ClassVar[tuple[str, ...]] = ("Greek", "Latin")
    """Alphabets that stand in both small sets."""

    def load(self) -> Pool:
        files = _files(self.data_dir, self.archives)
        target, surrogate, scoring = (
            read_drawings(file, known.used, SIDE, known)
            for file, known in zip(files, self.archives)
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

    key = "omniglot_overlap"

    SHARED: ClassVar[tuple[str, ...]] = ()


def _numbered(names: list[str]) -> Tensor:
    """Labels from 0 in alphabetical order."""
    number = {name: i for i, name in enumerate(sorted(set(names)))}
    return torch.tensor([number[name] for name in names])
