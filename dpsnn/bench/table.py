"""One table of all benchmarks, as Markdown that can be read as it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from dpsnn.bench.records import Record
from dpsnn.errors import one_line
from dpsnn.numbers import Number

TITLES = ("benchmark", "what", "value", "baseline", "ratio", "range", "runs")

IDLE = 0.5
"""Cores that may have been busy when the benchmarks began, before a doubt is told."""


def written(value: Number | None) -> str:
    """A number of three figures, or all before the point; nothing for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def cells(benchmark: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The rows of one benchmark."""
    name, status = benchmark["name"], benchmark["status"]
    if status != "done":
        return [(name, f"{status}: {benchmark['why']}", "", "", "", "", "")]
    return [_row(Record(**record)) for record in benchmark["records"]]


def _row(record: Record) -> tuple[str, ...]:
    spread = "" if record.low is None else f"{written(record.low)} to {written(record.high)}"
    ratio = "" if record.ratio is None else f"{written(record.ratio)} ×"
    value = f"{written(record.value)} {record.unit}".strip()
    runs = str(record.runs)
    return record.name, record.what, value, record.baseline, ratio, spread, runs


def markdown(report: Mapping[str, Any]) -> str:
    """What was measured, on what, and how it compares.

    Args:
        report: The content of `bench.json`.
    """
    rows = [row for benchmark in report["benchmarks"] for row in cells(benchmark)]
    return "\n\n".join([*_circumstances(report), _table(rows), _reading()]) + "\n"


def _table(rows: Sequence[Sequence[str]]) -> str:
    safe = [[one_line(cell).replace("|", "\\|") for cell in row] for row in (TITLES, *rows)]
    widths = [max(map(len, column)) for column in zip(*safe)]
    # What did not come about is told at any length, and widens no column.
    widths[1] = max(len(row[1]) for row in safe if row[2])
    lines = [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths))} |" for row in safe
    ]
    return "\n".join([lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]])


def _circumstances(report: Mapping[str, Any]) -> list[str]:
    said, done = report["machine"], [b for b in report["benchmarks"] if b["status"] == "done"]
    dates = sorted({each["date"] for each in done} or {report["date"]})
    commits = sorted({each["commit"] for each in done if each["commit"]})
    loads = sorted({each["load"] for each in done} or {report["load"]})
    parts = [
        f"{said['cores']} cores of {said['processor']}",
        f"threads: {said['threads']}",
        *([", ".join(said["instructions"])] if said["instructions"] else []),
        f"{said['memory']:g} GiB of memory",
        said["gpu"] or "no GPU",
    ]
    named = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    at = f" at {' and '.join(commits)}" if commits else ""
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    kind = " A smoke test at small sizes: its numbers say nothing." if report["quick"] else ""
    lines = [f"{when}, {'; '.join(parts)}; {named}{at}.{kind}"]
    load = " and ".join(f"{each:g}" for each in loads)
    doubt = max(loads) > IDLE
    lines.append(
        f"Load when it began: {load} cores busy."
        + (" **Other work ran beside it: do not quote these numbers.**" if doubt else "")
    )
    return lines


def _reading() -> str:
    return (
        "Ratio: of speeds and times how many times as fast as the baseline, else the value over that of the baseline;"
        " median of the runs. Range: of the ratio over the runs, without a baseline of the value, of an exponent its"
        " 95 % interval."
    )
