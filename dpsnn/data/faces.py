"""Faces of people, a class folder each: the AT&T (ORL) archive (Samaria & Harter 1994), or anybody's own folder."""

import io
import os
import re
import sys
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import ClassVar, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from dpsnn.batches import derived_seed
from dpsnn.data.base import ImageDataModule, Pool
from dpsnn.data.files import AGAIN, MIRROR, by, fingerprint, is_file, roots, say_place, unpacked
from dpsnn.data.pictures import read_picture
from dpsnn.errors import UsageError, reading

ARCHIVE = "att_faces.tar"
"""Also as `att_faces.tar.gz`; unpacked it is the folder `att_faces`."""

SUFFIXES = (".pgm", ".ppm", ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
"""Files with other endings are no pictures and are passed over."""

TRAINED = 0.7
"""Share of a person's images that the classifier under attack is trained on; the others are held out."""

LEAST = 4
"""Images of a person: with fewer one of the parts would be empty."""

MOST_BYTES = 2**24
"""Of the archive, unpacked; that of AT&T has 4.4 million."""

MOST_PIXELS = 2**30
"""Of all pictures together, each a byte."""


class Picture(NamedTuple):
    """A file of a person, not yet decoded."""

    person: str
    name: str
    source: Path | bytes
    """The file, or what was in it."""


class Known(NamedTuple):
    """What a set must hold."""

    people: tuple[str, ...]
    pictures: int
    """Of each person."""
    digest: str
    """The `fingerprint` of pixels and labels, person by person."""


def natural(text: str) -> tuple[list[tuple[int, str]], str]:
    """A key that sorts `s2` before `s10`; of names that count alike (`1`, `01`) the order is fixed too."""
    parts = re.split(r"([0-9]+)", text)
    digits = [part.lstrip("0") for part in parts]
    # Numbers, at the odd positions, by length and then digit by digit: `int` refuses long ones.
    return [(len(n), n) if i % 2 else (0, parts[i]) for i, n in enumerate(digits)], text


def class_folders(folder: Path) -> list[Path]:
    """Folders that directly hold pictures; hidden ones are not looked into."""
    if not os.path.isdir(folder):
        return []
    with reading(folder, "a folder of people", "name another one"):
        places = [place for place in folder.iterdir() if not place.name.startswith(".")]
        return [place for place in places if os.path.isdir(place) and _pictures_in(place)]


def _pictures_in(folder: Path) -> list[Path]:
    with reading(folder, "a folder of pictures", "take it out"):
        return [
            path for path in folder.iterdir() if _is_picture(path.name) and not os.path.isdir(path)
        ]


def _is_picture(name: str) -> bool:
    # macOS leaves `._1.png` beside `1.png`.
    return Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def pictures_of_folder(folder: Path) -> Iterator[Picture]:
    """Every picture in the class folders of a folder."""
    for person in class_folders(folder):
        for path in _pictures_in(person):
            yield Picture(person.name, str(path), path)


def pictures_of_archive(path: Path) -> Iterator[Picture]:
    """The same of a tar archive, packed by gzip or not, whose pictures lie in `.../<person>/<file>`.

    Raises:
        UsageError: If the archive is damaged, larger than such a set can be, or holds links, devices, holes or the same
            picture twice.
    """
    seen = set()
    with reading(path, "an archive of faces", AGAIN):
        content = unpacked(path, MOST_BYTES)
        if len(content) > MOST_BYTES:
            raise ValueError(f"unpacked it has more than {MOST_BYTES:,} bytes")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                inner = PurePosixPath(member.name)
                if inner.is_absolute() or ".." in inner.parts:
                    raise ValueError(f"{member.name} lies outside")
                if member.isdir() or any(part.startswith(".") for part in inner.parts):
                    continue
                if not member.isreg() or member.issparse() or member.size > len(content):
                    raise ValueError(f"{member.name} is no whole file")
                if not _is_picture(inner.name):
                    continue
                person = inner.parent.name
                if (person, inner.name) in seen:
                    raise ValueError(f"{person}/{inner.name} is there twice")
                seen.add((person, inner.name))
                file = archive.extractfile(member)
                assert file is not None, "a regular file"
                yield Picture(person, f"{path}/{inner}", file.read())


def decode(pictures: Iterable[Picture], source: str) -> tuple[Tensor, Tensor, list[str]]:
    """Grey pixels of all pictures, person by person.

    Args:
        pictures: In any order.
        source: Where they are from, for messages.

    Returns:
        uint8 `(N, 1, H, W)`, labels `(N,)` from 0, and the people's names; `s2` comes before `s10`.

    Raises:
        UsageError: If a picture is damaged or of another size than the first one, a person has fewer than LEAST
            pictures, there are fewer than two people, or all pictures together are too large; the line names which.
    """
    found = sorted(pictures, key=lambda p: (natural(p.person), natural(p.name)))
    people = list(dict.fromkeys(picture.person for picture in found))
    if len(people) < 2:
        raise UsageError(
            f"{source} holds pictures of {len(people)} people; put two or more folders into it, one for each"
            f" person, with {LEAST} or more pictures each"
        )
    number = {person: label for label, person in enumerate(people)}
    labels = torch.tensor([number[picture.person] for picture in found])
    first = read_picture(found[0].source, 1, found[0].name)
    if len(found) * first.size > MOST_PIXELS:
        raise UsageError(
            f"{source} holds {len(found)} pictures of {by(first.shape)}, together more than {MOST_PIXELS:,} pixels;"
            " scale them down"
        )
    decoded = np.empty((len(found), *first.shape), np.uint8)
    for row, picture in enumerate(found):
        grey = read_picture(picture.source, 1, picture.name) if row else first
        if grey.shape != first.shape:
            raise UsageError(
                f"picture {picture.name} is {by(grey.shape)} (height x width), but {found[0].name} is"
                f" {by(first.shape)}; all must have one size: scale it or take it out"
            )
        decoded[row] = grey
    for person, count in zip(people, labels.bincount().tolist()):
        if count < LEAST:
            raise UsageError(
                f"{source} has {count} pictures of {person}; add some, or take the folder out: {LEAST} are the least"
            )
    return torch.from_numpy(decoded).unsqueeze(1), labels, people


def described(labels: Tensor, people: list[str], shape: tuple[int, ...]) -> str:
    """How many people, pictures of each, pictures, and how large."""
    counts = labels.bincount()
    least, most = int(counts.min()), int(counts.max())
    each = f"{least} pictures each" if least == most else f"{least} to {most} pictures each"
    return f"{len(people)} people, {each}, {len(labels)} in all, {by(shape)} (height x width)"


ATT = Known(
    people=tuple(f"s{person}" for person in range(1, 41)),
    pictures=10,
    digest="e6eb1b6aa7d9e5bb7ff4397881e74ce2a55b3290a0cc9c0318a6bd2e666f5826",
)
"""The 40 people of AT&T."""


class Faces(ImageDataModule):
    """40 people with 10 grey pictures of 112×92 each; the task is to name the person.

    Read from `att_faces.tar.gz` or the folder `att_faces` in the data folder or the mirror, and refused if anything in
    it differs; or from class folders that lie there directly, of which it is said what was found. Of each person 7 pictures train the classifier and 3 are held out, by a fixed random choice that
    all models share. With so few pictures none is left to choose an epoch by: the last one is kept, and the held-out
    pictures are `validation` and `test` at once, as nothing is chosen by them. Step sizes are tuned within the training
    pictures (`FacesTuning`). Attackers bring no pictures of their own: there is no `surrogate` and no `scoring`.

    Free for non-commercial research, with credit to AT&T Laboratories Cambridge. F. Samaria & A. Harter,
    "Parameterisation of a stochastic model for human face identification", WACV 1994.
    """

    key = "faces"

    image_shape = (1, 112, 92)
    num_classes = 40
    # Not those of the pixels: networks are to see [-1, 1], as published.
    mean = 0.5
    std = 0.5
    judge_network = "faces_judge"
    chooses_epoch = False
    folder: ClassVar[Path | None] = None
    """Class folders to read instead of the archive."""
    known: ClassVar[Known | None] = ATT
    """What the archive, or the folder `att_faces`, must hold."""
    _own = False

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
                f" at {by(self.image_shape[1:])}: scale the pictures, or from Python use"
                " dpsnn.data.faces.own_faces"
            )
        self.people = people
        """Names of the people, in the order of their labels."""
        if self._own:
            found = described(labels, people, (height, width))
            print(f"faces: {self._where}: {found}", file=sys.stderr)
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
            return self._read_own(self.folder)
        for root in roots(self.data_dir):
            if class_folders(folder := root / "att_faces"):
                self._where = f"folder {folder.name}"
                say_place(self.data_dir, root, folder.name)
                return self._read_known(pictures_of_folder(folder), folder)
            for archive in (root / f"{ARCHIVE}.gz", root / ARCHIVE):
                if is_file(archive):
                    self._where = archive.name
                    say_place(self.data_dir, root, archive.name)
                    return self._read_known(pictures_of_archive(archive), archive)
            if class_folders(root):
                say_place(self.data_dir, root, "people")
                return self._read_own(root)
        raise UsageError(
            f"cannot reach the faces; put {ARCHIVE}.gz, or a folder att_faces with a folder of pictures for each person,"
            f" under {self.data_dir} or under the folder that {MIRROR} names"
        )

    def _read_own(self, folder: Path) -> tuple[Tensor, Tensor, list[str]]:
        self._where, self._own = f"folder {folder.name}", True
        return decode(pictures_of_folder(folder), str(folder))

    def _read_known(
        self, pictures: Iterable[Picture], place: Path
    ) -> tuple[Tensor, Tensor, list[str]]:
        """The set itself, or nothing."""
        found = list(pictures)
        if self.known and len(found) != (count := len(self.known.people) * self.known.pictures):
            raise UsageError(f"{place} holds {len(found)} pictures, not {count}; {AGAIN}")
        pixels, labels, people = decode(found, str(place))
        if self.known and (
            tuple(people) != self.known.people
            or fingerprint(pixels.numpy(), labels.numpy()) != self.known.digest
        ):
            raise UsageError(
                f"{place} holds other pictures than those of AT&T; {AGAIN}, or name the folder of your own people by"
                " --data_dir"
            )
        return pixels, labels, people

    def roles(self, pool: Pool) -> dict[str, range]:
        held_out = range(self._trained, len(pool.labels))
        return {"train": range(self._trained), "validation": held_out, "test": held_out}

    def foreign_surrogate(self, limit: int = 5000) -> Tensor:
        return self.pool.pixels[:limit]


class FacesAll(Faces):
    """The published protocol: all 10 pictures of each person are trained on, and accuracies are those on them."""

    key = "faces_all"

    def parts(self, mine: Int[Tensor, " k"]) -> tuple[Tensor, Tensor]:
        return mine, mine[:0]

    def roles(self, pool: Pool) -> dict[str, range]:
        every = range(len(pool.labels))
        return {"train": every, "validation": every, "test": every}


class FacesTuning(Faces):
    """Part of what `Faces` trains on to train, the rest of that to choose step sizes by; nothing it holds out."""

    key = "faces_tuning"

    def parts(self, mine: Int[Tensor, " k"]) -> tuple[Tensor, Tensor]:
        own = mine[: trained_of(len(mine))]
        cut = trained_of(len(own))
        return own[:cut], own[cut:]


class FacesOthers(Faces):
    """The other way round, for validators: trained on the pictures that `Faces` holds out, tested on its training ones.

    A validator of reconstructions has then seen none of the pictures that the classifier under attack learnt from.
    """

    key = "faces_others"

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
    constants: dict[str, object] = {
        "folder": Path(folder),
        "image_shape": shape,
        "num_classes": len(people),
    }
    return cast("type[Faces]", type(f"Own{kind.__name__}", (kind,), constants))
