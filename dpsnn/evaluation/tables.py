"""CSV tables that several runs may write: one row per key, replaced on a rerun, all others kept to the letter."""

import csv
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from filelock import FileLock

from dpsnn.checkpoints import ensure_writable
from dpsnn.errors import UsageError, reading
from dpsnn.manifest import staged

Row = Mapping[str, object]

LARGEST = 2**26
"""Bytes of a table; those of thousands of models take a few megabytes."""

NEW = "move it away to start a new table"

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


class ReadRow(dict[str, str]):
    """A row as read, which knows where it stands."""

    place = ""
    """The file and the number of the row, from 1, for messages."""

    def __missing__(self, column: str) -> str:
        raise UsageError(f"{self.place} has no column {column}; delete that row and evaluate again")


def read(path: Path, key: Sequence[str] = ()) -> list[ReadRow]:
    """All rows as written; none if there is no such table.

    Raises:
        UsageError: If the file is not a table, or not one with the columns `key`.
    """
    if not path.exists():
        return []
    with reading(path, "a table", NEW):
        if path.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            rows, columns = [ReadRow(row) for row in reader], list(reader.fieldnames or key)
    for number_of_row, row in enumerate(rows, 1):
        row.place = f"{path}, row {number_of_row},"
    if any(None in row or None in row.values() for row in rows):
        raise UsageError(f"{path} has rows of unequal length; {NEW}")
    if any("\0" in text for row in (columns, *(row.values() for row in rows)) for text in row):
        raise UsageError(f"{path} is damaged: it holds bytes that are no text; {NEW}")
    if not set(key) <= set(columns) or len(set(columns)) < len(columns):
        raise UsageError(
            f"{path} is not a table with columns {', '.join(key)}, each once; move it away to start a new one"
        )
    return rows


def number(row: Mapping[str, str] | None, column: str) -> float | None:
    """A cell as a number, which may be infinite; None where the row, the column or the value is missing.

    Raises:
        UsageError: If the cell holds something else.
    """
    text = row.get(column, "") if row else ""
    if not text:
        return None
    try:
        value = math.nan if "_" in text else float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise _no_number(row, column, text)
    return value


def numeric(row: Mapping[str, str], column: str) -> float:
    """A cell as a number, which must be there.

    Raises:
        UsageError: If not.
    """
    value = number(row, column)
    if value is None:
        raise _no_number(row, column, row[column])  # or there is no such column
    return value


def _no_number(row: Mapping[str, str] | None, column: str, text: str) -> UsageError:
    place = row.place if isinstance(row, ReadRow) and row.place else "a table,"
    return UsageError(
        f"{place} column {column} has {text[:40]!r}, no number; delete that row and evaluate again"
    )


def upsert(path: Path, rows: Sequence[Row], key: Sequence[str]) -> None:
    """Put `rows` into the table: those with a known key replace theirs in place, the others are added below.

    Atomic, and safe when two processes do it at once: a lock file orders them, the table is written under a temporary
    name and renamed.

    Raises:
        UsageError: If the folder cannot be written, the table is damaged, or a row is that of another model.
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
            refuse_another(old, row, path)
            if row is old or row not in table:
                table.append(row)
        table += [row for row in fresh.values() if row not in table]
        columns = list(dict.fromkeys(name for row in table for name in row))
        # Fixed columns first, in the order in which an evaluation gives them.
        if rows:
            columns.sort(key=lambda c: list(rows[0]).index(c) if c in rows[0] else len(rows[0]))
        _replace(path, table, columns, onto=True)


def refuse_another(row: Mapping[str, str], own: Mapping[str, object], place: object) -> None:
    """Raise UsageError if a row of a name is that of another model, which must not lose it.

    That of an earlier version of its parts, which once had the name, is not another's.

    Args:
        row: That of the name.
        own: `Identity`, and `Versions` where it is known, of what is to have the name.
        place: The table.
    """
    another = row.get("Identity") and own.get("Identity") and row["Identity"] != own["Identity"]
    if another and own.get("Versions", row.get("Versions")) == row.get("Versions"):
        name = row.get("Attacker") or row.get("Model")
        raise UsageError(
            f"{place} has the row of another {name}, of other settings; name another --results_dir, or delete that row"
        )


def drop(path: Path, column: str, values: Collection[str]) -> None:
    """Take out the rows that have one of `values` in a column, as atomically as `upsert`."""
    if not any(row.get(column) in values for row in read(path)):
        return
    with FileLock(path.with_name(f".{path.name}.lock")):
        rows = read(path)
        kept = [row for row in rows if row.get(column) not in values]
        _replace(path, kept, list(rows[0]), onto=True)


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


def _replace(
    path: Path, rows: Sequence[Mapping[str, str]], columns: Sequence[str], onto: bool = False
) -> None:
    """Write under a temporary name, then rename; `onto` where rows of the old table go on."""
    with staged(path, onto=onto) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
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
