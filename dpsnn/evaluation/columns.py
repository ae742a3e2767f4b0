"""What tables say of a classifier's defences, from what each says of itself."""

from collections.abc import Mapping
from typing import Any

from dpsnn import parts
from dpsnn.specs import AttackerSpec, ClassifierSpec


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
