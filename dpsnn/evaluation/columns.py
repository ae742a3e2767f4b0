"""What tables say of a classifier's defences, from what each says of itself."""

from collections.abc import Mapping
from typing import Any

from dpsnn import parts
from dpsnn.specs import ClassifierSpec


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
