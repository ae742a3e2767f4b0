"""What a reader sees of a cut: one sentence, three victims with their reconstructions, and how leakage is spread."""

import base64
import io
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dpsnn.audit.lacking import FAILED, TOO_LARGE, UNPAID, cause, learned, lost
from dpsnn.audit.plan import LEAST as FEWEST
from dpsnn.audit.result import QUANTILES, Json
from dpsnn.audit.scoring import ALIKE, estimate, of_quantile, unseen

NEAR = 0.5
"""Share of the error of the mean image that an attacker must take away for pictures to count as leaked."""

NOTHING = 0.02
"""Share of it that is nothing."""

REACH = {"MSE": 0.05, "SSIM": 0.1}
"""How far the interval of a share may reach where nothing was found, of the measures that a verdict goes by."""

LOST = {FAILED: "failed", TOO_LARGE: "is too large", UNPAID: "costs more than the budget"}


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


def distribution(
    column: str, values: Tensor, nothing: Tensor, rows: Tensor, lower_leaks: bool
) -> Json:
    """How a measure is spread over the victims, and how badly the worst one in a hundred fares.

    Args:
        column: Of the measure.
        values: For each victim.
        nothing: The same of the mean image.
        rows: Of the victims, in the data as it was given.
        lower_leaks: Whether lower values leak more.
    """
    levels = torch.tensor([float(each) for each in QUANTILES], dtype=torch.double)
    found = torch.quantile(values, levels).tolist()
    order = values.argsort(descending=not lower_leaks)
    worst = order[: max(1, round(len(values) / 100))]
    return {
        "column": column,
        "quantiles": dict(zip(QUANTILES, found)),
        "worst_one_percent": float(values[worst].mean()),
        "worst_one_percent_floor": float(nothing[worst].mean()),
        "one_percent": of_quantile(values, 0.01, lower_leaks),
        "fare_worse": unseen(len(values)),
        "worst_victim": int(rows[order[0]]),
    }


def by_class(
    scores: Mapping[str, Sequence[Tensor]],
    nothing: Mapping[str, Tensor],
    labels: Tensor,
    classes: Sequence[str],
) -> list[Json]:
    """The means of MSE and SSIM over the victims of each class, with interval and floor; empty without classes.

    Args:
        scores: By measure for each seed one value for each victim.
        nothing: By measure what the mean image gives.
        labels: Of the victims.
        classes: Names.
    """
    found = []
    for label, name in enumerate(classes):
        here = labels == label
        if count := int(here.sum()):
            means = {
                column: estimate([each[here] for each in scores[column]])
                for column in ("MSE", "SSIM")
                if column in scores
            }
            value, low, high = (
                {column: each[end] for column, each in means.items()}
                for end in ("value", "low", "high")
            )
            floor = {column: float(nothing[column][here].mean()) for column in means}
            known = {"MSE": None, "SSIM": None, **value}
            ends = {"low": low, "high": high, "floor": floor}
            found.append({"class": name, "victims": count, **known, **ends})
    return found


# ---------------------------------------------------------------- the verdict


def unpaired(strongest: dict[str, Json], measures: dict[str, Json]) -> dict[str, Json]:
    """Shares as of `scoring.gained`, of means alone: their intervals hold how hard the victims are as well."""
    found: dict[str, Json] = {}
    for column in REACH:
        best, scale = strongest.get(column), measures.get(column)
        perfect = {"MSE": 0.0, "SSIM": 1.0}[column]
        if best is None or scale is None or scale["floor"] is None:
            continue
        if abs(whole := perfect - scale["floor"]) >= ALIKE:
            ends = (best["low"], best["value"], best["high"])
            shares = [None if end is None else (end - scale["floor"]) / whole for end in ends]
            low, value, high = shares if whole > 0 else shares[::-1]
            found[column] = {"value": value, "low": low, "high": high, "floor": scale["floor"]}
    return found


