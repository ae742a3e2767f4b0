"""What an evaluation leaves out: a file that needs a part which is not here is named, and the rest is evaluated."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from dpsnn import checkpoints
from dpsnn.errors import Lacking, WorkFailed
from dpsnn.runner.progress import note

Loaded = TypeVar("Loaded")


class LeftOut(WorkFailed):
    """Some files were left out; all others are done."""


class Leaving:
    """Loads files and keeps count of those that cannot be, for want of a plug-in."""

    def __init__(self) -> None:
        self.total = 0
        self.lacking: dict[str, Lacking] = {}

    def loaded(self, path: Path, load: Callable[[], Loaded]) -> Loaded | None:
        """What `load` makes of a file; None where that needs what is not here, which is said in a line."""
        self.total += 1
        try:
            return load()
        except Lacking as error:
            self.lacking[path.name.removesuffix(".ckpt")] = error
            note(f"left out: {error}")
            return None

    def check_any(self) -> None:
        """Raise Lacking if every file was left out."""
        if self.lacking and len(self.lacking) == self.total:
            raise next(iter(self.lacking.values()))

    def close(self) -> None:
        """Raise LeftOut, with the names, if a file was left out."""
        if self.lacking:
            raise LeftOut(
                f"left out {len(self.lacking)} of {self.total}, which need parts that are not here:"
                f" {', '.join(self.lacking)}"
            )


def arguments_of(path: Path, kind: str) -> dict[str, object]:
    """The arguments of a checkpoint, also of one that needs a part which is not here."""
    try:
        return checkpoints.read(path, kind).arguments
    except Lacking as error:
        if error.stored is None:
            raise
        arguments: dict[str, object] = error.stored.arguments
        return arguments
