"""What every checkpoint, table and figure was when it was written, so that what became of it since can be told.

A folder of models or results has one list, `dpsnn.sha256`, which `sha256sum -c` reads as well. Whoever writes a file
lists it; the list begins with the first checkpoint or table. Before a file is replaced its new digest is announced, and
settled afterwards: whoever is killed in between leaves a list of which one digest or the other is right.
"""

import contextlib
import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from dpsnn import atomic

NAME = "dpsnn.sha256"

KEPT = {
    "classifiers": (".ckpt",),
    "attackers": (".ckpt",),
    "devices": (".ckpt",),
    "quantitative_measures": (".csv",),
    "figures": (".png", ".pdf", ".svg"),
    "": (".md",),
}
"""Folders within that of a list → what is listed in them; everything else may come and go."""

BEGINS = ("classifiers", "attackers", "quantitative_measures")
"""Whose files begin a list where there is none. Figures may be saved anywhere, and leave no lists there."""

GONE = "0" * 64
"""The digest of a file that is to be removed."""

_LINE = re.compile(
    r"(?:# (?P<state>becoming|altered|away) )?(?P<digest>[0-9a-f]{64})  (?P<name>.+)"
)


@dataclass
class Manifest:
    """A list, as read; names are relative to its folder, with slashes."""

    digests: dict[str, str] = field(default_factory=dict)
    """Name → digest of the file."""
    becoming: dict[str, str] = field(default_factory=dict)
    """Name → the digest that somebody announced, and may not have come to."""
    altered: dict[str, str] = field(default_factory=dict)
    """Name → the digest that others had given a table before rows were added to it, `GONE` if they had removed it.

    One that is not listed is theirs as well.
    """
    away: dict[str, str] = field(default_factory=dict)
    """Name → `GONE`, of checkpoints that rows are of and that are kept elsewhere, as somebody said."""
    garbled: dict[int, str] = field(default_factory=dict)
    """Number of a line, from 1 → what stands there and is no entry, or a name's second. They stay until accepted."""

    def allowed(self, name: str) -> set[str]:
        """The digests that a file may have, `GONE` if it may be missing; none if it is not listed."""
        return {held[name] for held in (self.digests, self.becoming) if name in held}

    def text(self) -> str:
        """As it is written."""
        lines = [f"{digest}  {name}" for name, digest in sorted(self.digests.items())]
        for state in ("becoming", "altered", "away"):
            held = sorted(getattr(self, state).items())
            lines += [f"# {state} {digest}  {name}" for name, digest in held]
        return "".join(f"{line}\n" for line in (*lines, *self.garbled.values()))


def read(root: Path) -> Manifest:
    """The list of a folder; an empty one where there is none.

    Raises:
        OSError: If it cannot be read.
    """
    found = Manifest()
    path = root / NAME
    # What is no text passes through unchanged.
    text = path.read_text("utf-8", "surrogateescape") if path.exists() else ""
    for number, line in enumerate(text.split("\n"), 1):
        entry = _LINE.fullmatch(line.rstrip("\r"))
        if not line.strip():
            continue
        held = getattr(found, (entry["state"] or "digests") if entry else "garbled")
        if entry is None or entry["name"] in held:
            found.garbled[number] = line
        else:
            held[entry["name"]] = entry["digest"]
    return found


def named_in(line: str) -> str:
    """The file that a line of a list names; nothing where it is no such line."""
    entry = _LINE.fullmatch(line.rstrip("\r"))
    return entry["name"] if entry else ""


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal figures."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def home(path: Path) -> Path | None:
    """The folder in whose list a file stands, or is to stand; None for what is not listed."""
    path = path.absolute()
    inside = path.parent.name if path.parent.name in KEPT else ""
    root = path.parent.parent if inside else path.parent
    if path.name.startswith(".") or path.suffix not in KEPT[inside]:
        return None
    return root if inside in BEGINS or (root / NAME).exists() else None


def files(root: Path) -> Iterator[Path]:
    """What is there and should be listed, in order."""
    for inside, suffixes in KEPT.items():
        folder = root / inside
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if path.suffix in suffixes and not path.name.startswith(".") and path.is_file():
                yield path


