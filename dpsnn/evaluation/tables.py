"""CSV tables that several runs may write: one row per key, replaced on a rerun, all others kept to the letter."""

import csv
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from filelock import FileLock

from dpsnn.atomic import staged
from dpsnn.checkpoints import ensure_writable
from dpsnn.errors import UsageError

Row = Mapping[str, object]

CLASSIFIER_KEY = ("Model",)
ATTACKER_KEY = ("Model", "Attacker")


def models_table(results_dir: str | Path) -> Path:
    return Path(results_dir) / "quantitative_measures" / "model_performances.csv"


def attackers_table(results_dir: str | Path) -> Path:
    return Path(results_dir) / "quantitative_measures" / "attack_performances.csv"


def inversions_table(results_dir: str | Path) -> Path:
    return Path(results_dir) / "quantitative_measures" / "mi_face.csv"


def published_table(results_dir: str | Path) -> Path:
    return Path(results_dir) / "quantitative_measures" / "published.csv"


def cell(value: object) -> str:
    """How a value stands in a table: six significant digits, nothing for what does not apply."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def read(path: Path, key: Sequence[str] = ()) -> list[dict[str, str]]:
    """All rows as written; none if there is no such table.

    Raises:
        UsageError: If the file is not a table, or not one with the columns `key`.
    """
    if not path.exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            rows, columns = list(reader), list(reader.fieldnames or key)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"cannot read {path} ({error}); move it away to start a new table"
        ) from error
    if any(None in row or None in row.values() for row in rows):
        raise UsageError(f"{path} has rows of unequal length; move it away to start a new table")
    if not set(key) <= set(columns) or len(set(columns)) < len(columns):
        raise UsageError(
            f"{path} is not a table with columns {', '.join(key)}, each once; move it away to start a new one"
        )
    return rows


def upsert(path: Path, rows: Sequence[Row], key: Sequence[str]) -> None:
    """Put `rows` into the table: those with a known key replace theirs in place, the others are added below.

    Atomic, and safe when two processes do it at once: a lock file orders them, the table is written under a temporary
    name and renamed.

    Raises:
        UsageError: If the folder cannot be written or the table is damaged.
    """
    ensure_writable(path.parent)
    with FileLock(path.with_name(f".{path.name}.lock")):
        fresh = {}
        for row in rows:
            cells = {name: cell(value) for name, value in row.items()}
            fresh[tuple(cells[k] for k in key)] = cells
        table = []
        for old in read(path, key):
            row = fresh.get(tuple(old[k] for k in key), old)
            if row is old or row not in table:
                table.append(row)
        table += [row for row in fresh.values() if row not in table]
        columns = list(dict.fromkeys(name for row in table for name in row))
        # Fixed columns first, in the order in which an evaluation gives them.
        if rows:
            columns.sort(key=lambda c: list(rows[0]).index(c) if c in rows[0] else len(rows[0]))
        _replace(path, table, columns)


def drop(path: Path, column: str, values: Collection[str]) -> None:
    """Take out the rows that have one of `values` in a column, as atomically as `upsert`."""
    if not any(row.get(column) in values for row in read(path)):
        return
    with FileLock(path.with_name(f".{path.name}.lock")):
        rows = read(path)
        kept = [row for row in rows if row.get(column) not in values]
        _replace(path, kept, list(rows[0]))


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, aligned for numbers."""
    rule = ["---:"] * len(headings)
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, rule, *rows))


def write_text(path: Path, text: str) -> Path:
    """Write a text under a temporary name, then rename it.

    Raises:
        UsageError: If the folder cannot be written.
    """
    ensure_writable(path.parent)
    with staged(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def write(path: Path, rows: Sequence[Row]) -> None:
    """Make a table of `rows` alone, whatever was there before.

    Raises:
        UsageError: If the folder cannot be written.
    """
    ensure_writable(path.parent)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    _replace(path, [{name: cell(value) for name, value in row.items()} for row in rows], columns)


def _replace(path: Path, rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> None:
    """Write under a temporary name, then rename."""
    with staged(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def as_text(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """Rows as an aligned table for people.

    Args:
        rows: What to show.
        columns: Column of the row → heading.
    """
    lines = [list(columns.values())]
    lines += [[_short(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    lines.insert(1, ["-" * width for width in widths])

    def align(line: list[str]) -> str:
        cells = (c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths)))
        return "  ".join(cells).rstrip()

    return "\n".join(align(line) for line in lines)


def shown_epsilon(epsilon: float) -> str:
    """ε for people: ∞, thousands with commas, and below 10 three figures, lest a small one look like none."""
    if math.isinf(epsilon):
        return "∞"
    return f"{epsilon:,.0f}" if epsilon >= 10 else f"{epsilon:.3g}"


def _short(value: object) -> str:
    if isinstance(value, float) and not math.isinf(value) and not math.isnan(value):
        return f"{value:.4g}" if abs(value) < 1 else f"{value:.1f}"
    return cell(value) if value is not None else "-"
