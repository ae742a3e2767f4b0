"""Who makes a model: is it there already, who else makes it now, and where does its training go on from."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import Tensor

from dpsnn import checkpoints, manifest, signals
from dpsnn.atomic import clear_stale
from dpsnn.checkpoints import ATTACKER, all_progress, already, ensure_writable, progress_path
from dpsnn.errors import UsageError
from dpsnn.names import names_of
from dpsnn.specs import AttackerSpec, ClassifierSpec


def finished(folder: Path, name: str, kind: str, arguments: dict[str, Any]) -> Path | None:
    """The finished checkpoint of these arguments, if there is one; progress that a killed process left beside it goes.

    Raises:
        UsageError: If the name is taken by other arguments.
    """
    done = already(folder, name, kind, arguments)
    if done:
        _forget(progress_path(folder, name, arguments))
    return done


def _forget(progress: Path) -> None:
    """Remove what a training kept to go on from."""
    for path in all_progress(progress):
        path.unlink(missing_ok=True)


class Claim:
    """A name in a folder of checkpoints, while one process alone makes what it stands for.

    Args:
        folder: Of the checkpoints.
        name: Of the model, without `_epoch=XX.ckpt`.
        kind: Of the checkpoint.
        arguments: What is asked for.
    """

    def __init__(self, folder: Path, name: str, kind: str, arguments: dict[str, Any]) -> None:
        self.folder, self.name, self.kind, self.arguments = folder, name, kind, arguments
        self.progress = progress_path(folder, name, arguments)
        """Where an unfinished training keeps its state; those that only prepare it do so beside it."""
        self.done = finished(folder, name, kind, arguments)
        """The checkpoint, where it is there already."""

    def save(
        self, record: dict[str, Any], weights: dict[str, Tensor], epoch: int | None = None
    ) -> Path:
        """Write the checkpoint, and take away what was kept to go on from."""
        path = self.folder / f"{self.name}{'' if epoch is None else f'_epoch={epoch:02d}'}.ckpt"
        with signals.held():
            self._set_aside(path)
            checkpoints.save(path, self.kind, self.arguments, record, weights)
            _forget(self.progress)
        return path

    def _set_aside(self, path: Path) -> None:
        """Give a file of an earlier version, whose name a present one takes, the name that says its version.

        Raises:
            UsageError: If that name is taken.
        """
        if not path.exists():
            return
        there = checkpoints.read(path, self.kind)
        spec = AttackerSpec if self.kind == ATTACKER else ClassifierSpec
        aside = path.with_name(f"{names_of(spec, there.arguments, there.versions)[-1]}.ckpt")
        if not checkpoints.superseded(there, self.kind, self.arguments):
            return
        if aside.exists():
            raise UsageError(f"{path} and {aside.name} are of one earlier version; move one away")
        manifest.moved(path, aside)


@contextlib.contextmanager
def claim(
    folder: Path,
    name: str,
    kind: str,
    arguments: dict[str, Any],
    ready: Callable[[], object] = lambda: None,
    also: Iterable[Path] = (),
) -> Iterator[Claim]:
    """One visit for whoever makes a model: is it there already, and if not, nobody else makes it meanwhile.

    Args:
        folder: Of the checkpoints.
        name: Of the model.
        kind: Of the checkpoint.
        arguments: What is asked for.
        ready: Called before any folder is made, if there is something to make.
        also: Further folders that will be written to.

    Raises:
        UsageError: If the name is taken by other arguments, or a folder cannot be written.
    """
    claimed = Claim(folder, name, kind, arguments)
    if claimed.done:
        yield claimed
        return
    ready()
    ensure_writable(folder, *also)
    ensure_writable(claimed.progress.parent)
    with FileLock(claimed.progress.with_name(f"{name}.lock")):
        # What processes killed in the middle of writing left behind.
        clear_stale(claimed.progress.parent)
        # Another process may have made it while this one waited.
        claimed.done = finished(folder, name, kind, arguments)
        yield claimed
