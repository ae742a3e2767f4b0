"""Repeated trainings in one line: mean and 95 % interval over seeds."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from scipy.stats import t

from dpsnn.evaluation import measures, tables
from dpsnn.evaluation.columns import is_outcome
from dpsnn.evaluation.flags import write_flags
from dpsnn.evaluation.strongest import write_strongest
from dpsnn.names import seedless

LEVEL = 0.95


def interval(values: Sequence[float]) -> float:
    """Half the width of Student's 95 % interval of the mean; not a number for a single value."""
    if len(values) < 2:
        return math.nan
    return float(t.ppf(0.5 + LEVEL / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


def over_seeds(
    rows: Sequence[dict[str, str]],
    settings: Sequence[str],
    values: Sequence[str],
    names: Sequence[str] = (),
    outcomes: Sequence[str] = (),
) -> list[dict[str, object]]:
    """One row for all rows that differ in nothing but their seed.

    Args:
        rows: Rows of a table, as read.
        settings: Columns that must agree; one that a row lacks is empty.
        names: Columns of names, which must agree but for seeds and epochs: they say what no other column does.
        values: Columns of numbers.
        outcomes: Columns that are shown where they agree.

    Returns:
        The settings, the number of `Seeds`, for every value its mean and, as `<value>CI`, half its 95 % interval, and
        what the names have in common.
    """
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        agreed = [row.get(name, "") for name in settings]
        # Not of a name that says neither.
        agreed += [seedless(n) if "_epoch=" in (n := row.get(name, "")) else "" for name in names]
        groups.setdefault(tuple(agreed), []).append(row)
    summary = []
    for key, members in groups.items():
        line: dict[str, object] = {**dict(zip(settings, key)), "Seeds": len(members)}
        for name in values:
            cells = [tables.number(member, name) for member in members]
            numbers = [value for value in cells if value is not None]
            line[name] = mean(numbers) if numbers else None
            line[f"{name}CI"] = interval(numbers)
        line |= zip(names, key[len(settings) :])
        for name in outcomes:
            found = {member.get(name, "") for member in members}
            line[name] = found.pop() if len(found) == 1 else None
        summary.append(line)
    return summary


def write_summaries(results_dir: str | Path) -> list[Path]:
    """Write the summaries of the tables beside them.

    Returns:
        The files written: only those whose table exists.
    """
    written = []
    for table, measured, names in (
        (tables.models_table(results_dir), measures.CLASSIFIER, ["Model"]),
        (tables.attackers_table(results_dir), measures.reconstructions(), ["Attacker"]),
        (tables.inversions_table(results_dir), measures.INVERSION, ["Model", "Judge"]),
    ):
        if rows := tables.read(table):
            columns = measures.settings([*rows[0]], measured)
            outcomes = [column for column in columns if is_outcome(column)]
            settings = [column for column in columns if column not in outcomes]
            path = table.with_name(f"{table.stem}_by_seed.csv")
            values = [measure.column for measure in measured]
            tables.write(path, over_seeds(rows, settings, values, names, outcomes))
            written.append(path)
    return [*written, *filter(None, (write_strongest(results_dir), write_flags(results_dir)))]
