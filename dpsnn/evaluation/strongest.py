"""The strongest of the attackers tried, chosen without looking at what it is then scored on.

The best of N scores is a choice made on the scores themselves: noise alone makes the best of many look better than any
of them is. So the attacker is chosen on one half of the victims and scored on the other, and the halves then change
places. What comes out is a lower bound on leakage: of the attackers that were tried, no more.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.special import stdtrit
from torch import Tensor

from dpsnn.evaluation import measures, tables, victims
from dpsnn.evaluation.columns import changed_columns, is_outcome
from dpsnn.evaluation.measures import Measure
from dpsnn.evaluation.tables import number

RESAMPLES = 2000
"""Bootstrap samples of the victims, each with a choice of its own."""

LEVEL = 0.95

LEAST = 30
"""Victims below which an interval is Student's, of the wider of those chosen."""

COMPARED = "ComparedDigest"
"""Column that tells who was compared, trained and scored as they were, from others of their names."""

DIGITS = 1e-4
"""Of a number in a table, about: what was written twice may differ by so much."""


@dataclass(frozen=True)
class Strongest:
    """The strongest attacker by one measure."""

    names: tuple[str, str]
    """Chosen on the second half of the victims, and on the first; nearly always the same."""
    value: float
    """Mean over all victims, each scored under the attacker that was chosen without it."""
    error: float
    low: float
    high: float
    """Standard error and 95 % interval over victims of the whole procedure, choice included: simultaneous over
    attackers. Of fewer than LEAST victims they are those of the attackers chosen."""
    oracle: float
    """Mean of the best attacker of each victim, which nobody could have chosen: not to be compared with a bound."""
    tried: int
    """Number of attackers."""


def strongest(
    scores: Mapping[str, Float[Tensor, " n"]], lower_leaks: bool = True, seed: int = 0
) -> Strongest:
    """Choose among attackers by two-fold cross-fitting over victims.

    Args:
        scores: Of each attacker, one value per victim, the same victims in the same order.
        lower_leaks: Whether a lower value leaks more, as an error does.
        seed: Of the halves and of the bootstrap.

    Raises:
        ValueError: If there is no attacker, or fewer than two victims, or values are missing.
    """
    if not scores:
        raise ValueError("there is no attacker to choose from")
    names = sorted(scores)  # of equals the first is taken, whatever order they were made in
    table = torch.stack([scores[name].double() for name in names]).numpy()
    count = table.shape[1]
    if count < 2:
        raise ValueError(f"{count} victims cannot be halved; score 2 or more")
    if not np.isfinite(table).all():
        raise ValueError("scores are missing or not finite; leave the measure out")
    errors = table if lower_leaks else -table
    halves, weights = _drawn(count, seed)
    chosen, value = _crossed([errors[:, half].mean(1)[None] for half in halves], halves)
    resampled = [weight @ errors[:, half].T / len(half) for half, weight in zip(halves, weights)]
    _, values = _crossed(resampled, halves)
    tail = (1 - LEVEL) / 2
    error = float(values.std(ddof=1))
    low, high = np.quantile(values, [tail, 1 - tail])
    if count < LEAST:
        # Resamples of halves of a few are too narrow: of two victims they have no width at all.
        error = max(float(errors[int(row[0])].std(ddof=1)) for row in chosen) / math.sqrt(count)
        half = float(stdtrit(count - 1, 1 - tail)) * error
        low, high = value[0] - half, value[0] + half
    best, sign = errors.min(0).mean(), 1 if lower_leaks else -1
    low, high = sorted((sign * low, sign * high))
    first, second = (names[int(row[0])] for row in chosen)
    return Strongest(
        (first, second),
        float(sign * value[0]),
        error,
        float(low),
        float(high),
        float(sign * best),
        len(names),
    )


Numbers = NDArray[np.float64]
Halves = tuple[NDArray[np.int64], NDArray[np.int64]]


def _crossed(means: list[Numbers], halves: Halves) -> tuple[list[NDArray[np.int64]], Numbers]:
    """Choose on each half, score on the other; a row of `means` per sample, a column per attacker."""
    chosen = [means[1].argmin(1), means[0].argmin(1)]
    scored = [np.take_along_axis(m, c[:, None], 1)[:, 0] for m, c in zip(means, chosen)]
    sizes = [len(half) for half in halves]
    return chosen, (scored[0] * sizes[0] + scored[1] * sizes[1]) / sum(sizes)


