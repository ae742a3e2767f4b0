"""dpsnn: how much of a private input leaks out of a split neural network, and how well each defence protects it."""

import importlib
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`dpsnn.audit`, which is imported when it is asked for."""
    if name == "audit":
        return importlib.import_module("dpsnn.audit")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
