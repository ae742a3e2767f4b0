"""What should make a reader doubt an audit: the flags of the evaluation, raised for one cut."""

import dataclasses
from collections.abc import Sequence

from dpsnn.audit.result import Json
from dpsnn.audit.wire import Wire
from dpsnn.errors import one_line
from dpsnn.evaluation.flags import Flag, flat, of_rows, restless

LOOKED = 100
"""Own pictures at which the client is looked at."""


def doubts(
    wire: Wire, rows: Sequence[Json], name: str, beaten: str, notes: Sequence[str]
) -> list[Json]:
    """All flags of one cut.

    Args:
        wire: What is heard.
        rows: Its attacks.
        name: Of the cut.
        beaten: What speaks against the bound; empty where nothing does.
        notes: Reasons to doubt that the data give.
    """
    found: list[Flag] = []
    if wire.whole is not None:
        looks = (restless, flat)
        target = dataclasses.replace(wire.whole, name=name)
        for look in looks:
            try:
                found += [each for each in (look(target, wire.client_images[:LOOKED]),) if each]
            except RuntimeError as error:  # a client without any gradient
                found.append(_no_gradient(name, error))
    found += of_rows([_row(each, name) for each in rows if each["status"] == "ok"])
    found += [_failed(each) for each in rows if each["status"] == "failed"]
    if beaten:
        do = "do not use the cut's numbers before this is understood"
        found.append(Flag(name, beaten, "the accounting of what is sent is wrong", do))
    for note in notes:
        found.append(
            Flag(name, note, "leakage and accuracy are not those of strangers", "give other data")
        )
    return _together(found)


def _no_gradient(name: str, error: Exception) -> Flag:
    return Flag(
        name,
        f"the client lets no gradient through ({one_line(error)[:120]})",
        "attacks that follow gradients cannot be made; hidden gradients are no privacy",
        "believe attacks that need none, such as the decoder",
    )


def _failed(row: Json) -> Flag:
    return Flag(
        row["label"],
        f"it failed: {row['reason']}",
        "what it would have found is not known",
        "mend the cause and call the audit again: what is done is kept",
    )


def _row(row: Json, name: str) -> dict[str, str]:
    """As the table of attackers says it."""
    mse = row["measures"].get("MSE", {})
    spread = 0.0
    if mse.get("low") is not None:
        spread = (mse["high"] - mse["low"]) / 3.92
    cells = {
        "Attacker": row["label"],
        "Attack": row["attack"],
        "Model": name,
        "Images": row["victims"],
        "OwnMSE": row["own_error"],
        "OwnMSEFloor": row["own_floor"],
        "Doubling": row["doubling"],
        "MSE": mse.get("value"),
        "SEMSE": spread,
        "Adaptive": "True",
        "DataPct": "100",
        "Seed": "",
    }
    return {column: "" if value is None else str(value) for column, value in cells.items()}


def _together(flags: Sequence[Flag]) -> list[Json]:
    """One for all that say the same of several attacks."""
    said: dict[tuple[str, str, str], list[str]] = {}
    for flag in flags:
        said.setdefault((flag.raised, flag.why, flag.do), []).append(flag.of)
    return [
        {"raised": f"{', '.join(dict.fromkeys(of))}: {raised}", "why": why, "do": do}
        for (raised, why, do), of in said.items()
    ]
