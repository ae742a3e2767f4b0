"""The exceptions that are shown as a single line, never as a traceback: bad input, failed work, a failed gate."""

import contextlib
import difflib
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class UsageError(ValueError):
    """What was wrong, what is allowed and what to do, in one line; the command line exits with 2."""


class WorkFailed(RuntimeError):
    """Part of what was rightly asked for did not come about, in one line; the command line exits with 1."""


class GateFailed(RuntimeError):
    """What was measured is worse than was allowed, in one line; the command line exits with 3."""


class NoSetting(UsageError, TypeError):
    """There is no setting of that name, or the plug-in that brings it is not named."""


class Lacking(UsageError):
    """A checkpoint needs a part that is not here, or not as it was.

    Args:
        text: The line.
        stored: What the file says.
    """

    def __init__(self, text: str, stored: Any = None) -> None:
        super().__init__(text)
        self.stored = stored


class Diverged(UsageError):
    """Training left the finite numbers."""


class NoLikelihood(UsageError):
    """How likely what crosses the wire is cannot be told; who knows the mechanism gains nothing from that here."""


def nearest(word: str, allowed: Iterable[str]) -> list[str]:
    """What a mistyped word may have meant, in any case: what it begins, else what has it, else what is most like it."""
    known = sorted(allowed)
    lower = word.lower()
    bare = lower.strip("-_")
    if begun := [name for name in known if bare and name.lower().startswith(lower)]:
        return begun[:3]
    if having := [name for name in known if len(bare) > 2 and bare in name.lower()]:
        return having[:3]
    close = difflib.get_close_matches(lower, [name.lower() for name in known], n=1)
    return [name for name in known if name.lower() in close]


def meant(word: str, allowed: Iterable[str]) -> str:
    """What is said after an unknown word: ` (did you mean noise?)`, or nothing."""
    close = nearest(word, allowed)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def one_line(error: object) -> str:
    """What an error says, in one line: whatever cannot be printed, as names of files may hold, is escaped."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in str(error)
    )


def spelled(text: str) -> str:
    """The same with whatever UTF-8 cannot write spelled out, as bytes in names of files may be: `\\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode()


def choose(registry: Mapping[str, T], name: str, kind: str) -> T:
    """Look `name` up in a registry.

    Raises:
        UsageError: If it is not there; the line lists what is.
    """
    one_of(name, registry, kind)
    return registry[name]


def one_of(value: str, allowed: Collection[str], kind: str) -> None:
    """Raise UsageError unless `value` is among `allowed`."""
    if value not in allowed:
        raise UsageError(
            f"unknown {kind} {value!r}; choose from {sorted(allowed)}{meant(value, allowed)}"
        )


def regular(path: str | Path) -> None:
    """Refuse what is neither a file nor a folder, before it is opened.

    A pipe that nobody writes to would be waited for without end, and a device may do anything when it is read. What is
    not there passes: whoever opens it says so.

    Raises:
        UsageError: If it is a pipe, a socket or a device, or a link to one.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UsageError(f"{path} is a pipe, a socket or a device; name a regular file")


def absent(path: str | Path) -> str:
    """What is said of a path where nothing is: of a relative one also from where it starts, as main.sh changes that."""
    return f"there is no {path}" + ("" if Path(path).is_absolute() else f" in {Path.cwd()}")


@contextlib.contextmanager
def passed_on(field: str, option: str) -> Iterator[None]:
    """What is wrong with a field is said of the option that its value came from."""
    try:
        yield
    except UsageError as error:
        raise UsageError(re.sub(rf"^{field}\b", option, str(error))) from error


@contextlib.contextmanager
def reading(path: str | Path, what: str, remedy: str) -> Iterator[None]:
    """Whatever a library raises over the content of a file becomes one line that names the file.

    Libraries document few of the exceptions that damaged files provoke in them (zlib.error, struct.error,
    RecursionError, IndexError and many more were seen), hence all of them are taken. Pipes and devices are refused
    before the block begins.

    Args:
        path: The file.
        what: What it should have been: `a PNG or JPEG picture`.
        remedy: What to do: `fetch it again`.

    Raises:
        UsageError: For every exception in the block; one that is a UsageError already passes as it is.
    """
    regular(path)
    try:
        yield
    except UsageError:
        raise
    except FileNotFoundError as error:
        raise UsageError(f"{absent(path)}; {remedy}") from error
    except PermissionError as error:
        raise UsageError(f"{path} may not be read; change its permissions") from error
    except IsADirectoryError as error:
        raise UsageError(f"{path} is a folder, not {what}; {remedy}") from error
    except Exception as error:
        # Pillow names the object in memory, which says nothing.
        told = re.sub(r" <\S+ object at 0x[0-9a-f]+>", "", str(error))
        reason = " ".join(told.split())[:200] or type(error).__name__
        raise UsageError(f"{path} is damaged or not {what} ({reason}); {remedy}") from error
