"""What tables say of a classifier and its defences, from what each says of itself; and whether a row says it."""

import contextlib
import math
from collections.abc import Collection, Mapping
from typing import Any

from dpsnn import parts
from dpsnn.errors import UsageError
from dpsnn.evaluation.legends import is_empty
from dpsnn.specs import AttackerSpec, ClassifierSpec, afterwards

FOLLOWS = frozenset(("Epsilon", "EpsilonDelta", "Precision"))
"""Settings that follow from others, or that a machine decides."""


def defence_columns(spec: ClassifierSpec, record: Mapping[str, Any]) -> dict[str, Any]:
    """Column → value, of all defences of this package and of those of others that are on.

    Args:
        spec: Of the classifier, as it stands.
        record: What came of its training.
    """
    used = {part.key for part in spec.active}
    cells: dict[str, Any] = {}
    for each in parts.declared("defence"):
        if each.is_own or each.key in used:
            cells |= spec.part(each.key).columns(record)
    return cells


def attack_columns(spec: AttackerSpec) -> dict[str, Any]:
    """Column → value of the settings of an attacker's attack, None of those of others in this package."""
    cells: dict[str, Any] = {}
    # The default, a decoder, stands last in tables.
    for each in reversed(parts.declared("attack")):
        if each.is_own:
            cells |= dict.fromkeys(parts.find("attack", each.key)().columns({}))
    return cells | spec.method.columns({})


def trained_columns(spec: ClassifierSpec) -> dict[str, Any]:
    """`Train` and the column → the value in training, of what may be changed afterwards."""
    used = {part.key for part in spec.active}
    every = (
        made
        for each in parts.declared("defence")
        if each.is_own or each.key in used
        for made in each.options
    )
    return {f"Train{made.column}": getattr(spec, made.name) for made in every if made.after}


def changed_columns() -> dict[str, str]:
    """Column of what stands now → that of what stood in training."""
    return {made.column: f"Train{made.column}" for made in afterwards().values()}


def published_columns() -> list[str]:
    """The strengths that every name says: those of the published defences."""
    said = (each for each in parts.declared("defence") if each.always)
    return [made.column for each in said for made in each.options[:1]]


def making_columns(spec: ClassifierSpec) -> dict[str, Any]:
    """Column → value of how a classifier is made, its data set, its defences and the length of its training aside."""
    return {
        "Network": spec.network,
        "Norm": spec.norm or None,
        "Dropout": spec.dropout,
        "SGDMomentum": spec.sgd_momentum,
        "ConstantRate": spec.constant_rate or None,
        "FixedOrder": spec.fixed_order or None,
    }


def length_columns(spec: ClassifierSpec) -> dict[str, Any]:
    """Column → value of how long it is trained, and in which steps."""
    return {
        "MaxEpochs": spec.max_epochs,
        "BatchSize": spec.batch_size,
        "LearningRate": spec.learning_rate,
    }


def outcomes() -> set[str]:
    """Columns of defences that say what came of a training rather than how it was set."""
    found: set[str] = set()
    for each in parts.declared("defence"):
        # One that cannot be used here is not in the way.
        with contextlib.suppress(UsageError):
            found |= parts.find("defence", each.key)().columns({}).keys()
        found -= {made.column for made in each.options}
    return found


def is_outcome(column: str) -> bool:
    """Whether a column is one of `outcomes`, or that by another way of counting, `_` and its name behind it."""
    return bool({column, column.rsplit("_", 1)[0]} & outcomes())


# ---------------------------------------------------------------- whose row


def expected(spec: ClassifierSpec) -> dict[str, Any]:
    """Column → what a row says of a classifier with these settings, whatever its seed, as far as they tell it."""
    # Where a network is cut by default it knows itself.
    cells = {"Dataset": spec.dataset, "Cut": spec.cut or ...}
    cells |= {**making_columns(spec), **length_columns(spec)}
    on = {part.key for part in spec.active}
    for each in parts.declared("defence"):
        for made in each.options:
            value = getattr(spec, made.name)
            # What a part that is on leaves open, its training found.
            found = each.key in on and value == made.default
            cells[made.column] = ... if found else value
    return cells


def agrees(row: Mapping[str, Any], wanted: Mapping[str, Any], columns: Collection[str]) -> bool:
    """Whether a row has the `wanted` values in these columns; what is not wanted must be off.

    Args:
        row: As text or numbers; an empty cell of an older row says nothing.
        wanted: Column → value; `...` is any.
        columns: Those that count.
    """
    return all(is_empty(row.get(c)) or _same(row[c], wanted.get(c, 0)) for c in columns)


def _same(cell: Any, value: Any) -> bool:
    if value is ... or value is None:
        return value is ...
    try:
        return math.isclose(float(cell), float(value), rel_tol=1e-5)
    except ValueError:
        return str(cell) == str(value)


# ---------------------------------------------------------------- in which order

PUBLISHED = (
    *("MeanValDCorr", "SEValDCorr", "ValAccuracy", "SEValAccuracy", "MSE", "SEMSE", "PSNR"),
    *("SSIM", "SESSIM", "SSIM2", "SESSIM2", "RelativeL2", "SERelativeL2"),
    *("ValConfidence", "SEValConfidence", "RelativeL2Shuffled", "SSIMShuffled", "SSIM2Shuffled"),
    *("ValAccuracyShuffled", "ValConfidenceShuffled", "Images", "DCorrFloor", "DCorrN"),
    *("MSEFloor", "PSNRFloor", "SSIMFloor", "SSIM2Floor", "RelativeL2Floor"),
    *("ValConfidenceFloor", "ValAccuracyFloor", "ValAccuracyCeiling", "ValConfidenceCeiling"),
)
"""Columns in the order in which tables have always had them; those of other metrics follow."""


def in_order(cells: Mapping[str, Any]) -> dict[str, Any]:
    """Cells of measures as `PUBLISHED` has them, and the others behind."""
    return {name: cells[name] for name in dict.fromkeys((*PUBLISHED, *cells)) if name in cells}
