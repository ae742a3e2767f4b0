"""From a row of a table back to the settings of its defences, through the parts' own columns; and what legends say."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dpsnn import parts
from dpsnn.errors import UsageError
from dpsnn.parts import Option, Part
from dpsnn.specs import AttackerSpec

NONE = "none"


def is_empty(cell: Any) -> bool:
    """Whether a cell says nothing, as text or as pandas reads it."""
    return cell is None or cell == "" or cell != cell or str(cell) == "False"


def defences(row: Mapping[str, Any], trained: bool = False) -> tuple[Any, ...]:
    """The defences that are on, in their order.

    Args:
        row: Column → cell, as text or number; a column that is missing or empty leaves the default.
        trained: Of an attacker's row, those of the target's training, where they were changed afterwards.

    Raises:
        UsageError: If a cell is out of range.
    """
    found = []
    for each in parts.declared("defence"):
        said = _settings(each.options, row, trained)
        # What is at its defaults is not imported.
        if any(said.get(made.field, made.default) != made.default for made in each.options):
            part = parts.find("defence", each.key)(**said)
            if part.on:
                found.append(part)
    return tuple(found)


def attack(row: Mapping[str, Any]) -> Any:
    """The attack of an attacker, with its own settings; as `defences`.

    Raises:
        UsageError: If it is not known here, or a cell is out of range.
    """
    key = AttackerSpec().attack if is_empty(row.get("Attack")) else row["Attack"]
    part = parts.find("attack", key)
    columns = part().columns({})  # of others it has no column of its own
    options = (
        made for each in parts.declared("attack") if each.key == key for made in each.options
    )
    return part(**_settings((made for made in options if made.column in columns), row))


def _settings(
    options: Iterable[Option], row: Mapping[str, Any], trained: bool = False
) -> dict[str, Any]:
    """Field → value of the options that a row names."""
    said = {}
    for made in options:
        before = f"Train{made.column}"
        column = before if trained and made.after and before in row else made.column
        if not is_empty(cell := row.get(column)):
            said[made.field] = _value(cell, made, column)
    return said


def _value(cell: Any, made: Option, column: str) -> Any:
    if made.kind in (bool, str):
        return str(cell) == "True" if made.kind is bool else str(cell)
    try:
        return made.kind(float(cell))
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"column {column} has {str(cell)[:40]!r}, no number; delete that row and evaluate again"
        ) from error


def attacker(attack: str, naive: bool, decoder: str) -> str:
    """An attacker in a word or two: of the usual attack what it knows and its decoder, of others their key."""
    knowledge, usual = "naive" if naive else "adaptive", AttackerSpec()
    if attack != usual.attack:
        return f"naive {attack}" if naive else attack
    return knowledge if decoder == usual.decoder else f"{knowledge} {decoder}"


def legend(used: Sequence[Part], unknown: Sequence[str] = ()) -> str:
    """Defences in words: `noise 0.5 + NoPeek 0.5`.

    Args:
        used: Those that are on.
        unknown: What else a table says, of parts that are not known here.
    """
    return " + ".join((*filter(None, (part.legend() for part in used)), *unknown)) or NONE


def whole_legend(used: Sequence[Part], unknown: Sequence[str] = ()) -> str:
    """The same with all that is not at its default."""
    return " + ".join((*filter(None, map(_whole, used)), *unknown)) or NONE


def _whole(part: Part) -> str:
    further = []
    for each in part.own_fields()[1:]:
        value = getattr(part, each.name)
        if value != each.default:
            name = each.name.replace("_", " ")
            shown = f"{value:g}" if isinstance(value, int | float) else str(value)
            further.append(name if value is True else f"{name} {shown}")
    return f"{part.legend()} ({', '.join(further)})" if further else part.legend()


def distinct(groups: Sequence[tuple[Sequence[Part], Sequence[str], str]]) -> list[str]:
    """A legend for each group of rows, all different: as short as they can be.

    Args:
        groups: Defences of each, known and unknown, and what its models' names have in common.
    """
    labels = [legend(used, unknown) for used, unknown, _ in groups]
    often = Counter(labels)
    labels = [
        whole_legend(used, unknown) if often[label] > 1 else label
        for label, (used, unknown, _) in zip(labels, groups)
    ]
    # The shortest name says no more than the legend.
    shortest: dict[str, str] = {}
    for label, (*_, name) in zip(labels, groups):
        shortest[label] = min(shortest.get(label, name), name, key=len)
    return [label if name == shortest[label] else name for label, (*_, name) in zip(labels, groups)]


def family(used: Sequence[Part], unknown: Sequence[str] = ()) -> str:
    """The kinds of defences, whatever their strength: `noise and NoPeek`."""
    return " and ".join((*(part.label or part.key for part in used), *unknown)) or "no defence"


def strengths(used: Sequence[Part]) -> tuple[tuple[float, str], ...]:
    """By what defences are ordered: the first setting of each that there is, 0 where it is off."""
    by_key = {part.key: strength(part) for part in used}
    values = [by_key.get(each.key, 0) for each in parts.declared("defence")]
    return tuple(
        (0.0, value) if isinstance(value, str) else (float(value or 0), "") for value in values
    )


def strength(part: Part) -> Any:
    """A part's first setting; True where it has none."""
    own = part.own_fields()
    return getattr(part, own[0].name) if own else True
