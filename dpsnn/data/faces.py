"""Faces of people, a class folder each: the AT&T (ORL) archive (Samaria & Harter 1994), or anybody's own folder."""

import io
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from dpsnn.batches import derived_seed
from dpsnn.data.base import ImageDataModule, Pool
from dpsnn.data.files import MIRROR, roots
from dpsnn.errors import UsageError

ARCHIVE = "att_faces.tar"
"""Also as `att_faces.tar.gz`; unpacked it is the folder `att_faces`."""

SUFFIXES = (".pgm", ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
"""Files with other endings are no pictures and are passed over."""

TRAINED = 0.7
"""Share of a person's images that the classifier under attack is trained on; the others are held out."""

LEAST = 4
"""Images of a person: with fewer one of the parts would be empty."""


class Picture(NamedTuple):
    """A file of a person, not yet decoded."""

    person: str
    name: str
    content: bytes


def natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts `s2` before `s10`."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", text)]


def class_folders(folder: Path) -> list[Path]:
    """Folders that directly hold pictures."""
    if not folder.is_dir():
        return []
    return [place for place in folder.iterdir() if place.is_dir() and _pictures_in(place)]


def _pictures_in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]


def pictures_of_folder(folder: Path) -> Iterator[Picture]:
    """Every picture in the class folders of a folder."""
    for person in class_folders(folder):
        for path in _pictures_in(person):
            yield Picture(person.name, str(path), path.read_bytes())


def pictures_of_archive(path: Path) -> Iterator[Picture]:
    """The same of a tar archive, packed or not, whose pictures lie in `.../<person>/<file>`.

    Raises:
        UsageError: If the archive is damaged.
    """
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                inner = Path(member.name)
                file = archive.extractfile(member) if member.isfile() else None
                if file and inner.suffix.lower() in SUFFIXES:
                    yield Picture(inner.parent.name, f"{path}/{inner}", file.read())
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} is damaged ({_one_line(error)}); fetch it again") from error


