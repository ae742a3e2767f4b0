"""What a benchmark hands over: numbers, each beside its baseline.

A benchmark is a file in `benchmarks/`. It runs alone and prints what it finds; with `--json FILE` it writes the same
numbers for `dpsnn bench`, and with `--quick` it shows in seconds that it works.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

from dpsnn import atomic
from dpsnn.errors import one_line, reading
from dpsnn.numbers import Number


@dataclass(frozen=True, kw_only=True)
class Record:
    """One number of a benchmark.

    Raises:
        ValueError: If a number is not finite, or the ratio is not within its range.
    """

    name: str
    """Of the benchmark: its file without `.py`."""
    what: str
    """What was measured, in a few words."""
    value: Number
    unit: str
    baseline: str = ""
    """What it is held against; nothing where there is no such thing."""
    ratio: Number | None = None
    """Of speeds and times how many times as fast as the baseline; of all else the value over that of the baseline."""
    low: Number | None = None
    """The least ratio of all runs; without a baseline the least value, or the lower end of an interval."""
    high: Number | None = None
    runs: int = 1
    """How many times it was measured."""

    def __post_init__(self) -> None:
        given = {n: getattr(self, n) for n in ("value", "ratio", "low", "high")}
        for name, value in given.items():
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{self.what}: {name} is {value}")
        middle = self.value if self.ratio is None else self.ratio
        if not (self.low is None) == (self.high is None):
            raise ValueError(f"{self.what}: a range has two ends")
        if self.low is not None and self.high is not None and not self.low <= middle <= self.high:
            raise ValueError(f"{self.what}: {middle} is not from {self.low} to {self.high}")


class Results:
    """The numbers of one benchmark.

    Args:
        name: Of the benchmark.
        path: The file to write; none where somebody only reads what is printed.
    """

    def __init__(self, name: str, path: Path | None = None) -> None:
        self.name, self.path = name, path
        self.records: list[Record] = []

    @property
    def folder(self) -> Path:
        """Where pictures go beside the numbers."""
        return self.path.parent if self.path else Path("results/bench")

    def add(
        self,
        what: str,
        values: Number | Sequence[Number],
        unit: str,
        baseline: str = "",
        ratios: Number | Sequence[Number] = (),
        interval: tuple[Number, Number] | None = None,
        runs: int | None = None,
    ) -> None:
        """Add one number.

        Args:
            what: What was measured.
            values: What came out, of every run; their median counts.
            unit: Of the values.
            baseline: What they are held against.
            ratios: To the baseline, of every run; their median counts.
            interval: An interval that says more than the range of the runs.
            runs: How many there were, where that is not how many numbers are given.
        """
        found = [values] if isinstance(values, Number) else [*values]
        held = [ratios] if isinstance(ratios, Number) else [*ratios]
        spread = held or found
        low, high = interval or (min(spread), max(spread))
        alone = len(spread) == 1 and interval is None
        self.records.append(
            Record(
                name=self.name,
                what=what,
                value=median(found),
                unit=unit,
                baseline=baseline,
                ratio=median(held) if held else None,
                low=None if alone else low,
                high=None if alone else high,
                runs=runs or len(spread),
            )
        )

    def write(self) -> None:
        """Hand everything over, if somebody asked for it."""
        self._write({"records": [asdict(record) for record in self.records]})

    def not_run(self, why: object) -> NoReturn:
        """End here: something is missing that this benchmark needs.

        Args:
            why: What it is, and how to get it.
        """
        self._write({"not_run": one_line(why)})
        print(f"not run: {one_line(why)}", file=sys.stderr)
        raise SystemExit(2)

    def _write(self, content: Mapping[str, Any]) -> None:
        if self.path:
            with atomic.staged(self.path) as temporary:
                temporary.write_text(json.dumps(content, indent=1, allow_nan=False), "utf-8")


def begin(
    parser: argparse.ArgumentParser, quick: Mapping[str, Any]
) -> tuple[argparse.Namespace, Results]:
    """Read the command line of a benchmark.

    Args:
        parser: With its own options.
        quick: Option → its default in a smoke test of seconds.
    """
    parser.add_argument("--quick", action="store_true", help="show that it works, at a small size")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the numbers for dpsnn bench"
    )
    options = parser.parse_args()
    if options.quick:
        parser.set_defaults(**quick)
        options = parser.parse_args()
    return options, Results(Path(parser.prog).stem, options.json)


def handed_over(path: Path) -> tuple[list[Record], str]:
    """What a benchmark wrote.

    Returns:
        Its numbers, and why it was not run; either is empty.

    Raises:
        UsageError: If that cannot be read, or is nothing.
    """
    with reading(path, "what a benchmark hands over", "correct the benchmark"):
        content = json.loads(path.read_text("utf-8"))
        records = [Record(**each) for each in content.get("records", [])]
        why = str(content.get("not_run", ""))
        if not records and not why:
            raise ValueError("it is empty")
    return records, why
