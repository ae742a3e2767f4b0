"""Why an attack gave nothing, and which attacks that gave nothing leave open what they would have found.

Verdicts, the gate and the page go by this alone. Nothing here imports torch.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

INAPPLICABLE, TOO_LARGE, UNPAID, FAILED = "inapplicable", "too large", "unpaid", "failed"

CAUSES = (INAPPLICABLE, TOO_LARGE, UNPAID, FAILED)
"""It cannot be made there, whatever it may cost; no machine or budget of ours is large enough; the budget that was
asked for is not; it broke."""

UNTAUGHT = ("nearest", "inversion", "map")
"""Attacks that learn no map from what is heard to pictures, of files that do not say so."""

Row = Mapping[str, Any]


def cause(row: Row) -> str | None:
    """Of an attack's row; None where it came to an end. Files that do not say so are read by their reasons."""
    if row["status"] == "ok":
        return None
    if known := row.get("cause"):
        return str(known)
    if row["status"] == "failed":
        return FAILED
    reason = re.sub(r"^seed \d+: ", "", row["reason"])
    if reason.startswith("does not apply"):
        return INAPPLICABLE
    return TOO_LARGE if reason.startswith("it would need") else UNPAID


def learned(rows: Iterable[Row]) -> bool:
    """Whether any attack that learns a map from what is heard to pictures came to an end."""
    return any(
        row["status"] == "ok" and row.get("learns", row["attack"] not in UNTAUGHT) for row in rows
    )


def lost(rows: Iterable[Row]) -> list[Row]:
    """Attacks of which nobody knows what they would have found.

    One that cannot be made there is none of them; nor is one that is too large for any machine, where another one
    learnt at the same cut.
    """
    rows = list(rows)
    harmless = {None, INAPPLICABLE, *((TOO_LARGE,) if learned(rows) else ())}
    return [row for row in rows if cause(row) not in harmless]
