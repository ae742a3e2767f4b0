"""Whose row it is: a name spells what a model was asked to be, and its row stands for that alone."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from dpsnn.checkpoints import Kind, Stored, identity_of
from dpsnn.evaluation.tables import cell, refuse_another
from dpsnn.parts import Part
from dpsnn.specs import plain


def identity(kind: Kind, stored: Stored, target: str = "") -> str:
    """Sixteen hexadecimal digits of all that a model was asked to be, its parts' versions included.

    What is usual is left out, so that a setting which comes later changes no identity.

    Args:
        kind: The spec whose fields its arguments are.
        stored: Its checkpoint.
        target: Identity of what it attacks.
    """
    usual, said = plain(kind()), identity_of(kind, stored.arguments, stored.parts)
    # The target's weights say what came of a training, not what was asked for.
    own = [n for n in sorted(said) if n != "target" and (n not in usual or said[n] != usual[n])]
    text = "\n".join((*(f"{name}={_settled(said[name])!r}" for name in own), target))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _settled(value: Any) -> Any:
    """1 and 1.0 are the same setting, True is another."""
    return float(value) if type(value) is int else value


def stands(row: Mapping[str, str] | None, own: Mapping[str, object], place: object) -> bool:
    """Whether a row says of a model what it is now, and need not be made anew.

    Args:
        row: That of its name, if there is one.
        own: Digests and identity, by column; a row of an earlier version lacks some.
        place: The table.

    Raises:
        UsageError: If it is the row of another model of that name.
    """
    if row is None:
        return False
    refuse_another(row, own, place)
    return all(row.get(column, "") == cell(value) for column, value in own.items())


def versions(used: Iterable[Part]) -> str:
    """Which parts, in which versions, as a row says it: `noise nopeek`, of a second version `noise:2`."""
    return " ".join(p.key if p.present == 1 else f"{p.key}:{p.present}" for p in used)


def version_of(said: object, used: Iterable[str]) -> dict[str, int]:
    """Part → version, as `versions` said it; the first where an older row does not say.

    Args:
        said: The cell.
        used: Parts that are on.
    """
    if not isinstance(said, str) or not said:
        return dict.fromkeys(used, 1)
    pairs = (text.partition(":") for text in said.split())
    return {key: int(number or 1) for key, _, number in pairs}