# ---------------------------------------------------------------- writing


@contextlib.contextmanager
def staged(path: Path, mode: int = 0o666, onto: bool = False) -> Iterator[Path]:
    """As `dpsnn.atomic.staged`, and the file is listed where such files are.

    Args:
        path: The file to write.
        mode: Its permissions, less the umask.
        onto: Whether what stood there goes on in the new one: what others changed is then remembered as theirs.
    """
    with contextlib.ExitStack() as replaced:
        with atomic.staged(path, mode) as temporary:
            yield temporary
            replaced.enter_context(_becoming({path: digest_of(temporary)}, onto))


def moved(path: Path, to: Path) -> None:
    """Rename a file within its folder."""
    with _becoming({path: GONE, to: digest_of(path)}):
        path.rename(to)


def removed(path: Path) -> None:
    """Remove a file, if it is there."""
    if path.exists():
        with _becoming({path: GONE}):
            path.unlink(missing_ok=True)


def accept(root: Path, paths: Iterable[Path] = (), away: Iterable[Path] = ()) -> int:
    """List files as they are now, whoever made them so; those that are gone are taken off the list.

    Args:
        root: The folder of the list.
        paths: Which; by default all, and the list is made anew.
        away: Of the list that is made anew, checkpoints that are kept elsewhere.

    Returns:
        How many are listed now.

    Raises:
        OSError: If the list cannot be written.
    """
    with FileLock(root / f".{NAME}.lock"):
        names = [name_of(path, root) for path in paths]
        made = read(root) if names else Manifest(away={name_of(p, root): GONE for p in away})
        for name in names or [name_of(path, root) for path in files(root)]:
            for held in (made.digests, made.becoming, made.altered):
                held.pop(name, None)
            if (root / name).is_file():
                made.digests[name] = digest_of(root / name)
        _write(root, made)
    return len(made.digests)


def name_of(path: Path, root: Path) -> str:
    """How a file is called in the list of a folder."""
    return path.absolute().relative_to(root.absolute()).as_posix()


@contextlib.contextmanager
def _becoming(digests: dict[Path, str], onto: bool = False) -> Iterator[None]:
    """While files of one folder come to have other digests within the block."""
    root = home(next(iter(digests)))
    if root is None:
        yield
        return
    wanted = {name_of(path, root): digest for path, digest in digests.items()}

    def announce(manifest: Manifest) -> None:
        for name in wanted:
            allowed, path = manifest.allowed(name), root / name
            there = digest_of(path) if onto and path.exists() else GONE
            if not onto:
                manifest.altered.pop(name, None)
            elif there not in allowed and (allowed or there != GONE):
                manifest.altered[name] = there
        manifest.becoming |= wanted

    def settle(manifest: Manifest) -> None:
        for name, digest in wanted.items():
            manifest.becoming.pop(name, None)
            manifest.digests.pop(name, None)
            if digest != GONE:
                manifest.digests[name] = digest
                manifest.away.pop(name, None)

    with _locked(root) as held:
        if held:
            _change(root, announce)
        yield
        if held:
            _change(root, settle)


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[bool]:
    """One process at a time; False where that cannot be, as in a folder that cannot be written."""
    lock = FileLock(root / f".{NAME}.lock")
    try:
        lock.acquire()
    except OSError as error:
        _complain(root, error)
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _change(root: Path, change: Callable[[Manifest], None]) -> None:
    """Where it cannot be, the work that is listed is not lost for it."""
    try:
        manifest = read(root)
        change(manifest)
        _write(root, manifest)
    except OSError as error:
        _complain(root, error)


def _write(root: Path, manifest: Manifest) -> None:
    with atomic.staged(root / NAME) as temporary:
        temporary.write_text(manifest.text(), "utf-8", "surrogateescape", newline="\n")


def _complain(root: Path, error: OSError) -> None:
    said = f"dpsnn: {root / NAME} cannot be kept ({error.strerror or error}): what is written is not listed"
    print(said, file=sys.stderr, flush=True)
