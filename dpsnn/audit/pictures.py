"""The pictures that users send or an attacker owns: out of a folder, a file of arrays, or a function of the user's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpsnn.audit.sources import called, is_function, unnamed
from dpsnn.data.pictures import read_picture
from dpsnn.errors import UsageError, absent, meant, reading

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pnm")
)

SUBFOLDER = "subfolder"
"""Of `--groups`: the folder that a picture lies in is a person's."""

PARTS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing"))
"""Folders that are parts of a data set, and no classes, where they have folders of their own."""

IMAGES, LABELS = "images", "labels"

MOST_CLASSES = 100_000
"""From this label on they are no numbers of classes, but names."""


@dataclass(frozen=True)
class Pictures:
    """Pictures of one shape."""

    images: Tensor
    """`(N, C, H, W)`: bytes, or floats in [0, 1]."""
    labels: Tensor
    """int64, 0 based; all 0 where there are none."""
    classes: tuple[str, ...]
    """Names; empty where nobody gave labels."""
    name: str
    groups: tuple[str, ...] | None = None
    """Whose picture each is."""
    notes: tuple[str, ...] = ()
    at: Tensor | None = None
    """Row of each in the data as it was given; None is all, in their order."""

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, rows: Tensor) -> "Pictures":
        """Some of them."""
        groups = None if self.groups is None else tuple(self.groups[row] for row in rows.tolist())
        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            groups=groups,
            at=self.places[rows],
        )

    @property
    def places(self) -> Tensor:
        """Row of each in the data as it was given."""
        return torch.arange(len(self)) if self.at is None else self.at


def load_pictures(
    source: Any, channels: int | None = None, size: int | None = None, groups: str = ""
) -> Pictures:
    """Read pictures.

    Args:
        source: A folder whose subfolders are the classes; FILE.npz with `images` and `labels`, or FILE.npz:PREFIX with
            `PREFIX_images` and `PREFIX_labels`; FILE.py:FUNCTION, which gives pairs, or both arrays; or the pairs or
            arrays themselves.
        channels: 1 for grey, 3 for colour; None: as the first picture is.
        size: Pixels on a side: pictures of a folder are scaled by their shorter side and cropped about the middle.
        groups: What tells whose picture each is: `subfolder` of a folder, else the name of an array beside the images.

    Raises:
        UsageError: If there is nothing there, or it holds what are no pictures.
    """
    if size is not None and size < 1:
        raise UsageError(f"--size is {size}; it must be 1 pixel or more")
    if not isinstance(source, str | Path):
        return _checked(source, "the data", groups, size)
    text = str(source)
    if is_function(text):
        return _checked(called(text, "a data set"), text, groups, size)
    path, _, prefix = text.rpartition(":") if ".npz:" in text else (text, "", "")
    if path.endswith(".npz"):
        return _checked(_arrays(path, prefix), text, groups, size)
    if Path(text).is_dir():
        return _folder(Path(text), channels, size, groups)
    kinds = "give a folder of pictures, FILE.npz, FILE.py:FUNCTION or a data set of ours"
    if Path(text).exists():
        raise UsageError(unnamed(text) or f"{text} is none of the kinds of data; {kinds}")
    raise UsageError(f"{absent(text).replace('no ', 'no data ', 1)}; {kinds}")


# ---------------------------------------------------------------- folders


