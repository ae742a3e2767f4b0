"""Where parts are found: the files of their packages, entry points of others, and plug-ins that a user names.

What there is is read from the source; a part is imported when it is used, and one whose own dependency is missing is
listed with the reason and breaks nothing.
"""

import contextlib
import functools
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from dpsnn.errors import UsageError, choose
from dpsnn.rules import complaint, mismatch
from dpsnn.source import Base, Declared, Option, declarations

PACKAGES = {
    "dataset": "dpsnn.data",
    "network": "dpsnn.networks",
    "decoder": "dpsnn.networks",
    "defence": "dpsnn.defences",
    "attack": "dpsnn.attacks",
    "metric": "dpsnn.metrics",
    "study": "dpsnn.studies",
}
"""Kind of part → the package whose files are walked for it."""

BASES = {
    "Defence": "defence",
    "Attack": "attack",
    "ImageDataModule": "dataset",
    "Metric": "metric",
}
"""What a class that is a part derives from → its kind."""

PLUGINS = "DPSNN_PLUGINS"
"""Environment variable with the plug-ins that the user named, for the processes that this one starts."""

GROUP = "dpsnn.parts"
"""Entry points by which an installed package offers the parts in one of its modules."""

Made = TypeVar("Made", bound=Callable[..., Any])


def _usual(name: str) -> Base | None:
    """Of the name of a class that is for parts."""
    return Base(BASES[name]) if name in BASES else None


def _base(name: str) -> Base | None:
    """Of the name of a class that is for parts, or of a part of ours."""
    ours = (each for kind in PACKAGES for each in _own(kind) if each.name == name)
    return _usual(name) or next(map(_derivable, ours), None)


def _derivable(each: Declared) -> Base:
    names = ("version", "heading", "order", "always", "decides")
    said = {name: getattr(each, name) for name in names}
    return Base(each.kind, each.key, each.options, said)


@functools.cache
def _own(kind: str) -> tuple[Declared, ...]:
    """Parts of this package."""
    package = PACKAGES[kind]
    folder = Path(__file__).parent / package.split(".")[1]
    found = []
    for path in sorted([*folder.glob("*.py"), *folder.glob("*/__init__.py")]):
        text = path.read_text(encoding="utf-8")
        name = path.stem if path.parent == folder else path.parent.name
        if "key = " in text or "@" in text or "STUDY = " in text:
            for declared in declarations(text, f"{package}.{name}", kind, _usual):
                if declared.kind == kind:
                    found.append(declared)
    return tuple(sorted(found, key=lambda each: (each.order, each.key)))


def plugins() -> list[str]:
    """Files that the user named, by their whole paths."""
    paths = (path for path in os.environ.get(PLUGINS, "").split(os.pathsep) if path)
    whole = (path if os.path.isabs(path) else str(Path(path).resolve()) for path in paths)
    return list(dict.fromkeys(whole))


def plugin_words() -> list[str]:
    """The options by which another command knows the same plug-ins."""
    return [word for path in plugins() for word in ("--plugin", path)]


def use(path: str | Path, tolerant: bool = False) -> None:
    """Let the parts in a file be known to this process and to those that it starts.

    Args:
        path: The file.
        tolerant: Whether one that is refused is named all the same; `refused` then says why.

    Raises:
        UsageError: If it cannot be read, holds no part, or one that breaks a rule.
    """
    file = str(Path(path).resolve())
    if os.pathsep in file:
        raise UsageError(
            f"the plug-in {path} has a {os.pathsep!r} in its path, which parts paths in {PLUGINS}; move it"
        )
    before = os.environ.get(PLUGINS, "")
    if file not in plugins():
        os.environ[PLUGINS] = os.pathsep.join([*plugins(), file])
    if (reason := refused().get(file)) and not tolerant:
        os.environ[PLUGINS] = before
        raise UsageError(reason)


def refused() -> dict[str, str]:
    """File of a plug-in, or module of an installed package, that is left out → why, in one line."""
    return _others(tuple(plugins()))[1]


def require() -> None:
    """Raise UsageError if a plug-in that the user named is left out."""
    for path in plugins():
        if reason := refused().get(path):
            raise UsageError(reason)


def _read(path: str) -> tuple[Declared, ...]:
    """The parts in a plug-in.

    Raises:
        UsageError: If there is none, or the file is none.
    """
    if not path.endswith(".py"):
        raise UsageError(f"the plug-in {path} is no Python file; name one, FILE.py")
    try:
        text = Path(path).read_text(encoding="utf-8")
        found = tuple(declarations(text, path, "", _base))
    except OSError as error:
        raise UsageError(
            f"cannot read the plug-in {path} ({error.strerror}); name a Python file"
        ) from error
    except UsageError as error:
        raise UsageError(f"the plug-in {path} will not do: {error}") from error
    except (SyntaxError, ValueError, RecursionError) as error:
        raise UsageError(f"the plug-in {path} is no Python: {error}; mend it") from error
    if not found:
        raise UsageError(
            f"the plug-in {path} holds no part: no class with a key that derives from one of {sorted(BASES)}, no"
            " function marked @network or @decoder, and no STUDY"
        )
    return found


