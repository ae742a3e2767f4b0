"""The files of a data set: where they are (the data folder, the local mirror, a download), and arrays out of them."""

import gzip
import hashlib
import math
import os
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dpsnn.atomic import scratch
from dpsnn.errors import UsageError, reading, regular

MIRROR = "DPSNN_DATA_MIRROR"

USUAL = Path("data")
"""The folder that is taken where none is named."""

AGAIN = "fetch it again"

MOST_VALUES = 2**28
"""Of a file that is not said to have a certain shape."""


def roots(data_dir: Path) -> list[Path]:
    """The data folder and the mirror, where there is one.

    Raises:
        UsageError: If the mirror is no folder.
    """
    places = [data_dir]
    if mirror := os.environ.get(MIRROR):
        if not os.path.isdir(mirror):
            raise UsageError(
                f"{MIRROR} is {mirror!r}, which is not a folder; correct it or unset it"
            )
        places.append(Path(mirror))
    return places


def find(data_dir: Path, names: Sequence[str]) -> list[Path] | None:
    """The files `names`, all from one folder, unpacked or with `.gz`; None if no folder has them all.

    Raises:
        UsageError: If there is a pipe or a device of such a name.
    """
    for root in roots(data_dir):
        found = []
        for name in names:
            path = next((p for p in (root / name, root / f"{name}.gz") if is_file(p)), None)
            if path is None:
                break
            found.append(path)
        else:
            say_place(data_dir, root, names[0])
            return found
    return None


def say_place(data_dir: Path, root: Path, name: str) -> None:
    """Say once that a set comes from the mirror where somebody named a folder for it that lacks it."""
    named = data_dir != USUAL and os.path.isdir(data_dir)
    if named and root != data_dir and (data_dir, name) not in _said:
        _said.add((data_dir, name))
        print(f"{data_dir} has no {name}; it is read from the mirror {root}", file=sys.stderr)


_said: set[tuple[Path, str]] = set()


def is_file(path: Path) -> bool:
    """Whether there is such a file, also where the folder is not to be looked into or the name is none.

    Raises:
        UsageError: If it is a pipe or a device.
    """
    regular(path)
    return os.path.isfile(path)


def find_or_download(
    data_dir: Path, names: Sequence[str], download: Callable[[Path], object], label: str
) -> list[Path]:
    """The files `names` from the data folder or the mirror; else `download(folder)` is to bring them.

    Raises:
        UsageError: If they cannot be had; the line names the files and the ways out.
    """
    if found := find(data_dir, names):
        return found
    reason = "the download left no such files"
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        # Only whole files get their names, also when interrupted.
        with scratch(".download", data_dir) as folder:
            download(folder)
            for path in find(folder, names) or []:
                target = data_dir / path.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
    except Exception as error:  # torchvision raises anything from URLError to RuntimeError here
        reason = f"download failed: {' '.join(str(error).split())[:200]}"
    if found := find(data_dir, names):
        return found
    raise UsageError(
        f"cannot reach {label} ({reason}); put {', '.join(n + '[.gz]' for n in names)} under {data_dir}"
        f" or under the folder that {MIRROR} names, or use --dataset digits"
    )


class Idx(NamedTuple):
    """An IDX file of a data set, and what it must hold."""

    name: str
    """Below the data folder, unpacked."""
    shape: tuple[int, ...]
    digest: str = ""
    """The `fingerprint` of its values; empty where nobody has computed it."""


def fingerprint(*arrays: np.ndarray) -> str:
    """SHA-256 of the bytes of arrays: of what is in a file, however the file is packed."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def unpacked(path: Path, most: int) -> bytes:
    """The content of a file, unpacked if gzip packed it.

    Args:
        path: Packed or not, whatever its name says.
        most: Bytes that it may hold. One more is read and nothing beyond: a few bytes may stand for gigabytes.

    Returns:
        At most `most + 1` bytes.
    """
    with open(path, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        return (gzip.GzipFile(fileobj=raw) if packed else raw).read(most + 1)


def read_idx(path: Path, shape: tuple[int, ...] | None = None) -> Tensor:
    """Read an IDX file of bytes (LeCun's format), gzipped or not.

    Args:
        path: The file.
        shape: That it must have; by default any of up to MOST_VALUES.

    Returns:
        A uint8 tensor in the shape that the file states.

    Raises:
        UsageError: If the file is damaged, not IDX, or of another shape.
    """
    most = MOST_VALUES if shape is None else math.prod(shape)
    with reading(path, "an IDX file of bytes", AGAIN):
        content = unpacked(path, 4 + 4 * 255 + most)
        zeros, kind, rank = struct.unpack_from(">HBB", content)
        if zeros != 0 or kind != 8:
            raise ValueError("wrong magic number")
        if not rank:
            raise ValueError("no shape")
        stated = struct.unpack_from(f">{rank}I", content, 4)
        if shape is not None and stated != shape:
            raise UsageError(f"{path} holds {by(stated)} values, where {by(shape)} belong; {AGAIN}")
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
        if len(values) != math.prod(stated):
            more = "more" if len(values) > math.prod(stated) else "fewer"
            raise ValueError(f"{more} bytes than the {by(stated)} that it states")
        return torch.from_numpy(values.reshape(stated).copy())


def by(shape: tuple[int, ...]) -> str:
    """`60000x28x28`, for messages."""
    return "x".join(map(str, shape))


def read_pair(paths: Sequence[Path], files: Sequence[Idx]) -> tuple[Tensor, Tensor]:
    """Images `(N, 1, H, W)` uint8 and labels `(N,)` int64 of two IDX files.

    Args:
        paths: Where the images and the labels are.
        files: What the two must hold.

    Raises:
        UsageError: If they hold anything else.
    """
    images, labels = (read_idx(path, file.shape) for path, file in zip(paths, files))
    for path, file, values in zip(paths, files, (images, labels)):
        if file.digest and fingerprint(values.numpy()) != file.digest:
            raise UsageError(f"{path} is damaged or holds other values than {file.name}; {AGAIN}")
    return images.unsqueeze(1), labels.long()


def read_array(path: Path, count: int | None = None) -> np.ndarray:
    """The first rows of an array of numbers (`.npy`), whatever its file's size.

    Nothing is unpickled, and nothing is allocated before the file is seen to hold what it states.

    Raises:
        UsageError: If the file is damaged or holds anything else.
    """
    with reading(path, "an array of numbers (.npy)", "save it with numpy.save"):
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"version {version} of the format")
            first = version == (1, 0)
            header = (
                np.lib.format.read_array_header_1_0
                if first
                else np.lib.format.read_array_header_2_0
            )
            shape, by_column, kind = header(file)
            start, size = file.tell(), os.fstat(file.fileno()).st_size
        if kind.kind not in "biuf" or not shape or min(shape) < 1:
            raise ValueError(f"{by(shape) or 'one'} of {kind}")
        if math.prod(shape) * kind.itemsize != size - start:
            raise ValueError(f"{size - start} bytes for {by(shape)} of {kind}")
        rows = np.memmap(path, kind, "r", start, shape, "F" if by_column else "C")[:count]
        return np.array(rows, kind.newbyteorder("="), order="C")
