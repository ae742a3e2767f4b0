"""What a reader sees of a cut: one sentence, three victims with their reconstructions, and how leakage is spread."""

import base64
import io
from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dpsnn.audit.result import QUANTILES, Json

FEWEST = 30
"""Victims from which on there is a verdict."""

NEAR = 0.5
"""Share of the error of the mean image that an attacker must take away for pictures to count as leaked."""

NOTHING = 0.02
"""Share of it that is nothing, once it is no more than chance."""


def png(picture: Float[Tensor, "c h w"]) -> str:
    """A picture in [0, 1] as a data URI."""
    pixels = (255 * picture.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()
    made = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    file = io.BytesIO()
    made.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def pictures(
    guesses: Tensor, truth: Tensor, scores: dict[str, Tensor], rows: Tensor, lower_leaks: bool
) -> Json:
    """The victims of whom least, usual and most was found.

    Args:
        guesses: Of the strongest attacker.
        truth: The same victims.
        scores: By measure, one value for each; the first decides.
        rows: Of the victims, in the data as it was given.
        lower_leaks: Whether lower values of the first leak more.
    """
    first = next(iter(scores.values()))
    order = first.argsort(descending=lower_leaks)
    at = {
        "best": int(order[0]),
        "median": int(order[(len(order) - 1) // 2]),
        "worst": int(order[-1]),
    }
    return {
        "truth": {which: png(truth[row]) for which, row in at.items()},
        "guess": {which: png(guesses[row]) for which, row in at.items()},
        "victims": {which: int(rows[row]) for which, row in at.items()},
        "scores": {
            which: {column: float(each[row]) for column, each in scores.items()}
            for which, row in at.items()
        },
    }


def distribution(column: str, values: Tensor, rows: Tensor, lower_leaks: bool) -> Json:
    """How a measure is spread over the victims, and how badly the worst one in a hundred fares."""
    levels = torch.tensor([float(each) for each in QUANTILES], dtype=torch.double)
    found = torch.quantile(values, levels).tolist()
    order = values.argsort(descending=not lower_leaks)
    worst = order[: max(1, round(len(values) / 100))]
    return {
        "column": column,
        "quantiles": dict(zip(QUANTILES, found)),
        "worst_one_percent": float(values[worst].mean()),
        "worst_victim": int(rows[order[0]]),
    }


def by_class(scores: dict[str, Tensor], labels: Tensor, classes: Sequence[str]) -> list[Json]:
    """The mean of MSE and SSIM for the victims of each class; nothing where there are no classes."""
    found = []
    for label, name in enumerate(classes):
        here = labels == label
        if count := int(here.sum()):
            means = {
                column: float(scores[column][here].mean()) if column in scores else None
                for column in ("MSE", "SSIM")
            }
            found.append({"class": name, "victims": count, **means})
    return found


# ---------------------------------------------------------------- the verdict


def gain(strongest: Json | None, floor: float | None) -> tuple[float, float] | None:
    """The share of the mean image's error that the strongest attacker takes away, and the most that it may be."""
    if strongest is None or not floor:
        return None
    low = strongest["low"] if strongest["low"] is not None else strongest["value"]
    return 1 - strongest["value"] / floor, 1 - low / floor


def verdict(
    name: str,
    strongest: dict[str, Json],
    measures: dict[str, Json],
    found: Json | None,
    attacks: Sequence[Json],
    victims: int,
) -> Json:
    """One sentence, and one word for it.

    Args:
        name: Of the cut.
        strongest: By column.
        measures: Column → floors.
        found: Who was re-identified.
        attacks: The rows.
        victims: How many there are.
    """
    lost = [each for each in attacks if each["status"] == "failed"]
    if "MSE" not in strongest:
        return _said("unknown", f"{name}: unknown, as no attack came to an end")
    mse, floors = strongest["MSE"], measures["MSE"]
    share = gain(mse, floors["floor"])
    by = " and ".join(mse["by"])
    facts = f"the strongest attack ({by}) leaves a squared error of {mse['value']:.2g}"
    if floors["floor"] is not None:
        facts += f", where their mean image leaves {floors['floor']:.2g}"
    if found:
        facts += (
            f", and picks the right one of {found['candidates']} pictures for"
            f" {100 * found['value']:.0f} of 100 victims"
        )
    if victims < FEWEST:
        few = f"{victims} victims are too few for a verdict ({FEWEST} or more are needed)"
        return _said("unknown", f"{name}: unknown, as {few}; {facts}")
    if share is None:
        return _said("unknown", f"{name}: unknown, as the pictures are all alike; {facts}")
    chance = 1 / found["candidates"] if found else 0.0
    told = found is not None and found["low"] > chance
    if share[0] >= NEAR or (found is not None and found["low"] > NEAR):
        return _said("leaks", f"{name} leaks: {facts}")
    if share[0] > NOTHING or told:
        class_floor = floors["class_floor"]
        only = class_floor is not None and mse["value"] >= class_floor and not told
        more = "; that is no more than the class alone tells" if only else ""
        return _said("partly", f"{name} leaks in part: {facts}{more}")
    if lost:
        names = ", ".join(each["label"] for each in lost)
        return _said("unknown", f"{name}: unknown, as {names} failed; of the other attacks {facts}")
    return _said("floor", f"{name}: nothing was found beyond what no information gives: {facts}")


def _said(level: str, sentence: str) -> Json:
    return {"level": level, "sentence": f"{sentence}."}


def recommended(cuts: Sequence[Json], measures: dict[str, Json]) -> Json | None:
    """The cut at which least leaks, of equals the first, as it leaves most to the server."""
    known = [cut for cut in cuts if cut["verdict"]["level"] != "unknown"]
    if not known:
        return None
    rank = {"floor": 0, "partly": 1, "leaks": 2}
    floor = measures["MSE"]["floor"]

    def order(cut: Json) -> tuple[int, float]:
        level = rank[cut["verdict"]["level"]]
        share = gain(cut["strongest"].get("MSE"), floor)
        return level, 0.0 if level == 0 or share is None else round(share[0], 2)

    best = min(known, key=order)
    level = best["verdict"]["level"]
    reason = {
        "floor": "it is the first cut at which nothing is found",
        "partly": "of all cuts it leaks least, yet it leaks in part: noise is needed as well",
        "leaks": "of all cuts it leaks least, yet pictures leak at every one: noise is needed",
    }[level]
    return {"cut": best["name"], "reason": reason}