def decode(pictures: Iterator[Picture], source: str) -> tuple[Tensor, Tensor, list[str]]:
    """Grey pixels of all pictures, person by person.

    Args:
        pictures: In any order.
        source: Where they are from, for messages.

    Returns:
        uint8 `(N, 1, H, W)`, labels `(N,)` from 0, and the people's names; `s2` comes before `s10`.

    Raises:
        UsageError: If a picture is damaged or of another size than the first one, a person has fewer than LEAST
            pictures, or there are fewer than two people; the line names which.
    """
    found = sorted(pictures, key=lambda p: (natural(p.person), natural(p.name)))
    people = list(dict.fromkeys(picture.person for picture in found))
    if len(people) < 2:
        raise UsageError(
            f"{source} holds pictures of {len(people)} people; put two or more folders into it, one for each"
            f" person, with {LEAST} or more pictures each"
        )
    decoded: list[np.ndarray] = []
    for picture in found:
        try:
            grey = np.asarray(Image.open(io.BytesIO(picture.content)).convert("L"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = "is empty" if not picture.content else f"is damaged ({_one_line(error)})"
            raise UsageError(
                f"picture {picture.name} {reason}; replace it or take it out"
            ) from error
        if decoded and grey.shape != decoded[0].shape:
            raise UsageError(
                f"picture {picture.name} is {_size(grey.shape)} (height x width), but {found[0].name} is"
                f" {_size(decoded[0].shape)}; all must have one size: scale it or take it out"
            )
        decoded.append(grey)
    labels = torch.tensor([people.index(picture.person) for picture in found])
    for person, count in zip(people, labels.bincount().tolist()):
        if count < LEAST:
            raise UsageError(
                f"{source} has {count} pictures of {person}; add some, or take the folder out: {LEAST} are the least"
            )
    return torch.from_numpy(np.stack(decoded)).unsqueeze(1), labels, people


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _one_line(error: BaseException) -> str:
    # Pillow names the object in memory, which says nothing.
    return re.sub(r" <_io\.\S+ object at \S+>", "", str(error).split("\n")[0])


class Faces(ImageDataModule):
    """40 people with 10 grey pictures of 112×92 each; the task is to name the person.

    Read from `att_faces.tar.gz` or the folder `att_faces` in the data folder or the mirror, or from class folders that
    lie there directly. Of each person 7 pictures train the classifier and 3 are held out, by a fixed random choice that
    all models share. With so few pictures none is left to choose an epoch by: the last one is kept, and the held-out
    pictures are `validation` and `test` at once, as nothing is chosen by them. Step sizes are tuned within the training
    pictures (`FacesTuning`). Attackers bring no pictures of their own: there is no `surrogate` and no `scoring`.

    Free for non-commercial research, with credit to AT&T Laboratories Cambridge. F. Samaria & A. Harter,
    "Parameterisation of a stochastic model for human face identification", WACV 1994.
    """

    image_shape = (1, 112, 92)
    num_classes = 40
    # Not those of the pixels: networks are to see [-1, 1], as published.
    mean = 0.5
    std = 0.5
    judge_network = "faces_judge"
    chooses_epoch = False
    folder: ClassVar[Path | None] = None
    """Class folders to read instead of the archive."""

    def parts(self, mine: Int[Tensor, " k"]) -> tuple[Tensor, Tensor]:
        """Row numbers of one person, in random order → those to train on and those held out."""
        cut = trained_of(len(mine))
        return mine[:cut], mine[cut:]

    def load(self) -> Pool:
        pixels, labels, people = self._read()
        height, width = pixels.shape[2:]
        if len(people) > self.num_classes or (height, width) != self.image_shape[1:]:
            raise UsageError(
                f"{self._where} has {len(people)} people at {height}x{width}; here there may be {self.num_classes}"
                f" at {_size(self.image_shape[1:])}: scale the pictures, or from Python use"
                " dpsnn.data.faces.own_faces"
            )
        self.people = people
        """Names of the people, in the order of their labels."""
        train, held_out = [], []
        for label in range(len(people)):
            mine = (labels == label).nonzero().squeeze(1)
            generator = torch.Generator().manual_seed(derived_seed(0, label))
            first, second = self.parts(mine[torch.randperm(len(mine), generator=generator)])
            train.append(first)
            held_out.append(second)
        self._trained = sum(map(len, train))
        rows = torch.cat([*train, *held_out])
        return Pool(pixels[rows], labels[rows], f"{self._where} ({len(people)} people)")

    def _read(self) -> tuple[Tensor, Tensor, list[str]]:
        """All pictures, from the first place that has any."""
        if self.folder is not None:
            return self._read_folder(self.folder)
        for root in roots(self.data_dir):
            if class_folders(root / "att_faces"):
                return self._read_folder(root / "att_faces")
            for archive in (root / f"{ARCHIVE}.gz", root / ARCHIVE):
                if archive.is_file():
                    self._where = archive.name
                    return decode(pictures_of_archive(archive), str(archive))
            if class_folders(root):
                return self._read_folder(root)
        raise UsageError(
            f"cannot reach the faces; put {ARCHIVE}.gz, or a folder att_faces with a folder of pictures for each person,"
            f" under {self.data_dir} or under the folder that {MIRROR} names"
        )

    def _read_folder(self, folder: Path) -> tuple[Tensor, Tensor, list[str]]:
        self._where = f"folder {folder.name}"
        return decode(pictures_of_folder(folder), str(folder))

    def roles(self, pool: Pool) -> dict[str, range]:
        held_out = range(self._trained, len(pool.labels))
        return {"train": range(self._trained), "validation": held_out, "test": held_out}

    def foreign_surrogate(self, limit: int = 5000) -> Tensor:
        return self.pool.pixels[:limit]


class FacesAll(Faces):
    """The published protocol: all 10 pictures of each person are trained on, and accuracies are those on them."""

    def parts(self, mine: Int[Tensor, " k"]) -> tuple[Tensor, Tensor]:
        return mine, mine[:0]

    def roles(self, pool: Pool) -> dict[str, range]:
        every = range(len(pool.labels))
        return {"train": every, "validation": every, "test": every}


class FacesTuning(Faces):
    """Part of what `Faces` trains on to train, the rest of that to choose step sizes by; nothing it holds out."""

    def parts(self, mine: Int[Tensor, " k"]) -> tuple[Tensor, Tensor]:
        own = mine[: trained_of(len(mine))]
        cut = trained_of(len(own))
        return own[:cut], own[cut:]


class FacesOthers(Faces):
    """The other way round, for validators: trained on the pictures that `Faces` holds out, tested on its training ones.

    A validator of reconstructions has then seen none of the pictures that the classifier under attack learnt from.
    """

    def parts(self, mine: Int[Tensor, " k"]) -> tuple[Tensor, Tensor]:
        cut = trained_of(len(mine))
        return mine[cut:], mine[:cut]


def trained_of(count: int) -> int:
    """How many of a person's pictures are trained on; at least one is held out."""
    return min(count - 1, max(1, round(TRAINED * count)))


def own_faces(folder: str | Path, kind: type[Faces] = Faces) -> type[Faces]:
    """The data set of somebody's own class folders, with as many people and pictures as large as they are.

    Args:
        folder: A folder with a folder of pictures for each person; all pictures of one size, colours become grey.
        kind: Which of the protocols.

    Returns:
        A class like `Faces`, for `dpsnn.data.DATASETS` or to make a data module of.

    Raises:
        UsageError: If a picture is damaged or of another size than the first, or people or pictures are too few.
    """
    pixels, _, people = decode(pictures_of_folder(Path(folder)), str(folder))
    shape = tuple(pixels.shape[1:])
    constants = {"folder": Path(folder), "image_shape": shape, "num_classes": len(people)}
    return cast("type[Faces]", type(f"Own{kind.__name__}", (kind,), constants))
