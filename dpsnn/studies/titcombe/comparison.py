"""Every published row beside our two: by the published protocol, and done soundly. Gathered from the tables alone."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from dpsnn.errors import UsageError
from dpsnn.evaluation import tables
from dpsnn.evaluation.columns import FOLLOWS, agrees, expected, is_outcome, published_columns
from dpsnn.evaluation.legends import attacker
from dpsnn.evaluation.measures import CLASSIFIER, settings
from dpsnn.evaluation.rows import Row, of_longest
from dpsnn.evaluation.tables import number
from dpsnn.specs import AttackerSpec, ClassifierSpec
from dpsnn.studies.titcombe.published import CONTROL, PUBLISHED, Published
from dpsnn.tensors import Number

KINDS = ("adaptive", "naive", "ridge", "adaptive linear", "refiner", "mixture", "ensemble")
"""The attackers of a sound row."""


class Line(NamedTuple):
    """One published row with what we have beside it; None where it was not run."""

    paper: Published
    protocol: Row | None
    """Our row of published statistics."""
    clean: Row | None
    """The same with NoPeek before the noise."""
    wire: Row | None
    """The protocol's attacker, scored honestly on what crosses the wire."""
    sound: Row | None
    """Our honest row of the classifier trained soundly."""
    attackers: dict[str, Row]
    """The honest rows of its attackers, of the KINDS."""


def best(line: Line, column: str, sign: int) -> tuple[str, Row] | None:
    """The kind and row of the sound attacker that does most harm: largest `sign` × column."""
    scored = [
        (sign * value, kind, row)
        for kind, row in line.attackers.items()
        if (value := number(row, column)) is not None
    ]
    if not scored:
        return None
    _, kind, row = max(scored, key=lambda entry: entry[0])  # the first of equals
    return kind, row


def _read(path: Path, key: Sequence[str], dataset: str) -> list[tables.ReadRow]:
    return [row for row in tables.read(path, key) if row.get("Dataset") == dataset]


class Training(NamedTuple):
    """How a row of published statistics was trained."""

    constant_rate: bool = True
    fixed_order: bool = True
    nopeek_clean: bool = False


PROTOCOL = Training()
"""The paper's: a constant step size, images in a fixed order; where NoPeek acted it does not say."""

CLEAN = Training(nopeek_clean=True)


def training(row: Row) -> Training:
    """How our row was trained."""
    return Training(
        *(row.get(column) == "True" for column in ("ConstantRate", "FixedOrder", "NopeekClean"))
    )


def published_rows(dataset: str, published_dir: Path) -> list[tables.ReadRow]:
    """Our rows of published statistics, the controls included."""
    rows = _read(tables.published_table(published_dir), tables.CLASSIFIER_KEY, dataset)
    return of_longest(rows, rows)


def controls(dataset: str, published_dir: Path) -> dict[Training, Row]:
    """The row that was trained in several ways, by its `training`; the smallest seed of each."""
    rows = published_rows(dataset, published_dir)
    found = {}
    for way in {training(row) for row in rows}:
        row = _pick([row for row in rows if training(row) == way], CONTROL)
        if row is not None:
            found[way] = row
    return found


def gather(dataset: str, published_dir: Path, results_dir: Path) -> list[Line]:
    """One line per published row, in the paper's order.

    Args:
        dataset: Data set of our rows.
        published_dir: Results of the group `published`.
        results_dir: Results of the honest groups.

    Raises:
        UsageError: If there is not a single row for the data set, or a table is damaged.
    """
    ours = published_rows(dataset, published_dir)
    protocol = [row for row in ours if training(row) == PROTOCOL]
    clean = [row for row in ours if training(row) == CLEAN]
    wires = _read(tables.attackers_table(published_dir), tables.ATTACKER_KEY, dataset)
    models = _read(tables.models_table(results_dir), tables.CLASSIFIER_KEY, dataset)
    attacks = _read(tables.attackers_table(results_dir), tables.ATTACKER_KEY, dataset)
    if not protocol and not models:
        raise UsageError(
            f"no results for {dataset} in {published_dir} or {results_dir}; run"
            f" ./main.sh published --dataset {dataset} and ./main.sh all --dataset {dataset} first"
        )
    sound = [row for row in of_longest(models, models) if _is_sound(row)]
    scored = of_longest(attacks, attacks, "Attacker")
    lines = []
    for paper in PUBLISHED:
        same, before, honest = (_pick(rows, paper[:2]) for rows in (protocol, clean, sound))
        names = (same["Model"], same.get("Attacker")) if same else ()
        wire = next((row for row in wires if (row["Model"], row["Attacker"]) == names), None)
        lines.append(Line(paper, same, before, wire, honest, _attackers(scored, honest)))
    return lines


def _is_sound(row: Row) -> bool:
    """Whether a classifier was trained as is usual here, with none but the published defences."""
    free = {"Dataset", "MaxEpochs", *FOLLOWS, *published_columns()}
    told = [c for c in settings([*row], CLASSIFIER) if c not in free and not is_outcome(c)]
    return agrees(row, expected(ClassifierSpec()), told)


def _pick(rows: Iterable[Row], wanted: tuple[Number, Number]) -> Row | None:
    """The row with this noise and NoPeek weight and the smallest seed; the latest of several."""
    fitting = [
        row for row in rows if (number(row, "NoiseScale"), number(row, "NopeekWeight")) == wanted
    ]
    return min(reversed(fitting), key=lambda row: number(row, "Seed") or 0, default=None)


def _attackers(rows: Iterable[Row], model: Row | None) -> dict[str, Row]:
    """The plain attackers of a classifier: own digits, all of them, one transmission, the noise of training.

    Of several of a kind, such as one trained for longer, that which serves better on own images.
    """
    if model is None:
        return {}
    found: dict[str, Row] = {}
    for row in rows:
        kind = _kind(row)
        usual = (
            row["Model"] == model["Model"]
            and row.get("Surrogate") == row.get("Dataset")
            and number(row, "DataPct") == 100
            and number(row, "Queries") == 1
            and number(row, "NoiseScale") == number(row, "TrainNoiseScale")
            and number(row, "Seed") == number(model, "Seed")
        )
        if usual and (kind not in found or _own_error(row) < _own_error(found[kind])):
            found[kind] = row
    return {kind: found[kind] for kind in KINDS if kind in found}


def _own_error(row: Row) -> Number:
    error = number(row, "OwnMSE")
    return math.inf if error is None else error


def _kind(row: Row) -> str:
    """What kind of attacker it is; of one with settings of its own nothing that is sought."""
    usual = AttackerSpec()
    naive = row.get("Adaptive") == "False"
    return attacker(row.get("Attack") or usual.attack, naive, row.get("Decoder") or usual.decoder)
