"""Numbers and how they are checked, where what needs it must not import torch."""

import math
from typing import Any

from dpsnn.errors import UsageError

Number = float | int
"""A real number. Callers write 2 where 2.0 is meant, and the checker of types under pytest is strict about it."""

LARGEST = 2**31 - 1
"""Of whole numbers: beyond it some of torch's generators and loops overflow."""


CHECKS = ("", "positive", "share", "free")
"""What `check_number` may be asked for."""


def check_number(value: Number, name: str, check: str = "") -> None:
    """Raise UsageError unless a number is finite and not negative, `positive`, or a `share` below 1."""
    if check == "free":
        return
    if check == "share":
        if not 0 <= value < 1:
            percent = f": {value:g} % is {value / 100:g}" if 1 < value < 100 else ""
            raise UsageError(f"{name} is {value}; it must be from 0 to below 1, a share{percent}")
        return
    positive = check == "positive"
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        bound = "greater than 0" if positive else "0 or greater"
        raise UsageError(f"{name} is {value}; it must be a finite number, {bound}")


def check_count(value: Any, name: str, least: int) -> None:
    """Raise UsageError unless this is a whole number of at least `least` that generators and loops can take."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST:
        raise UsageError(
            f"{name} is {value!r}; it must be a whole number from {least} to {LARGEST}"
        )
