"""Where parts are found: the files of their packages, entry points of others, and plug-ins that a user names.

What there is is read from the source; a part is imported when it is used, and one whose own dependency is missing is
listed with the reason and breaks nothing.
"""

import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from dpsnn.errors import UsageError, choose
from dpsnn.source import Declared, Option, declarations

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


def _kind_of(bases: Sequence[str]) -> str:
    """Of a class that derives from one that is for parts, or from a part of ours."""
    ours = (each.kind for kind in PACKAGES for each in _own(kind) if each.name in bases)
    return next((BASES[base] for base in bases if base in BASES), "") or next(ours, "")


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
            for declared in declarations(text, f"{package}.{name}", kind, _kind_of):
                if declared.kind == kind:
                    found.append(declared)
    return tuple(sorted(found, key=lambda each: (each.order, each.key)))


def plugins() -> list[str]:
    """Files that the user named."""
    return [path for path in os.environ.get(PLUGINS, "").split(os.pathsep) if path]


def use(path: str | Path) -> None:
    """Let the parts in a file be known to this process and to those that it starts.

    Raises:
        UsageError: If it cannot be read, holds no part, or one with a name that is taken.
    """
    file = Path(path).resolve()
    if str(file) in plugins():
        return
    before = {(each.kind, each.key) for kind in PACKAGES for each in declared(kind)}
    for each in _read(str(file)):
        if (each.kind, each.key) in before:
            raise UsageError(
                f"{path} brings the {each.kind} {each.key}, which there is already; give it another key"
            )
    os.environ[PLUGINS] = os.pathsep.join([*plugins(), str(file)])


@functools.cache
def _read(path: str) -> tuple[Declared, ...]:
    try:
        text = Path(path).read_text(encoding="utf-8")
        found = tuple(declarations(text, path, "", _kind_of))
    except OSError as error:
        raise UsageError(
            f"cannot read the plug-in {path} ({error.strerror}); name a Python file"
        ) from error
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"the plug-in {path} is no Python: {error}; mend it") from error
    if not found:
        raise UsageError(
            f"the plug-in {path} holds no part: no class with a key that derives from one of {sorted(BASES)}, no"
            " function marked @network or @decoder, and no STUDY"
        )
    return found


@functools.cache
def _installed() -> tuple[Declared, ...]:
    """Parts of other packages, by their entry points."""
    found: list[Declared] = []
    for point in metadata.entry_points(group=GROUP):
        try:
            spec = importlib.util.find_spec(point.module)
            text = Path(str(spec.origin)).read_text(encoding="utf-8") if spec else ""
            found += declarations(text, point.module, "", _kind_of)
        except (ImportError, OSError, SyntaxError, ValueError):
            continue  # a package of others that is broken breaks nothing of ours
    return tuple(found)


def forget() -> None:
    """Read every source, and import every plug-in, anew from now on."""
    for known in (_own, _read, _installed, _module):
        known.cache_clear()


def declared(kind: str) -> list[Declared]:
    """All parts of a kind: our own in their order, then those of packages and plug-ins."""
    others = [*_installed(), *(each for path in plugins() for each in _read(path))]
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
    spec.loader.exec_module(module)
    return module


def find(kind: str, key: str) -> Any:
    """The class or function of a part, imported now.

    Raises:
        UsageError: If there is none, or what it needs is missing.
    """
    known = {each.key: each for each in declared(kind)}
    each = choose(known, key, kind)
    try:
        return getattr(_module(each.module), each.name)
    except ImportError as error:
        raise UsageError(
            f"the {kind} {key} cannot be used here: {error}; install what it needs"
        ) from error


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
