"""Finding the files of a data set: the data folder, then the local mirror, then a download."""

import gzip
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dpsnn.atomic import scratch
from dpsnn.errors import UsageError

MIRROR = "DPSNN_DATA_MIRROR"


def roots(data_dir: Path) -> list[Path]:
    """The data folder and the mirror, where there is one.

    Raises:
        UsageError: If the mirror is no folder.
    """
    places = [data_dir]
    if mirror := os.environ.get(MIRROR):
        if not Path(mirror).is_dir():
            raise UsageError(
                f"{MIRROR} is {mirror!r}, which is not a folder; correct it or unset it"
            )
        places.append(Path(mirror))
    return places


def find(data_dir: Path, names: Sequence[str]) -> list[Path] | None:
    """The files `names`, all from one folder, unpacked or with `.gz`; None if no folder has them all."""
    for root in roots(data_dir):
        found = []
        for name in names:
            path = next((p for p in (root / name, root / f"{name}.gz") if p.is_file()), None)
            if path is None:
                break
            found.append(path)
        else:
            return found
    return None


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


def read_idx(path: Path) -> Tensor:
    """Read an IDX file of bytes (LeCun's format), gzipped or not.

    Returns:
        A uint8 tensor in the shape that the file states.

    Raises:
        UsageError: If the file is damaged or not IDX.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read()
        zeros, kind, rank = struct.unpack(">HBB", content[:4])
        shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
        if zeros != 0 or kind != 8:
            raise ValueError("wrong magic number")
        array = np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise UsageError(
            f"{path} is damaged or not an IDX file ({error}); fetch it again"
        ) from error
    return torch.from_numpy(array.copy())


def read_pair(images: Path, labels: Path) -> tuple[Tensor, Tensor]:
    """Images `(N, 1, H, W)` uint8 and labels `(N,)` int64 of two IDX files.

    Raises:
        UsageError: If the two do not belong together.
    """
    pixels, classes = read_idx(images), read_idx(labels)
    if pixels.dim() != 3 or classes.dim() != 1 or len(pixels) != len(classes):
        raise UsageError(
            f"{images} holds {tuple(pixels.shape)} and {labels} {tuple(classes.shape)}: not images with"
            " their labels; fetch both again"
        )
    return pixels.unsqueeze(1), classes.long()