def verdict(
    name: str,
    strongest: dict[str, Json],
    measures: dict[str, Json],
    found: Json | None,
    attacks: Sequence[Json],
    victims: int,
    gains: dict[str, Json] | None = None,
    matched: Json | None = None,
) -> Json:
    """One sentence, and one word for it.

    Args:
        name: Of the cut.
        strongest: By column.
        measures: Column → floors.
        found: Who was re-identified.
        attacks: The rows.
        victims: How many there are.
        gains: Column → share that the strongest attack gets; by default what `unpaired` makes of the others.
        matched: Who was named by whoever holds the pictures. It is said where nothing else was found, and is no part of
            the word: a client without noise gives away which of some pictures it was, whatever it does to them.
    """
    if "MSE" not in strongest:
        return _said("unknown", f"{name}: unknown, as no attack came to an end")
    gains = unpaired(strongest, measures) if gains is None else gains
    mse, share, looks = strongest["MSE"], gains.get("MSE"), gains.get("SSIM")
    facts = _facts(mse, share, found)
    scored = min(victims, mse.get("victims", victims))
    if scored < FEWEST:
        few = f"{scored} victims are too few for a verdict ({FEWEST} or more are needed)"
        return _said("unknown", f"{name}: unknown, as {few}; {facts}")
    if share is None:
        return _said("unknown", f"{name}: unknown, as the pictures are all alike; {facts}")
    chance = 1 / found["candidates"] if found else 0.0
    told = found is not None and found["low"] > chance
    if share["value"] >= NEAR or (found is not None and found["low"] > NEAR):
        return _said("leaks", f"{name} leaks: {facts}")
    missed = ", ".join(f"{each['label']} {LOST[cause(each) or '']}" for each in lost(attacks))
    alike = looks is not None and _sure(looks)
    if alike and looks is not None:
        facts += (
            f", and gets {100 * looks['value']:.0f} of 100 of the structural similarity there is"
        )
    if told or alike or _sure(share):
        class_floor = measures["MSE"]["class_floor"]
        only = class_floor is not None and mse["value"] >= class_floor and not (told or alike)
        more = "; that is no more than the class alone tells" if only else ""
        more += f"; there may be more, as {missed}" if missed else ""
        return _said("partly", f"{name} leaks in part: {facts}{more}")
    if missed:
        return _said("unknown", f"{name}: unknown, as {missed}; of the other attacks {facts}")
    if not learned(attacks):
        return _said(
            "unknown", f"{name}: unknown, as no attack that learns came to an end; {facts}"
        )
    if wide := [column for column, each in gains.items() if not _near_nothing(column, each)]:
        why = f"the interval of {' and '.join(wide)} reaches too far for so few victims ({scored})"
        return _said("unknown", f"{name}: unknown, as {why}; {facts}")
    if matched and matched["low"] > 1 / matched["candidates"]:
        facts += (
            f"; but who holds {matched['candidates']} pictures and the client tells which one was sent, for"
            f" {100 * matched['value']:.0f} of 100"
        )
    return _said("floor", f"{name}: nothing was found beyond what no information gives: {facts}")


def _facts(mse: Json, share: Json | None, found: Json | None) -> str:
    told = f"the strongest attack ({' and '.join(mse['by'])}) leaves a squared error of {mse['value']:.2g}"
    if share is not None:
        told += f", where their mean image leaves {share['floor']:.2g}"
    if found:
        by: list[str] = found.get("by") or mse["by"]
        who = "" if by == mse["by"] else f"{' and '.join(by)} "
        told += f", and {who}picks the right one of {found['candidates']} pictures"
        told += f" for {100 * found['value']:.0f} of 100 victims"
        if (looked := found.get("victims", found["candidates"])) < found["candidates"]:
            told += f", of the {looked} it was asked for"
    return told


def _sure(share: Json) -> bool:
    """Whether it is more than nothing, and that is no chance."""
    return bool(share["value"] > NOTHING and (share["low"] is None or share["low"] > 0))


def _near_nothing(column: str, share: Json) -> bool:
    return bool(share["high"] is not None and share["high"] <= REACH[column])


def _said(level: str, sentence: str) -> Json:
    return {"level": level, "sentence": f"{sentence}."}


def recommended(cuts: Sequence[Json]) -> Json | None:
    """The cut at which least leaks, of equals the first, as it leaves most to the server."""
    known = [cut for cut in cuts if cut["verdict"]["level"] != "unknown"]
    if not known:
        return None
    rank = {"floor": 0, "partly": 1, "leaks": 2}

    def order(cut: Json) -> tuple[int, float]:
        level, share = rank[cut["verdict"]["level"]], cut["gains"].get("MSE")
        return level, 0.0 if level == 0 or share is None else round(share["value"], 2)

    best = min(known, key=order)
    level = best["verdict"]["level"]
    where = ""
    if len(cuts) == 1:
        least = ""
    elif len(known) == 1:
        least = "it is the only cut of which enough is known, and "
    elif len(known) < len(cuts):
        least = "of the cuts of which enough is known it leaks least, yet "
        where = " at every one of them"
    else:
        least, where = "of all cuts it leaks least, yet ", " at every one"
    reason = {
        "floor": "it is the first cut at which nothing is found",
        "partly": f"{least}it leaks in part: noise, or more of it, is needed as well",
        "leaks": f"{least}pictures leak{where}: noise, or more of it, is needed",
    }[level]
    return {"cut": best["name"], "reason": reason}
