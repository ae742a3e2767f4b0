"""Files are whole or not there: written under a temporary name beside their place, then renamed.

Whatever is temporary carries the machine and the process in its name, so that what a killed one left can be cleared.
"""

import contextlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dpsnn import signals

_HOST = re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())
"""Folders may be shared by machines, and the number of a process says nothing on another one."""

_SCRATCH = re.compile(r"(?P<host>\w+)-(?P<process>\d+)-\w+")
_TEMPORARY = re.compile(r"\.(?:(?P<host>\w+)-)?(?P<process>\d+)\.tmp\Z")


@contextlib.contextmanager
def staged(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its place at the end of the block; it is removed if the block fails.

    What processes that are gone have left behind for the same file is cleared away first.

    Args:
        path: The file to write; an older one stays whole until the new one is.
        mode: Permissions of the new file, less the umask; 0o600 for secrets.
    """
    clear_stale(path.parent, path.name)
    temporary = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}.tmp")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, mode))
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno and error.filename is None:  # as where a disk is full
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def clear_stale(folder: Path, name: str = "") -> list[Path]:
    """Remove what `abandoned` finds.

    Args:
        folder: Where to look; it need not exist.
        name: Only what was to become this file; by default everything.

    Returns:
        What was removed.
    """
    cleared = abandoned(folder, name)
    for path in cleared:
        path.unlink(missing_ok=True)
    return cleared


def abandoned(folder: Path, name: str = "") -> list[Path]:
    """Temporary files of `staged` whose process, of this machine, is gone; arguments as of `clear_stale`."""
    left = []
    for path in list(folder.glob(".*.tmp")) if folder.is_dir() else []:
        found = _TEMPORARY.search(path.name)
        if found is None:
            continue
        mine = not name or path.name[: found.start()] in (f".{name}", name)
        if mine and found["host"] in (None, _HOST) and not _is_alive(int(found["process"])):
            left.append(path)
    return left


@contextlib.contextmanager
def scratch(name: str, where: str | Path | None = None) -> Iterator[Path]:
    """A folder for the time of the block, removed with all that it holds; those that dead processes left go first.

    Args:
        name: With which its name begins.
        where: The folder that it lies in; by default the system's for temporary files.
    """
    place = Path(where or tempfile.gettempdir())
    clear_scratch(name, place)
    with signals.held():
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-{_HOST}-{os.getpid()}-", dir=place))
    try:
        yield folder
    finally:
        with signals.held():
            shutil.rmtree(folder, ignore_errors=True)


def clear_scratch(name: str, where: str | Path | None = None) -> list[Path]:
    """Remove folders of `scratch` of that name whose process, of this machine, is gone; what they were is returned."""
    place = Path(where or tempfile.gettempdir())
    cleared = []
    for path in place.glob(f"{name}-*") if place.is_dir() else []:
        found = _SCRATCH.fullmatch(path.name.removeprefix(f"{name}-"))
        if found and found["host"] == _HOST and not _is_alive(int(found["process"])):
            shutil.rmtree(path, ignore_errors=True)
            cleared.append(path)
    return cleared


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
