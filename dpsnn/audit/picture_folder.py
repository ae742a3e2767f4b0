"""A folder of pictures: listed first, so that those which nobody needs are never read."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dpsnn.audit.held import Filling, Pictures
from dpsnn.data.pictures import MOST_BYTES, MOST_PIXELS, read_picture
from dpsnn.errors import UsageError, reading

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pnm")
)

SUBFOLDER = "subfolder"
"""Of `--groups`: the folder that a picture lies in is a person's."""

SYSTEMS = frozenset(("__MACOSX", "__pycache__"))
"""Folders that nobody made."""

PARTS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing"))
"""Folders that are parts of a data set, and no classes, where they have folders of their own."""


class PictureFolder:
    """Pictures in a folder, whose outermost folders are the classes, in the order of their names.

    Also one without a picture is a class: those behind it would have other numbers than the model gives them. Pictures
    that lie beside these folders are of no class and are left out. Links are followed, as torchvision does.

    Args:
        folder: With files in it, at any depth.
        channels: 1 for grey, 3 for colour; None: as the first picture is.
        size: Pixels on a side: pictures are scaled by their shorter side and cropped about the middle.
        groups: `subfolder`, or nothing.

    Raises:
        UsageError: If there is no picture.
    """

    def __init__(
        self, folder: Path, channels: int | None = None, size: int | None = None, groups: str = ""
    ) -> None:
        if groups not in ("", SUBFOLDER):
            raise UsageError(
                f"of a folder --groups is {SUBFOLDER!r}, not {groups!r}: CLASS/PERSON/PICTURE"
            )
        found = sorted(_files(folder))
        deeper = [path for path in found if path.parent != folder]
        beside = [path.name for path in found if path.parent == folder] if deeper else []
        self.paths = deeper or found
        if not self.paths:
            raise UsageError(
                f"{folder} holds no pictures; give a folder with one subfolder for each class"
            )
        self.folder, self.size, self.name = folder, size, str(folder)
        self.left: dict[int, str] = {}
        """Row → why it is left out, of those that turned out to be no pictures."""
        self.channels = channels or self._channels()
        within = [path.relative_to(folder).parts for path in self.paths]
        self.classes = tuple(class_folders(folder)) if deeper else ()
        number = {name: at for at, name in enumerate(self.classes)}
        self.labels = torch.tensor([number.get(parts[0], 0) for parts in within])
        self.groups = tuple(str(Path(*parts[:-1])) for parts in within) if groups else None
        self.doubts: tuple[str, ...] = ()
        if beside:
            self.doubts += (
                f"left out: {beside[0]}, and {len(beside) - 1} more that lie beside the folders of the classes",
            )
        if bare := sorted({*self.classes} - {parts[0] for parts in within}):
            self.doubts += (
                f"no picture is in {', '.join(bare[:3])}: of {len(self.classes)} classes, numbered by the names of the"
                f" folders, {len(bare)} have none",
            )
        if not groups and (doubt := _doubtful(within)):
            said = (
                f"{doubt}: the classes are the outermost folders ({', '.join(self.classes[:3])}); if those are parts of"
                " the data, give one of them"
            )
            self.doubts += (said,)
        if hidden := [name for name in _hidden(folder) if deeper]:
            self.doubts += (
                f"left out: the folder {hidden[0]}{f', and {len(hidden) - 1} more' if len(hidden) > 1 else ''}, as what"
                " systems put there is called so; if it is a class, the classes behind it are numbered wrongly: rename"
                " it",
            )
        if groups and (several := _in_several_classes(within)):
            self.doubts += (
                f"{several[0]}{f', and {len(several) - 1} more,' if len(several) > 1 else ''} of several classes"
                " counts as another person in each, who may come on both sides; if it is one, give an array of people"
                " beside the images",
            )
        flat = {parts[0] for parts in within if len(parts) < 3} if groups else set()
        if flat:
            some = sorted(flat)[:3]
            who = (
                "every class counts"
                if all(len(parts) < 3 for parts in within)
                else f"what lies in {', '.join(some)}{' and others' * (len(flat) > 3)} counts, class by class,"
            )
            self.doubts += (
                f"{who} as one person, as it lies no deeper than {SUBFOLDER}s of {folder}: of a class of many people"
                " give CLASS/PERSON/PICTURE",
            )

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of what was read so far."""
        left = (f"left out: {self.left[row]}" for row in sorted(self.left))
        return (*left, *self.doubts)

    def dealt(
        self, sides: Sequence[Tensor], most: Sequence[int], scratch: Path | None = None
    ) -> list[Pictures]:
        """Read some of them; all lie in one piece of memory, or in one file.

        Args:
            sides: Rows.
            most: How many of each are read, the first that are pictures.
            scratch: Folder for the file, if it takes one.

        Raises:
            UsageError: If none of them is a picture, or they differ in size.
        """
        count = sum(min(len(side), limit) for side, limit in zip(sides, most))
        filling: Filling | None = None
        taken: list[list[int]] = []
        for side, limit in zip(sides, most):
            taken.append([])
            for row, picture in self._pictures(side):
                if filling is None:
                    filling = Filling(count, picture, scratch)
                if tuple(picture.shape) != filling.shape:
                    raise self._differing(filling.shape, tuple(picture.shape))
                filling.add(picture)
                taken[-1].append(row)
                if len(taken[-1]) == limit:
                    break
        if filling is None:
            raise self._none()
        images, parts = filling.done(), []
        for rows in map(torch.tensor, taken):
            rows = rows.long()
            own, images = images[: len(rows)], images[len(rows) :]
            groups = self.groups and tuple(self.groups[row] for row in rows.tolist())
            known = self.labels[rows], self.classes, self.name, groups or None, self.notes
            parts.append(Pictures(own, *known, rows))
        return parts

    def marks(self, rows: Tensor) -> Iterator[bytes]:
        """What tells each picture from others: a digest of its file, and of how it is read."""
        how = f"{self.channels} {self.size} ".encode()
        for row in rows.tolist():
            try:
                with open(self.paths[row], "rb") as file:
                    yield sha256(how + file.read(MOST_BYTES + 1)).digest()
            except OSError:  # it is no picture then, which is said where it is read
                yield sha256(how).digest()

    def _pictures(self, side: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Rows with their pictures, `(C, H, W)`, of those that are some."""
        for row in side.tolist():
            if row in self.left:
                continue
            try:
                picture = _fitted(read_picture(self.paths[row], self.channels), self.size)
            except UsageError as error:
                self.left[row] = str(error)
                continue
            pixels = picture.reshape(*picture.shape[:2], -1).transpose(2, 0, 1)
            yield row, torch.from_numpy(pixels.copy())  # what Pillow gives may not be written to

    def _channels(self) -> int:
        """Grey or colour, as the first picture is kept.

        Raises:
            UsageError: If there is none.
        """
        from PIL import Image

        for row, path in enumerate(self.paths):
            try:
                with reading(path, "a picture", "replace it or take it out"):
                    with Image.open(path) as picture:
                        return 1 if picture.mode in ("1", "L", "LA", "I", "I;16") else 3
            except UsageError as error:
                self.left[row] = str(error)
        raise self._none()

    def _none(self) -> UsageError:
        return UsageError(
            f"{self.folder} holds no picture that can be read: {self.left[min(self.left)]}"
        )

    def _differing(self, *shapes: tuple[int, ...]) -> UsageError:
        some = sorted((*shape[1:], *([3] if shape[0] == 3 else [])) for shape in shapes)
        return UsageError(
            f"the pictures in {self.folder} differ in size, such as {some[0]} and {some[1]}; give one with --size"
        )


