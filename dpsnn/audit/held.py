"""Where pictures are held: in memory, or, where they are many, in a file that nobody else sees and that ends with them.

They are written where they stay, one after another, so that there is never a second copy of them.
"""

import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from dpsnn.audit.identity import mark
from dpsnn.errors import UsageError
from dpsnn.memory import memory_bytes

RESIDENT = 2**30
"""Bytes of pictures that are held in memory, at most."""

SHARE = 1 / 8
"""Of the memory that there is, for these; of little memory the less of both."""

BLOCK = 2 * 10**7
"""Values of pictures that are worked on at a time, 80 MB in float32."""


def resident() -> int:
    """Bytes of pictures that are held in memory; more of them lie in a file."""
    return min(RESIDENT, int(SHARE * memory_bytes()))


def at_once(shape: tuple[int, ...] | torch.Size, most: int) -> int:
    """How many pictures of a shape are worked on at a time: `most`, or as many as `BLOCK` allows."""
    return max(1, min(most, BLOCK // max(1, torch.Size(shape).numel())))


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
        """Some of them, copied."""
        groups = None if self.groups is None else tuple(self.groups[row] for row in rows.tolist())
        return replace(
            self,
            images=self.images.index_select(0, rows),
            labels=self.labels[rows],
            groups=groups,
            at=self.places[rows],
        )

    @property
    def places(self) -> Tensor:
        """Row of each in the data as it was given."""
        return torch.arange(len(self)) if self.at is None else self.at

    def first(self, count: int) -> "Pictures":
        """The first so many, not copied."""
        groups = None if self.groups is None else self.groups[:count]
        return replace(
            self,
            images=self.images[:count],
            labels=self.labels[:count],
            groups=groups,
            at=self.places[:count],
        )

    def dealt(
        self, sides: Sequence[Tensor], most: Sequence[int], scratch: Path | None = None
    ) -> list["Pictures"]:
        """Rows for each side, the first so many of each."""
        return [self.rows(side[:limit]) for side, limit in zip(sides, most)]

    def marks(self, rows: Tensor) -> Iterator[bytes]:
        """What tells each of some from others: a digest of its pixels."""
        return (mark(self.images[row]) for row in rows.tolist())


class Filling:
    """Rows of one shape, filled in one after another.

    Args:
        count: Of rows, at most.
        like: The first of them, or one like it.
        folder: Where a file may lie; None is where temporary files do.

    Raises:
        UsageError: If there is no room for it.
    """

    def __init__(self, count: int, like: Tensor, folder: Path | None = None) -> None:
        self.shape, self.kind, self.filled = tuple(like.shape), like.dtype, 0
        size = count * like.numel() * like.element_size()
        self.file: IO[bytes] | None = None
        self.rows = torch.zeros(0)
        if size <= resident():
            # Pages that are never written to take no memory.
            self.rows = torch.empty(count, *self.shape, dtype=self.kind)
            return
        place = Path(tempfile.gettempdir()) if folder is None else folder
        free = shutil.disk_usage(place).free
        if free < size:
            raise UsageError(
                f"{count:,} pictures take {gigabytes(size)}, more than memory is given to, and {place} has room for"
                f" {gigabytes(free)}; make room, name another folder{'' if folder else ' in TMPDIR'}, or give fewer or"
                " smaller pictures"
            )
        # Without a name where the system allows it: it is gone with this process, however that ends.
        self.file = tempfile.TemporaryFile(dir=place)

    def add(self, row: Tensor) -> None:
        """The next row.

        Raises:
            ValueError: If it has another shape or type.
        """
        if (tuple(row.shape), row.dtype) != (self.shape, self.kind):
            raise ValueError(
                f"one is {row.dtype} of shape {tuple(row.shape)}, another {self.kind} of shape {self.shape}"
            )
        if self.file is None:
            self.rows[self.filled] = row
        else:
            try:
                self.file.write(row.contiguous().numpy().data)
            except OSError as error:
                raise UsageError(
                    f"pictures cannot be written to a file: {error}; make room there"
                ) from error
        self.filled += 1

    def done(self) -> Tensor:
        """All rows, `(N, ...)`."""
        if self.file is None or not self.filled:
            return self.rows[: self.filled] if self.file is None else self._none()
        self.file.flush()
        kind = torch.empty(0, dtype=self.kind).numpy().dtype
        # What is read stays in the file, and leaves memory when others need it; what would be changed is a copy.
        mapped = np.memmap(self.file, kind, "c", shape=(self.filled, *self.shape))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.from_numpy(mapped)

    def _none(self) -> Tensor:
        return torch.empty(0, *self.shape, dtype=self.kind)


def gigabytes(size: float) -> str:
    """As it is said to people."""
    return f"{size / 1e9:,.1f} GB"
