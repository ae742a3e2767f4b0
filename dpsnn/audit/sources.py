"""Things that users keep in Python files of their own: FILE.py:FUNCTION names a model or a data set."""

import importlib.util
import inspect
import random
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dpsnn.errors import UsageError, absent, meant, regular


def is_function(source: str) -> bool:
    """Whether a source names something in a Python file."""
    path, _, name = source.rpartition(":")
    return path.endswith(".py") and bool(name)


def unnamed(source: str) -> str:
    """Which function of a Python file is meant is not said: what to say to that; empty where it is no such file."""
    return f"{source} is a Python file; name the function in it, {source}:FUNCTION" * (
        source.endswith(".py") and Path(source).is_file()
    )


@contextmanager
def repeatable() -> Iterator[None]:
    """Draw the same random numbers every time, and leave others as they were.

    What draws its weights or pictures is the same when an audit is gone on with, and in jobs elsewhere.
    """
    import numpy as np

    from dpsnn.training import seeded

    states = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(0)
    try:
        with seeded(0):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def called(source: str, what: str) -> Any:
    """What FILE.py:FUNCTION gives; what is no function is taken as it is.

    Args:
        source: The file and the name.
        what: It is to be, in words.

    Raises:
        UsageError: If there is no such file or name, or either cannot be run: with the line that failed.
    """
    path, _, name = source.rpartition(":")
    regular(path)
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"{absent(path)}; name {what} as FILE.py:FUNCTION")
    spec = importlib.util.spec_from_file_location(f"dpsnn_given_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    # As if it were run from its folder: what lies beside it can be imported.
    folder = str(file.resolve().parent)
    sys.path.insert(0, folder)
    try:
        with repeatable():
            spec.loader.exec_module(module)
        if not hasattr(module, name):
            public = [each for each in vars(module) if not each.startswith("_")]
            raise UsageError(f"{path} has no {name!r}{meant(name, public)}; name {what} in it")
        given = getattr(module, name)
        is_called = callable(given) and not _is_made(given)
        if is_called and (needed := _needed(given)):
            raise UsageError(
                f"{source} needs {', '.join(needed)}, and is called without arguments; give a function beside it that"
                f" returns {name}(...) with your values"
            )
        with repeatable():
            made = given() if is_called else given
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # whatever a file of others may raise
        frames = traceback.extract_tb(error.__traceback__)
        line = next((f" line {at.lineno}" for at in frames[::-1] if at.filename == str(file)), "")
        told = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{source} raised {type(error).__name__}{line}: {told}; mend it"
        ) from error
    finally:
        sys.path.remove(folder)
    return made


def _needed(given: Any) -> list[str]:
    """Arguments without which it cannot be called."""
    try:
        declared = inspect.signature(given).parameters.values()
    except (TypeError, ValueError):  # such as of what is written in C
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        each.name
        for each in declared
        if each.default is inspect.Parameter.empty and each.kind not in optional
    ]


def _is_made(given: Any) -> bool:
    """Whether it is an object already, which may be called for another reason, as models are."""
    from torch import nn

    return isinstance(given, nn.Module)
