"""Numbers and texts as a reader sees them on the page of an audit."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dpsnn.numbers import Number

NOTHING = "–"
"""In the place of a number that is not known."""


def clean(text: object) -> str:
    """A text without what a reader cannot see: control characters and those that turn the direction of writing.

    Names come from strangers' files. What is HTML in them is escaped by the template and not here.
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in " ".join(str(text).split())
    )


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; each end None where it is not known."""

    value: Number | None = None
    low: Number | None = None
    high: Number | None = None

    @classmethod
    def of(cls, found: Mapping[str, Any] | None, factor: Number = 1.0) -> "Estimate":
        """Of what stands in the results, times a factor."""
        if found is None:
            return cls()
        ends = (found.get(end) for end in ("value", "low", "high"))
        return cls(*(None if end is None else factor * end for end in ends))

    def known(self) -> list[Number]:
        return [end for end in (self.value, self.low, self.high) if end is not None]


@dataclass(frozen=True)
class Scale:
    """How the numbers of one column are written: all with the same digits, so that they can stand below one another."""

    digits: int = 3
    unit: str = ""

    @classmethod
    def of(cls, values: Iterable[Number | None], unit: str = "") -> "Scale":
        """Three digits from the first one that tells the values apart on."""
        known = [value for value in values if value is not None]
        span = max(known) - min(known) if known else 0.0
        span = span or max(map(abs, known), default=0.0)
        if span <= 0:
            return cls(unit=unit)
        return cls(min(8, max(0, 3 - math.ceil(math.log10(span)))), unit)

    def text(self, value: Number | None) -> str:
        if value is None:
            return NOTHING
        written = f"{value:,.{self.digits}f}" if abs(value) < 1e9 else f"{value:.3g}"
        return written.replace("-", "\N{MINUS SIGN}") + (
            f"\N{NO-BREAK SPACE}{self.unit}" * bool(self.unit)
        )

    def interval(self, estimate: Estimate) -> str:
        """`0.42 to 0.51`; empty where there is none."""
        if estimate.low is None or estimate.high is None:
            return ""
        bare = Scale(self.digits)
        return f"{bare.text(estimate.low)} to {bare.text(estimate.high)}"

    def both(self, estimate: Estimate) -> str:
        """`0.46 (0.42 to 0.51)`."""
        interval = self.interval(estimate)
        return self.text(estimate.value) + (f" ({interval})" if interval else "")


PERCENT = Scale(1, "%")

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def rough(value: Number | None) -> str:
    """A number alone, to four digits: `0.0123`, `1 × 10⁻⁵`."""
    if value is None:
        return NOTHING
    digits, _, power = f"{value:,.4g}".replace("-", "\N{MINUS SIGN}").partition("e")
    raised = str(int(power.replace("\N{MINUS SIGN}", "-"))).translate(RAISED) if power else ""
    return f"{digits} × 10{raised}" if raised else digits


def count(number: int | None, one: str = "", many: str = "") -> str:
    """`1 picture`, `2 pictures`, `12,345`."""
    if number is None:
        return NOTHING
    word = one if number == 1 else many or f"{one}s"
    return f"{number:,}" + (f" {word}" if one else "")


def size(number: int) -> str:
    """Bytes, in the unit that suits."""
    for unit, unit_size in (("MiB", 2**20), ("KiB", 2**10)):
        if number >= unit_size:
            return f"{number / unit_size:,.1f}\N{NO-BREAK SPACE}{unit}"
    return f"{number:,}\N{NO-BREAK SPACE}B"


def sentence(text: object) -> str:
    """A text with a capital letter and a full stop."""
    told = clean(text)
    return (
        f"{told[:1].upper()}{told[1:]}{'' if told.endswith(('.', '!', '?')) else '.'}"
        if told
        else ""
    )


def moment(date: str) -> str:
    """A time of ISO 8601 as one reads it; anything else as it is."""
    try:
        when = datetime.fromisoformat(date)
    except ValueError:
        return clean(date)
    zone = f" {when.tzname()}" if when.tzinfo else ""
    return f"{when:%Y-%m-%d %H:%M}{zone}"


def shape(sides: Sequence[int]) -> str:
    return " × ".join(f"{side:,}" for side in sides) or NOTHING


def listed(names: Sequence[object]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    texts = [clean(name) for name in names]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def lasted(seconds: Number) -> str:
    """`48 s`, `2 min 5 s`, `1 h 3 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min" + (f" {rest} s" if rest else "")
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h" + (f" {minutes} min" if minutes else "")
