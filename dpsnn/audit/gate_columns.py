"""What can be asked of every cut of an audit: its measures, who is re-identified, and the accuracy."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpsnn.audit.agreement import RANGES
from dpsnn.numbers import Number

ABOVE, BELOW = "above", "below"

Cut = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """What a rule can be about."""

    name: str
    worse: str
    """On which side more leaks (or less is recognised)."""
    of: Callable[[Cut], Mapping[str, Any] | None]
    """Of a cut: the value with its interval; None where it has none."""
    limits: tuple[Number, Number] = (-math.inf, math.inf)
    """Between which a limit says anything: beyond them every cut would pass, or none."""
    unit: str = "a number"


def columns(measures: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    """Lower-case name → what can be asked of every cut: the measures of the strongest attack, and two more.

    Args:
        measures: As an audit has them, each with `column` and `lower_leaks`.
    """

    def strongest(column: str) -> Callable[[Cut], Mapping[str, Any] | None]:
        return lambda cut: cut["strongest"].get(column)

    found = [
        Column(
            each["column"],
            BELOW if each["lower_leaks"] else ABOVE,
            strongest(each["column"]),
            RANGES.get(each["column"], (-math.inf, math.inf)),
        )
        for each in measures
    ]
    share, percent = "a share of the victims", "in per cent"
    found.append(Column("reidentified", ABOVE, lambda cut: cut["reidentified"], (0, 1), share))
    found.append(Column("matched", ABOVE, lambda cut: cut.get("matched"), (0, 1), share))
    # A limit of 0.9 is a share that was meant, and no model is so bad.
    found.append(Column("accuracy", BELOW, lambda cut: cut["accuracy"], (1, 100), percent))
    return {column.name.lower(): column for column in found}


def ends(estimate: Mapping[str, Any]) -> tuple[Number, Number]:
    """Of the interval; the value twice where it has none."""
    low, high = (
        estimate["value"] if estimate[end] is None else estimate[end] for end in ("low", "high")
    )
    return low, high


def leaking(estimate: Mapping[str, Any], column: Column) -> Number:
    """How bad it may be: that end of the interval, or further where attacks on fewer victims may get further."""
    reach = estimate.get("reach", estimate["value"])
    return max(ends(estimate)[1], reach) if column.worse == ABOVE else min(ends(estimate)[0], reach)


def shown(estimate: Mapping[str, Any]) -> str:
    if estimate["low"] is None or estimate["high"] is None:
        return f"{estimate['value']:.4g}"
    return f"{estimate['value']:.4g} ({estimate['low']:.4g} to {estimate['high']:.4g})"
