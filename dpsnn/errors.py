"""The one exception that means "bad input": it is shown as a single line, never as a traceback."""

from collections.abc import Collection, Mapping
from typing import TypeVar

T = TypeVar("T")


class UsageError(ValueError):
    """What was wrong, what is allowed and what to do, in one line; the command line exits with 2."""


def choose(registry: Mapping[str, T], name: str, kind: str) -> T:
    """Look `name` up in a registry.

    Raises:
        UsageError: If it is not there; the line lists what is.
    """
    if name not in registry:
        raise UsageError(f"unknown {kind} {name!r}; choose from {sorted(registry)}")
    return registry[name]


def one_of(value: str, allowed: Collection[str], kind: str) -> None:
    """Raise UsageError unless `value` is among `allowed`."""
    if value not in allowed:
        raise UsageError(f"unknown {kind} {value!r}; choose from {sorted(allowed)}")
