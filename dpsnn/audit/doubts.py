"""What should make a reader doubt an audit: the flags of the evaluation, raised for one cut."""

import dataclasses
from collections.abc import Sequence

import torch

from dpsnn.attacks.base import DIVERGED
from dpsnn.audit.averaging import AVERAGE
from dpsnn.audit.result import Json
from dpsnn.audit.wire import Wire
from dpsnn.errors import one_line
from dpsnn.evaluation.flags import Flag, flat, of_rows, restless
from dpsnn.target import Target
from dpsnn.tensors import Images
from dpsnn.training import device

LOOKED = 100
"""Own pictures at which the client is looked at."""

ALONE = 4
"""Of them that are shown to it one by one."""

COMPANY = 0.01
"""By how much, of its largest value, what it gives for one may differ then: rounding in half precision does more than
other shapes of the same sums."""


def doubts(
    wire: Wire,
    rows: Sequence[Json],
    name: str,
    beaten: str,
    notes: Sequence[str],
    accuracy: Json | None = None,
    odd: str = "",
) -> list[Json]:
    """All flags of one cut.

    Args:
        wire: What is heard.
        rows: Its attacks.
        name: Of the cut.
        beaten: What speaks against the bound; empty where nothing does.
        notes: Reasons to doubt that the data give.
        accuracy: Of the task, in percent, with its floor; None where there is none.
        odd: What is odd about the scores of classes that it is of; empty where nothing is.
    """
    found: list[Flag] = []
    if wire.whole is not None:
        target = dataclasses.replace(wire.whole, name=name)
        found += _of_client(target, wire.client_images[:LOOKED])
    found += _of_wire(wire, name)
    if odd:
        why, do = (
            "accuracy says nothing then",
            "let the model give finite scores before any sigmoid",
        )
        found.append(Flag("the task", odd, why, do))
    found += _of_task(accuracy)
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


def _of_client(target: Target, images: Images) -> list[Flag]:
    found: list[Flag | None] = []
    for look in (restless, flat, in_company):
        try:
            found.append(look(target, images))
        except RuntimeError as error:  # a client without any gradient
            found.append(_no_gradient(target.name, error))
    if found[0]:
        found[2:] = []  # who never answers twice alike does not do so in company
        anew = (
            "here each picture is answered anew as often as it is sent, those of attackers as well"
        )
        found[0] = dataclasses.replace(found[0], why=f"{found[0].why}; {anew}")
    return [flag for flag in found if flag]


@torch.no_grad()
def in_company(target: Target, images: Images) -> Flag | None:
    """Whether what the client gives for an image depends on the images beside it."""
    if len(images) < 2:
        return None
    given = images.to(device())
    together = target.client(given)[:ALONE]
    alone = torch.cat([target.client(each.unsqueeze(0)) for each in given[:ALONE]])
    apart, largest = (float(each.abs().max()) for each in (alone - together, together))
    if apart <= COMPANY * largest:
        return None
    return Flag(
        target.name,
        f"what the client gives for an image changes by up to {apart:.3g} with the images beside it",
        "what one person sends depends on others, so no row stands for itself: neither attacks nor guarantees hold for"
        " a client that is given one image",
        "let its normalisation use running statistics (track_running_stats=True) and put it into evaluation mode",
    )


def _of_wire(wire: Wire, name: str) -> list[Flag]:
    found = []
    if wire.endless:
        found.append(
            Flag(
                name,
                f"the client gives values that are no finite numbers for {wire.endless} pictures",
                "they are heard, and handed to the server, as the nearest finite values",
                "mend the client, such as a logarithm or a division of 0",
            )
        )
    if wire.beyond:
        found.append(
            Flag(
                name,
                "what the client sends lies outside the set in which its last layer should put it",
                "no guarantee rests on that set any more",
                "look for a hook on that layer, or for one that is not what its kind says",
            )
        )
    if wire.given > len(wire.own):
        found.append(
            Flag(
                name,
                f"{len(wire.own)} of {wire.given} own pictures are used, as there is no room for more activations",
                "an attacker with all of them would get more",
                "read its rows as those of an attacker with so many images, and no more",
            )
        )
    return found


def _of_task(accuracy: Json | None) -> list[Flag]:
    """Whether the model does its task: one that does not is hardly the one that is deployed."""
    if accuracy is None or not accuracy["low"] <= accuracy["floor"] < 100:
        return []
    value, floor = accuracy["value"], accuracy["floor"]
    said = "no more"
    if value > floor:
        said = f"not clearly more (from {accuracy['low']:.1f} % on)"
    return [
        Flag(
            "the task",
            f"accuracy is {value:.1f} %, {said} than always naming the most frequent class gets ({floor:.1f} %)",
            "where no noise on the wire explains it, this is not the model as it is used, and what it sends is not what"
            " users would send",
            "see that --weights is given, that the model takes pixels in [0, 1] and normalises them itself, and that it"
            " numbers the classes as the data do, folders by their names' order",
        )
    ]


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
        # Of the average nobody can tell by its name what its members know.
        "Attack": row["label" if row["attack"] == AVERAGE.key else "attack"],
        "Model": name,
        "Images": row["victims"],
        "OwnMSE": row["own_error"],
        "OwnMSEFloor": row["own_floor"],
        "OwnMSESE": row["own_spread"],
        "Doubling": DIVERGED if row.get("diverged") else row["doubling"],
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