def _doubtful(within: Sequence[tuple[str, ...]]) -> str:
    """Why the outermost folders of pictures may be no classes; empty where nothing speaks against it."""
    deep = {parts[:2] for parts in within if len(parts) > 2}
    inner = [name for _, name in deep]
    if twice := sorted(name for name in {*inner} if inner.count(name) > 1):
        return f"several folders have a folder {twice[0]}"
    if parts := sorted(name for name, _ in deep if name.lower() in PARTS):
        return f"{parts[0]} has folders of its own"
    return ""


def _in_several_classes(within: Sequence[tuple[str, ...]]) -> list[str]:
    """Folders of people that have the same name in several classes, in order."""
    inner = Counter(tuple(who) for _, *who in {parts[:-1] for parts in within if len(parts) > 2})
    return sorted("/".join(who) for who, count in inner.items() if count > 1)


def _hidden(folder: Path) -> list[str]:
    """Folders that are passed over for their names, and may be classes all the same: with pictures, and no system's."""
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.name.startswith("__")
        and path.name not in SYSTEMS
        and path.is_dir()
        and _has_pictures(path)
    )


def _has_pictures(folder: Path) -> bool:
    try:
        return any(True for _ in _files(folder))
    except UsageError:  # it may not be looked into, so there is no telling
        return True


def _files(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Whatever is called as pictures are, at any depth; a link to nothing too, which is said where it is read.

    Args:
        folder: Where.
        above: Folders in which it lies: whoever links back to one of these would never come to an end.

    Raises:
        UsageError: If it may not be looked into.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise UsageError(
            f"{folder} may not be looked into ({error.strerror}); change that"
        ) from error
    for path in (folder / name for name in names if not is_hidden(name)):
        if os.path.isdir(path):
            yield from _files(path, (*above, real))
        elif path.suffix.lower() in SUFFIXES and (os.path.isfile(path) or not os.path.exists(path)):
            yield path


def class_folders(folder: Path) -> list[str]:
    """Names of the classes of a folder of pictures, in their order."""
    return sorted(
        path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)
    )


def is_hidden(name: str) -> bool:
    """Whether a file or folder is not the user's own: what systems put there begins with `.` or `__`."""
    return name.startswith((".", "__"))


def _fitted(picture: np.ndarray, size: int | None) -> np.ndarray:
    """Scaled by its shorter side and cropped about the middle."""
    if size is None:
        return picture
    from PIL import Image

    made = Image.fromarray(picture)
    least = min(made.size)
    wide, high = (max(size, round(side * size / least)) for side in made.size)
    if wide * high > MOST_PIXELS:  # of a very long one only the middle is ever enlarged
        left, top = ((side - least) // 2 for side in made.size)
        made = made.crop((left, top, left + least, top + least))
        wide = high = size
    made = made.resize((wide, high), Image.Resampling.BILINEAR, reducing_gap=3.0)
    left, top = (wide - size) // 2, (high - size) // 2
    return np.asarray(made.crop((left, top, left + size, top + size)))