def _folder(folder: Path, channels: int | None, size: int | None, groups: str) -> Pictures:
    if groups not in ("", SUBFOLDER):
        raise UsageError(
            f"of a folder --groups is {SUBFOLDER!r}, not {groups!r}: CLASS/PERSON/PICTURE"
        )
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(is_hidden(part) for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not paths:
        raise UsageError(
            f"{folder} holds no pictures; give a folder with one subfolder for each class"
        )
    found: list[np.ndarray] = []
    kept: list[Path] = []
    left: list[str] = []
    for path in paths:
        try:
            channels = channels or _channels(path)
            picture = read_picture(path, channels)
        except UsageError as error:
            left.append(str(error))
            continue
        kept.append(path)
        found.append(_fitted(picture, size))
    if not found:
        raise UsageError(f"{folder} holds no picture that can be read: {left[0]}")
    shapes = sorted({each.shape for each in found})
    if len(shapes) > 1:
        raise UsageError(
            f"the pictures in {folder} differ in size, such as {shapes[0]} and {shapes[-1]}; give one with --size"
        )
    images = torch.from_numpy(np.stack(found)).view(len(found), *shapes[0][:2], -1)
    within = [path.relative_to(folder).parts for path in kept]
    names = [parts[0] if len(parts) > 1 else "" for parts in within]
    classes = tuple(sorted({*names}))
    said = [f"left out: {reason}" for reason in left]
    if not groups and (doubt := _doubtful(within)):
        said.append(
            f"{doubt}: the classes are the outermost folders ({', '.join(classes[:3])}); if those are parts of the"
            " data, give one of them"
        )
    return Pictures(
        images.permute(0, 3, 1, 2).contiguous(),
        torch.tensor([classes.index(name) for name in names]),
        () if classes == ("",) else classes,
        str(folder),
        tuple(str(Path(*parts[:-1])) for parts in within) if groups else None,
        tuple(said),
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


def is_hidden(name: str) -> bool:
    """Whether a file or folder is not the user's own: what systems put there begins with `.` or `__`."""
    return name.startswith((".", "__"))


def _channels(path: Path) -> int:
    """Grey or colour, as a picture is kept."""
    from PIL import Image

    with reading(path, "a picture", "replace it or take it out"), Image.open(path) as picture:
        return 1 if picture.mode in ("1", "L", "LA", "I", "I;16") else 3


def _fitted(picture: np.ndarray, size: int | None) -> np.ndarray:
    """Scaled by its shorter side and cropped about the middle."""
    if size is None:
        return picture
    from PIL import Image

    made = Image.fromarray(picture)
    scale = size / min(made.size)
    wide, high = (max(size, round(side * scale)) for side in made.size)
    made = made.resize((wide, high), Image.Resampling.BILINEAR, reducing_gap=3.0)
    left, top = (wide - size) // 2, (high - size) // 2
    return np.asarray(made.crop((left, top, left + size, top + size)))


# ---------------------------------------------------------------- arrays


def _arrays(path: str, prefix: str) -> dict[str, Any]:
    with reading(path, "a NumPy file of arrays", "write it with numpy.savez"):
        with np.load(path, allow_pickle=False) as content:
            names = content.files
            start = f"{prefix}_" if prefix else ""
            if f"{start}{IMAGES}" not in names:
                several = sorted(
                    n.removesuffix(f"_{IMAGES}") for n in names if n.endswith(f"_{IMAGES}")
                )
                hint = f"; name one of its parts, {path}:{several[0]}" if several else ""
                raise UsageError(f"{path} has no array {start}{IMAGES!r}, only {names}{hint}")
            wanted = [n for n in names if n.startswith(start)]
            return {n.removeprefix(start): content[n] for n in wanted}


def _checked(given: Any, name: str, groups: str, size: int | None) -> Pictures:
    """Pictures out of arrays, pairs, or a mapping of arrays."""
    if size is not None:
        raise UsageError(
            f"--size scales pictures of a folder; {name} has to give them as they are sent"
        )
    given = _mapped(given, name)
    if IMAGES not in given:
        raise UsageError(f"{name} has no {IMAGES!r}, only {[*given]}; give images and labels")
    images = as_images(given[IMAGES], name)
    labels, classes, said = _labelled(given.get(LABELS), len(images), name)
    owners = None
    if groups:
        if groups not in given or groups in (IMAGES, LABELS):
            rest = [each for each in given if each not in (IMAGES, LABELS)]
            raise UsageError(
                f"{name} has no array {groups!r} beside its images{meant(groups, rest)}; it must say whose each is"
            )
        owners = tuple(str(each) for each in np.asarray(given[groups]).reshape(-1))
        if len(owners) != len(images):
            raise UsageError(f"{name} has {len(images)} images, and {len(owners)} of {groups!r}")
    return Pictures(images, labels, classes, name, owners, said)


def _mapped(given: Any, name: str) -> Mapping[str, Any]:
    if isinstance(given, Mapping):
        return given
    if isinstance(given, tuple | list) and len(given) == 2 and len(given[0]) > 2:
        return {IMAGES: given[0], LABELS: given[1]}
    if isinstance(given, Tensor | np.ndarray):
        return {IMAGES: given}
    try:
        pairs = [given[row] for row in range(len(given))]
        images = torch.stack([torch.as_tensor(np.asarray(pair[0])) for pair in pairs])
        return {IMAGES: images, LABELS: [int(pair[1]) for pair in pairs]}
    except Exception as error:  # whatever anyone's data set may raise
        raise UsageError(
            f"{name} gives {type(given).__name__}, no images and labels ({' '.join(str(error).split())[:120]}); give"
            " two arrays, or pairs of an image in [0, 1] and its class"
        ) from error


def as_images(given: Any, name: str) -> Tensor:
    """Bytes or floats in [0, 1], `(N, C, H, W)`, out of whatever order of axes.

    Raises:
        UsageError: If they are no pictures, or out of range.
    """
    images = given if isinstance(given, Tensor) else torch.from_numpy(np.ascontiguousarray(given))
    if images.dim() == 3:
        images = images.unsqueeze(1)
    if images.dim() == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3, 4):
        images = images[..., :3].permute(0, 3, 1, 2)
    if images.dim() != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise UsageError(
            f"the images of {name} have shape {tuple(images.shape)}; give (N, H, W), (N, H, W, C) or (N, C, H, W) with"
            " 1 or 3 channels"
        )
    if images.dtype == torch.uint8:
        return images.contiguous()
    if not images.is_floating_point():
        raise UsageError(
            f"the images of {name} are {images.dtype}; give bytes, or floats in [0, 1]"
        )
    if not bool(images.isfinite().all()):
        raise UsageError(f"the images of {name} hold values that are no finite numbers; mend them")
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise UsageError(
            f"the images of {name} lie in [{low:.4g}, {high:.4g}]; give bytes, or floats in [0, 1], and leave"
            " normalisation to the model"
        )
    return images.float().contiguous()


def _labelled(given: Any, count: int, name: str) -> tuple[Tensor, tuple[str, ...], tuple[str, ...]]:
    """Classes by number, their names, and what is to be said of them."""
    if given is None:
        return torch.zeros(count, dtype=torch.long), (), ()
    labels = np.asarray(given.cpu() if isinstance(given, Tensor) else given)
    labels = labels.reshape(-1) if labels.size == count else labels
    if labels.shape != (count,):
        raise UsageError(
            f"{name} has {count} images, and labels of shape {labels.shape}; give one each"
        )
    if labels.dtype.kind in "US":
        classes, numbers = np.unique(labels.astype(str), return_inverse=True)
        return torch.from_numpy(numbers.astype(np.int64)), tuple(map(str, classes)), ()
    if labels.dtype.kind not in "iub" or labels.min() < 0:
        raise UsageError(f"the labels of {name} must be whole numbers from 0, or names of classes")
    if labels.max() >= MOST_CLASSES:
        ids, numbers = np.unique(labels, return_inverse=True)
        said = (
            f"the labels of {name} go up to {labels.max()}: they are taken for names of {len(ids)} classes, numbered in"
            " their order; accuracy is right if the model numbers them so too",
        )
        return torch.from_numpy(numbers.astype(np.int64)), tuple(map(str, ids)), said
    found = torch.from_numpy(labels.astype(np.int64))
    return found, tuple(map(str, range(int(found.max()) + 1))), ()
