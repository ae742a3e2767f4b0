"""The pictures that users send or an attacker owns: out of a folder, a file of arrays, or a function of the user's."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpsnn.audit.held import Filling, Pictures, at_once
from dpsnn.audit.picture_folder import PictureFolder
from dpsnn.audit.sources import called, is_function, unnamed
from dpsnn.data.pictures import MOST_PIXELS
from dpsnn.errors import UsageError, absent, meant, reading

IMAGES, LABELS = "images", "labels"

MOST_SIDE = math.isqrt(MOST_PIXELS)
"""Pixels on a side to which pictures are scaled, as larger ones are not read either."""

MOST_CLASSES = 100_000
"""From this label on they are no numbers of classes, but names."""


def open_pictures(
    source: Any,
    channels: int | None = None,
    size: int | None = None,
    groups: str = "",
    scratch: Path | None = None,
) -> Pictures | PictureFolder:
    """Find pictures; those of a folder are not read yet.

    Args:
        source: A folder whose subfolders are the classes; FILE.npz with `images` and `labels`, or FILE.npz:PREFIX with
            `PREFIX_images` and `PREFIX_labels`; FILE.py:FUNCTION, which gives pairs, or both arrays; or the pairs or
            arrays themselves.
        channels: 1 for grey, 3 for colour; None: as the first picture is.
        size: Pixels on a side: pictures of a folder are scaled by their shorter side and cropped about the middle.
        groups: What tells whose picture each is: `subfolder` of a folder, else the name of an array beside the images.
        scratch: Folder for a file with pictures that are too many for memory; None is where temporary files lie.

    Raises:
        UsageError: If there is nothing there, or it holds what are no pictures.
    """
    if size is not None and not 1 <= size <= MOST_SIDE:
        raise UsageError(f"--size is {size}; it must be from 1 to {MOST_SIDE:,} pixels")
    if not isinstance(source, str | Path):
        return _checked(source, "the data", groups, size, scratch)
    text = str(source)
    if is_function(text):
        return _checked(called(text, "a data set"), text, groups, size, scratch)
    path, _, prefix = text.rpartition(":") if ".npz:" in text else (text, "", "")
    if path.endswith(".npz"):
        return _checked(_arrays(path, prefix), text, groups, size, scratch)
    if Path(text).is_dir():
        return PictureFolder(Path(text), channels, size, groups)
    kinds = "give a folder of pictures, FILE.npz, FILE.py:FUNCTION or a data set of ours"
    if Path(text).exists():
        raise UsageError(unnamed(text) or f"{text} is none of the kinds of data; {kinds}")
    raise UsageError(f"{absent(text).replace('no ', 'no data ', 1)}; {kinds}")


def load_pictures(
    source: Any,
    channels: int | None = None,
    size: int | None = None,
    groups: str = "",
    scratch: Path | None = None,
) -> Pictures:
    """Read all pictures; arguments and errors are those of `open_pictures`."""
    found = open_pictures(source, channels, size, groups, scratch)
    if isinstance(found, Pictures):
        return found
    return found.dealt([torch.arange(len(found))], [len(found)], scratch)[0]


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
                raise UsageError(f"{path} has no array {start + IMAGES!r}, only {names}{hint}")
            wanted = [n for n in names if n.startswith(start)]
            return {n.removeprefix(start): content[n] for n in wanted}


def _checked(
    given: Any, name: str, groups: str, size: int | None, scratch: Path | None
) -> Pictures:
    """Pictures out of arrays, pairs, or a mapping of arrays."""
    if size is not None:
        raise UsageError(
            f"--size scales pictures of a folder; {name} has to give them as they are sent"
        )
    given = _mapped(given, name, scratch)
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


def _mapped(given: Any, name: str, scratch: Path | None) -> Mapping[str, Any]:
    if isinstance(given, Mapping):
        return given
    if isinstance(given, tuple | list) and len(given) == 2 and len(given[0]) > 2:
        return {IMAGES: given[0], LABELS: given[1]}
    if isinstance(given, Tensor | np.ndarray):
        return {IMAGES: given}
    try:
        return _paired(given, scratch)
    except UsageError:
        raise
    except Exception as error:  # whatever anyone's data set may raise
        raise UsageError(
            f"{name} gives {type(given).__name__}, no images and labels ({' '.join(str(error).split())[:120]}); give"
            " two arrays, or pairs of an image in [0, 1] and its class"
        ) from error


def _paired(given: Any, scratch: Path | None) -> Mapping[str, Any]:
    """Both arrays out of pairs, which may be made when they are asked for."""
    filling: Filling | None = None
    labels = []
    for row in range(len(given)):
        pair = given[row]  # once: whoever makes it may draw it anew
        image, label = pair[0], pair[1]
        pixels = torch.as_tensor(np.asarray(image))
        filling = filling or Filling(len(given), pixels, scratch)
        filling.add(pixels)
        labels.append(int(label))
    if filling is None:
        raise ValueError("there are none")
    return {IMAGES: filling.done(), LABELS: labels}


def as_tensor(given: Any, name: str) -> Tensor:
    """An array as a tensor, in the order of bytes of this machine, whatever its own is.

    Raises:
        UsageError: If it is no array of numbers.
    """
    if isinstance(given, Tensor):
        return given
    try:
        array = np.asarray(given)
        return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))
    except (TypeError, ValueError) as error:
        told = " ".join(str(error).split())[:120]
        raise UsageError(f"{name}: no array of numbers ({told}); give one") from error


def as_images(given: Any, name: str) -> Tensor:
    """Bytes or floats in [0, 1], `(N, C, H, W)`, out of whatever order of axes.

    Raises:
        UsageError: If they are no pictures, or out of range.
    """
    images = as_tensor(given, f"the images of {name}")
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
        return images
    if not images.is_floating_point():
        raise UsageError(
            f"the images of {name} are {images.dtype}; give bytes, or floats in [0, 1]"
        )
    blocks = images.split(at_once(images.shape[1:], len(images)))
    if not all(bool(block.isfinite().all()) for block in blocks):
        raise UsageError(f"the images of {name} hold values that are no finite numbers; mend them")
    low, high = (float(each) for each in images.aminmax())
    if low < 0 or high > 1:
        raise UsageError(
            f"the images of {name} lie in [{low:.4g}, {high:.4g}]; give bytes, or floats in [0, 1], and leave"
            " normalisation to the model"
        )
    return images.float()


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
    if labels.dtype.kind == "S":  # of whatever encoding
        labels = np.char.decode(labels, "utf-8", "backslashreplace")
    if labels.dtype.kind == "U":
        classes, numbers = np.unique(labels, return_inverse=True)
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