@lru_cache(maxsize=2)
def _drawn(count: int, seed: int) -> tuple[Halves, tuple[Numbers, Numbers]]:
    """Both halves of so many victims, and how often each is in each of `RESAMPLES` samples, whatever the target."""
    draws = np.random.default_rng(seed)
    order = draws.permutation(count)
    halves = order[: count // 2], order[count // 2 :]

    def often(size: int) -> Numbers:
        return draws.multinomial(size, np.full(size, 1 / size), RESAMPLES).astype(np.float64)

    return halves, (often(len(halves[0])), often(len(halves[1])))


# ---------------------------------------------------------------- the table


def strongest_table(results_dir: str | Path) -> Path:
    return tables.attackers_table(results_dir).with_name("strongest.csv")


def write_strongest(results_dir: str | Path) -> Path | None:
    """Write the table of the strongest attacker on each target, by what images it owns, beside that of all attackers.

    Scores of each victim may lie elsewhere, as they are large: a line that was made there stays while its attackers do.

    Returns:
        The table; None where there is none to write, as nobody was scored victim by victim.
    """
    rows = tables.read(tables.attackers_table(results_dir))
    path = strongest_table(results_dir)
    before = {(*_owner(row), int(number(row, "Images") or 0)): row for row in tables.read(path)}
    targets: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        targets.setdefault(_owner(row), []).append(row)
    found: list[Mapping[str, object]] = []
    for owner, members in targets.items():
        for count in sorted({int(number(row, "Images") or 0) for row in members}, reverse=True):
            line = _line(members, results_dir, count)
            if line is None and (known := before.get((*owner, count))):
                line = dict(known) if _still(known, members, results_dir) else None
            if line:
                found.append(line)
    if not found:
        return None
    tables.write(path, found)
    return path


def _owner(row: Mapping[str, str]) -> tuple[str, ...]:
    """The target, and what images whoever attacks it owns."""
    return (*target_of(row), row.get("Surrogate", ""), row.get("DataPct", ""))


def _still(
    line: Mapping[str, str], members: Sequence[Mapping[str, str]], results_dir: str | Path
) -> bool:
    """Whether those who attacked so many victims are the ones that a line compared, by scores that are not here."""
    count = int(number(line, "Images") or 0)
    rows = [row for row in members if (number(row, "Images") or 0) >= count]
    found = {row.get("Attacker", ""): row for row in rows}
    named = {c: cell.split(" / ") for c, cell in line.items() if c.endswith("By") and cell}
    if any(victims.there(results_dir, name) for name in found):
        return False
    everybody = {name for names in named.values() for name in names}
    if not everybody <= found.keys() or number(line, "Tried") != len(found):
        return False
    if known := line.get(COMPARED):
        return known == _compared(rows)
    # An earlier version did not say it: of one attacker alone the mean is that of its row, if it is still the same.
    for by, names in named.items():
        row, column = found[names[0]], by.removesuffix("By")
        value, own = number(line, column), number(row, column)
        if len(names) > 1 or number(row, "Images") != count or value is None or own is None:
            continue
        if not math.isclose(value, own, rel_tol=DIGITS):
            return False
    return True


def _compared(rows: Sequence[Mapping[str, str]]) -> str:
    """What tells the attackers of these rows, as they were, from others of their names."""
    told = sorted(f"{row.get('Attacker', '')} {victims.mark(row)}" for row in rows)
    return sha256("\n".join(told).encode()).hexdigest()[:16]


def target_of(row: Mapping[str, str]) -> tuple[str, ...]:
    """Which target was attacked, as it stood, and how often it was heard."""
    columns = ("Model", "Cut", "Queries", *changed_columns())
    return tuple(row.get(column, "") for column in columns)


def _line(
    members: Sequence[Mapping[str, str]], results_dir: str | Path, count: int
) -> dict[str, object] | None:
    """One target: what its attackers have in common, and by each measure the strongest of them.

    Args:
        members: Rows of its attackers.
        results_dir: Where the scores of each victim are.
        count: Of the victims: attackers scored on more are compared on the first of these, others left out.

    Returns:
        None where nobody's scores are here, or somebody does better whose scores are not.
    """
    rows = [row for row in members if (number(row, "Images") or 0) >= count]
    scored = {
        name: {measure: values[:count] for measure, values in scores.items()}
        for row in rows
        if (name := row.get("Attacker"))
        and (scores := victims.load(results_dir, name, victims.mark(row)))
    }
    if not scored:
        return None
    known = measures.reconstructions()
    told = measures.settings([*rows[0]], known)
    alike = {
        c: rows[0][c] for c in told if not is_outcome(c) and len({r.get(c) for r in rows}) == 1
    }
    line: dict[str, object] = {"Model": rows[0]["Model"], **alike, "Images": count}
    for measure in known:
        values = {name: each[measure.name] for name, each in scored.items() if measure.name in each}
        values = {name: each for name, each in values.items() if bool(each.isfinite().all())}
        if measure.shown and len(values) > 0 and len(next(iter(values.values()))) > 1:
            line |= _cells(measure, strongest(values, measure.sign < 0), rows)
    if "Tried" not in line or any(
        _leaks_more(row, line, measure)
        for row in rows
        for measure in known
        if row.get("Attacker") not in scored
    ):
        return None
    line[COMPARED] = _compared(rows)
    return line | _bound(line, [row for row in rows if int(number(row, "Images") or 0) == count])


def _leaks_more(row: Mapping[str, str], line: Mapping[str, object], measure: Measure) -> bool:
    """Whether an attacker whose scores lie elsewhere does better than the strongest of those whose are here."""
    value, own = line.get(measure.column), number(row, measure.column)
    return isinstance(value, float) and own is not None and measure.sign * (own - value) > 0


def _bound(line: Mapping[str, object], rows: Sequence[Mapping[str, str]]) -> dict[str, object]:
    """What nobody beats on these victims, where a row says it of them, and its share of the strongest's error."""
    bound = next((b for row in rows if (b := number(row, "MSEBound")) is not None), None)
    if bound is None:
        return {}
    error = line.get("MSE")
    share = bound / error if isinstance(error, float) and error else None
    return {"MSEBound": bound, "BoundShare": share}


def _cells(
    measure: Measure, found: Strongest, rows: Sequence[Mapping[str, str]]
) -> dict[str, object]:
    column = measure.column
    best = next(row for row in rows if row["Attacker"] == found.names[0])
    beside = {c: best.get(c) for c in (measure.floor, measure.ceiling) if c}
    return {
        column: found.value,
        **({measure.error: found.error} if measure.error else {}),
        f"{column}Low": found.low,
        f"{column}High": found.high,
        f"{column}By": " / ".join(dict.fromkeys(found.names)),
        f"{column}BestOfEach": found.oracle,
        **beside,
        "Tried": found.tried,
    }