def _offered(point: metadata.EntryPoint) -> tuple[Declared, ...]:
    """The parts in a module of another package."""
    try:
        spec = importlib.util.find_spec(point.module)
        if spec is None:
            raise ImportError("it is not there")
        text = Path(str(spec.origin)).read_text(encoding="utf-8")
        return tuple(declarations(text, point.module, "", _base))
    except (ImportError, OSError, SyntaxError, ValueError, RecursionError) as error:
        raise UsageError(f"the module {point.module} of an installed package: {error}") from error


@functools.cache
def _others(paths: tuple[str, ...]) -> tuple[tuple[Declared, ...], dict[str, str]]:
    """Parts of other packages, by their entry points, and of plug-ins; and what is left out → why."""
    ours = [each for kind in PACKAGES for each in _own(kind)]
    found: list[Declared] = []
    refused: dict[str, str] = {}
    # A package of others that is broken breaks nothing of ours.
    offers: list[tuple[str, Callable[[], tuple[Declared, ...]]]] = [
        (point.module, functools.partial(_offered, point))
        for point in metadata.entry_points(group=GROUP)
    ]
    offers += [(path, functools.partial(_read, path)) for path in paths]
    for source, read in offers:
        try:
            new: list[Declared] = []
            for each in read():
                if said := complaint(each, [*ours, *found, *new]):
                    raise UsageError(f"{source}: {said}")
                new.append(each)
            found += new
        except UsageError as error:
            refused[source] = str(error)
    return tuple(found), refused


def forget() -> None:
    """Read every source, and import every plug-in, anew from now on."""
    for known in (_own, _others, _module, _imported):
        known.cache_clear()


def declared(kind: str) -> list[Declared]:
    """All parts of a kind: our own in their order, then those of packages and plug-ins."""
    others = _others(tuple(plugins()))[0]
    return [*_own(kind), *(each for each in others if each.kind == kind)]


# ---------------------------------------------------------------- what is imported


@functools.cache
def _module(name: str) -> Any:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(f"dpsnn_plugin_{Path(name).stem}", name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def import_plugins() -> None:
    """Import every plug-in, so that what another process pickled of one can be read; what is wrong with one is said
    where it is used."""
    for path in plugins():
        with contextlib.suppress(Exception):
            _module(path)


@functools.cache
def _imported(each: Declared) -> Any:
    """The class or function of a part, which is what its source says."""
    made = getattr(_module(each.module), each.name)
    if not each.is_own and (said := mismatch(each, made)):
        raise UsageError(said)
    return made


def find(kind: str, key: str) -> Any:
    """The class or function of a part, imported now.

    Raises:
        UsageError: If there is none, what it needs is missing, or a file of others cannot be run.
    """
    known = {each.key: each for each in declared(kind)}
    each = choose(known, key, kind)
    try:
        return _imported(each)
    except (Exception, SystemExit) as error:  # whatever a file of others may raise
        if each.is_own and not isinstance(error, ImportError):
            raise
        remedy = "install what it needs" if isinstance(error, ImportError) else "mend it"
        raise UsageError(
            f"the {kind} {key} cannot be used here: {_told(error, each)}; {remedy}"
        ) from error


def _told(error: BaseException, each: Declared) -> str:
    """What went wrong, and in which line of a plug-in."""
    if isinstance(error, UsageError | ImportError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    line = next((f", line {at.lineno}" for at in frames[::-1] if at.filename == each.module), "")
    return f"{type(error).__name__} in {each.plugin or each.module}{line}: {error}"


def located(kind: str, name: str) -> tuple[Declared, Option] | None:
    """The part and the option of a flat name."""
    for each in declared(kind):
        for made in each.options:
            if made.name == name:
                return each, made
    return None


class Registry(Mapping[str, Any]):
    """Parts of a kind by key; each is imported when it is asked for."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __getitem__(self, key: str) -> Any:
        if not any(each.key == key for each in declared(self.kind)):
            raise KeyError(key)
        return find(self.kind, key)

    def __iter__(self) -> Iterator[str]:
        return iter([each.key for each in declared(self.kind)])

    def __len__(self) -> int:
        return len(declared(self.kind))


def marker(kind: str) -> Callable[[Made], Made]:
    """A decorator that makes a part of a function; its name is the key.

    Args:
        kind: `network` or `decoder`.
    """

    def mark(function: Made) -> Made:
        function.__dict__["kind"] = kind
        return function

    return mark


network, decoder = marker("network"), marker("decoder")
