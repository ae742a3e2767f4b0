"""What a reader sees of a cut: one sentence, three victims with their reconstructions, and how leakage is spread."""

import base64
import io
import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dpsnn.audit.intervals import estimate, of_quantile
from dpsnn.audit.lacking import FAILED, TOO_LARGE, UNPAID, cause, learned, lost
from dpsnn.audit.people import People, worst_of_each
from dpsnn.audit.plan import LEAST as FEWEST
from dpsnn.audit.result import QUANTILES, Json
from dpsnn.audit.scoring import least_whole

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


Seen = tuple[Tensor, Mapping[str, Tensor]]
"""What an attacker guessed of the first victims, and by measure one value for each; the first measure decides."""


def pictures(strongest: Seen, worst: Seen, truth: Tensor, rows: Tensor, lower_leaks: bool) -> Json:
    """The victims of whom least and usually much was found, and the one of whom most was.

    Args:
        strongest: Of the attacker who is that on average.
        worst: Of the one who is worst for those who fare worst.
        truth: All victims.
        rows: Of the victims, in the data as it was given.
        lower_leaks: Whether lower values of the first measure leak more.
    """
    first, last = (next(iter(scores.values())) for _, scores in (strongest, worst))
    order = first.argsort(descending=lower_leaks)
    at = {
        "best": (strongest, int(order[0])),
        "median": (strongest, int(order[(len(order) - 1) // 2])),
        "worst": (worst, int(tail(last, lower_leaks)[1][0])),
    }
    return {
        "truth": {which: png(truth[row]) for which, (_, row) in at.items()},
        "guess": {which: png(guesses[row]) for which, ((guesses, _), row) in at.items()},
        "victims": {which: int(rows[row]) for which, (_, row) in at.items()},
        "scores": {
            which: {column: float(each[row]) for column, each in scores.items()}
            for which, ((_, scores), row) in at.items()
        },
    }


def spread(values: Tensor, lower_leaks: bool, people: People) -> Json:
    """How a measure is spread over victims, and what one person in a hundred fares worse than in their worst picture.

    Args:
        values: For each victim.
        lower_leaks: Whether lower values leak more.
        people: Whose pictures the victims are.
    """
    levels = torch.tensor([float(each) for each in QUANTILES], dtype=torch.double)
    return {
        "quantiles": dict(zip(QUANTILES, torch.quantile(values, levels).tolist())),
        "one_percent": of_quantile(worst_of_each(values, people, lower_leaks), 0.01, lower_leaks),
    }


def tail(values: Tensor, lower_leaks: bool) -> tuple[Tensor, Tensor]:
    """The values of the victims who fare worst, one in a hundred and one at least, and where they stand."""
    found = values.sort(descending=not lower_leaks)
    count = max(1, round(len(values) / 100))
    return found.values[:count], found.indices[:count]


def worst(values: Tensor, nothing: Tensor, rows: Tensor, lower_leaks: bool) -> Json:
    """How badly the worst one in a hundred fares, and who is worst off.

    Args:
        values: For each victim.
        nothing: The same of the mean image.
        rows: Of the victims, in the data as it was given.
        lower_leaks: Whether lower values leak more.
    """
    found, at = tail(values, lower_leaks)
    return {
        "worst_one_percent": float(found.mean()),
        "worst_one_percent_floor": float(nothing[at].mean()),
        "worst_victim": int(rows[at[0]]),
    }


def by_class(
    scores: Mapping[str, Sequence[Tensor]],
    nothing: Mapping[str, Tensor],
    labels: Tensor,
    classes: Sequence[str],
    people: People,
) -> list[Json]:
    """The means of MSE and SSIM over the victims of each class, with interval and floor; empty without classes.

    Args:
        scores: By measure for each seed one value for each victim.
        nothing: By measure what the mean image gives.
        labels: Of the victims.
        classes: Names.
        people: Whose pictures the victims are.
    """
    found = []
    for label, name in enumerate(classes):
        here = labels == label
        if count := int(here.sum()):
            whose = None if people is None else people[: len(labels)][here]
            means = {
                column: estimate([each[here] for each in scores[column]], whose)
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


def unpaired(strongest: Mapping[str, Json]) -> dict[str, Json]:
    """Shares as of `scoring.gained`, of means alone: their intervals hold how hard the victims are as well."""
    found: dict[str, Json] = {}
    for column in REACH:
        best, perfect = strongest.get(column), {"MSE": 0.0, "SSIM": 1.0}[column]
        if best is None or best["floor"] is None:
            continue
        if abs(whole := perfect - best["floor"]) >= least_whole(perfect):
            ends = (best["low"], best["value"], best["high"])
            shares = [None if end is None else (end - best["floor"]) / whole for end in ends]
            low, value, high = shares if whole > 0 else shares[::-1]
            found[column] = {"value": value, "low": low, "high": high, "floor": best["floor"]}
    return found


def verdict(
    name: str,
    strongest: Mapping[str, Json],
    attacks: Sequence[Json],
    victims: int,
    gains: Mapping[str, Json] | None = None,
    found: Json | None = None,
    matched: Json | None = None,
    copied: Json | None = None,
) -> Json:
    """One sentence, and one word for it.

    Args:
        name: Of the cut.
        strongest: By column, with floors.
        attacks: The rows.
        victims: How many there are.
        gains: Column → share that the strongest attack gets; by default what `unpaired` makes of the others.
        found: Who was re-identified.
        matched: Who was named by whoever holds the pictures. It is said unless pictures leak anyway, and is no part of
            the word: a client without noise gives away which of some pictures it was, whatever it does to them.
        copied: Who was rebuilt nearly exactly by any attack.
    """
    if "MSE" not in strongest:
        return _said("unknown", f"{name}: unknown, as no attack came to an end")
    gains = unpaired(strongest) if gains is None else gains
    mse, share, looks = strongest["MSE"], gains.get("MSE"), gains.get("SSIM")
    facts = _facts(mse, share, found)
    if share is None:
        return _said("unknown", f"{name}: unknown, as the pictures are all alike; {facts}")
    scored, who = min(victims, mse["victims"]), "victims"
    if mse.get("people", scored) < scored:
        scored, who = mse["people"], "people"
    if scored < FEWEST:
        few = f"{scored} {who} are too few for a verdict ({FEWEST} or more are needed)"
        return _said("unknown", f"{name}: unknown, as {few}; {facts}")
    told = found is not None and found["low"] > 1 / found["candidates"]
    alike = looks is not None and _sure(looks)
    if alike and looks is not None:
        share_of = f"{100 * looks['value']:.0f} of 100"
        facts += f"; what was rebuilt has {share_of} of the structural similarity there is"
    if (
        share["value"] >= NEAR
        or (looks is not None and looks["low"] is not None and looks["low"] >= NEAR)
        or (found is not None and found["low"] > NEAR)
    ):
        return _said("leaks", f"{name} leaks: {facts}")
    some = copied is not None and copied["low"] > copied["chance"]
    if some and copied is not None:
        facts += _copies(copied)
    if matched and matched["low"] > 1 / matched["candidates"]:
        facts += (
            f"; but who holds {matched['candidates']} pictures and the client tells which one was sent, for"
            f" {100 * matched['value']:.0f} of 100"
        )
    missed = ", ".join(f"{each['label']} {LOST[cause(each) or '']}" for each in lost(attacks))
    if told or alike or some or _sure(share):
        # Said only where no chance explains it: it makes little of what was found.
        least = mse["value"] if mse["low"] is None else mse["low"]
        only = mse["class_floor"] is not None and least >= mse["class_floor"]
        more = "; that is no more than the class alone tells"
        more = more if only and not (told or alike or some) else ""
        more += f"; there may be more, as {missed}" if missed else ""
        return _said("partly", f"{name} leaks in part: {facts}{more}")
    if missed:
        return _said("unknown", f"{name}: unknown, as {missed}; of the other attacks {facts}")
    if not learned(attacks):
        return _said(
            "unknown", f"{name}: unknown, as no attack that learns came to an end; {facts}"
        )
    if wide := [column for column, each in gains.items() if not _near_nothing(column, each)]:
        why = f"the interval of {' and '.join(wide)} reaches too far for so few {who} ({scored})"
        return _said("unknown", f"{name}: unknown, as {why}; {facts}")
    if further := [c for c, each in gains.items() if each.get("reach", 0.0) > REACH[c]]:
        why = f"attacks on a part of the victims may find more by {' and '.join(further)}"
        return _said("unknown", f"{name}: unknown, as {why}; {facts}")
    return _said("floor", f"{name}: nothing was found beyond what no information gives: {facts}")


def _copies(copied: Json) -> str:
    count = round(copied["value"] * copied["victims"])
    verb = "rebuilds" if len(copied["by"]) == 1 else "rebuild"
    return f"; {' and '.join(copied['by'])} {verb} {count} of {copied['victims']} victims nearly exactly"


def _facts(mse: Json, share: Json | None, found: Json | None) -> str:
    told = f"the strongest attack ({' and '.join(mse['by'])}) leaves a squared error of {mse['value']:.2g}"
    if share is not None:
        # Of the victims whose error it is: the share may be of others.
        floor = share["floor"] if mse.get("floor") is None else mse["floor"]
        told += f", where their mean image leaves {floor:.2g}"
    if found:
        by: list[str] = found.get("by") or mse["by"]
        who = "picks" if by == mse["by"] else f"{' and '.join(by)} pick{'s' * (len(by) == 1)}"
        told += f", and {who} the right one of {found['candidates']} pictures"
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
    else:
        all_known = len(known) == len(cuts)
        least = "of all cuts " if all_known else "of the cuts of which enough is known "
        where = " at every one" if all_known else " at every one of them"
        rest = [cut for cut in known if cut is not best and order(cut)[0] == order(best)[0]]
        sure = all(_less(best["gains"].get("MSE"), cut["gains"].get("MSE")) for cut in rest)
        least += "it leaks least, yet " if sure else "none is known to leak less, yet "
    reason = {
        "floor": "it is the first cut at which nothing is found",
        "partly": f"{least}it leaks in part: noise, or more of it, is needed as well",
        "leaks": f"{least}pictures leak{where}: noise, or more of it, is needed",
    }[level]
    return {"cut": best["name"], "reason": reason}


def _less(one: Json | None, other: Json | None) -> bool:
    """Whether one share is below another by more than chance, as far as both are known to be shares."""
    if one is None or other is None:
        return False
    high, low = (
        share["value"] if share.get(end) is None else share[end]
        for share, end in ((one, "high"), (other, "low"))
    )
    chance = math.hypot(high - one["value"], other["value"] - low)
    return bool(other["value"] - one["value"] > chance)
