"""Whether the numbers of an audit agree: what no audit can find is refused, as it was written by hand or by mistake.

Measurements scatter, so that one beside a bound is refused only where no chance explains it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from dpsnn.errors import UsageError
from dpsnn.numbers import Number

DOUBTLESS = 5
"""Standard deviations that chance does not explain."""

ROUNDING = 1e-6

ALIKE = 0.01
"""Of the largest answer, by how much those of one model may differ on two machines."""

RANGES = {"MSE": (0.0, math.inf), "SSIM": (-1.0, 1.0)}
"""In which the measures lie that a verdict goes by."""

FEW = 30
"""Victims below which chance explains much: of two, one interval in two has no width."""

RANKS = {"floor": 0, "partly": 1, "leaks": 2}
"""Of levels: how much leaks."""

MUCH = 0.5
"""Share of the way to the truth with which nobody can say that nothing was found."""

Json = Mapping[str, Any]


def agree(content: Json) -> None:
    """Look at what one part says of another.

    Args:
        content: An audit in which all is there, each of its kind.

    Raises:
        UsageError: If any two contradict each other, with the place.
    """
    for said in _contradictions(content):
        raise UsageError(said)


def beyond(share: Number, promised: Number, count: int) -> bool:
    """Whether more of `count` were named than any chance explains, where a share at most is promised."""
    chance = math.sqrt(max(0.0, promised * (1 - promised)) / max(1, count))
    return share > promised + DOUBTLESS * chance + 1 / max(1, count)


def other_code(one: Json, other: Json) -> bool:
    """Whether two models of the same weights answer otherwise, by more than rounding: their code is not the same.

    Args:
        one: What an audit says of its model.
        other: What another one says; of files that do not say what is answered nothing is known.
    """
    first, second = (each.get("answers") for each in (one, other))
    if not first or not second or one.get("digest") != other.get("digest"):
        return False
    if len(first) != len(second):
        return True
    size = max(abs(each or 0.0) for each in (*first, *second))
    pairs = zip(first, second)
    return any(
        (a is None) != (b is None) or abs((a or 0) - (b or 0)) > ALIKE * size for a, b in pairs
    )


def _contradictions(content: Json) -> Iterator[str]:
    columns = [each["column"] for each in content["measures"]]
    names = [each["name"] for each in content["cuts"]]
    if len({*columns}) < len(columns):
        yield "two measures have the same column"
    if len({*names}) < len(names):
        yield "two cuts have the same name"
    yield from _of_inputs(content)
    yield from _of_choice(content, names)
    scales = dict(zip(columns, content["measures"]))
    for at, cut in enumerate(content["cuts"]):
        where, scored = f"cuts[{at}]", content["settings"]["victims_scored"]
        yield from (f"{where}{said}" for said in _of_cut(cut, scales, scored))
        shown = (cut["pictures"] or {}).get("victims", {}).values()
        rows = [*shown, *([cut["distribution"]["worst_victim"]] if cut["distribution"] else ())]
        yield from _at_most(max(rows, default=0), "the row of a victim", content, where, 1)


def _of_inputs(content: Json) -> Iterator[str]:
    data, settings, model = content["data"], content["settings"], content["model"]
    for name in ("victims", "near_duplicates", "overlap_with_training"):
        yield from _at_most(data[name] or 0, f"data.{name}", content)
    if settings["victims_scored"] > data["victims"]:
        yield f"settings.victims_scored is {settings['victims_scored']} of {data['victims']} victims"
    if settings["queries"] < 1:
        yield "settings.queries is 0; each picture is sent once or more"
    if not settings["seeds"] or len({*settings["seeds"]}) < len(settings["seeds"]):
        yield f"settings.seeds are {settings['seeds']}; they must differ, and be one or more"
    whole, attacked = model["image_shape"], model["attacked_shape"]
    if len(whole) != len(attacked) or any(few > most for few, most in zip(attacked, whole)):
        yield f"model.attacked_shape is {attacked}, of pictures of shape {whole}"


def _at_most(
    count: int, said: str, content: Json, where: str = "", first: int = 0
) -> Iterator[str]:
    images = content["data"]["images"]
    if count + first > images:
        yield f"{where}{': ' if where else ''}{said} is {count}, and there are {images} images"


def _of_choice(content: Json, names: Sequence[str]) -> Iterator[str]:
    """Of the cut that is recommended, and of the curve."""
    if chosen := content["recommended"]:
        if chosen["cut"] not in names:
            yield f"recommended.cut is {chosen['cut']!r}, which is no cut"
        else:
            levels = [each["verdict"]["level"] for each in content["cuts"]]
            own = levels[names.index(chosen["cut"])]
            if own == "unknown":
                yield f"recommended.cut is {chosen['cut']!r}, of which nothing is known"
            elif RANKS[own] > (least := min(RANKS[each] for each in levels if each in RANKS)):
                less = names[[RANKS.get(each) for each in levels].index(least)]
                yield f"recommended.cut is {chosen['cut']!r}, and less leaks at {less!r}"
    curve, of = content["curve"] or (), content.get("curve_cut")
    if of is not None and of not in names:
        yield f"curve_cut is {of!r}, which is no cut"
    rows = sorted(curve, key=lambda each: float(each["noise"]))
    for less, more in pairwise(rows):
        if more["noise"] == less["noise"]:
            yield f"curve has two rows for the noise {more['noise']:g}"
        promised = [each["naming"] for each in (less, more)]
        if None not in promised and promised[1] > promised[0] + ROUNDING:
            yield (
                f"curve has naming {promised[1]:g} for the noise {more['noise']:g}, and {promised[0]:g} for less of it"
            )


# ---------------------------------------------------------------- of one cut


def _of_cut(cut: Json, scales: Mapping[str, Json], scored: int) -> Iterator[str]:
    columns = {*scales}
    if math.prod(cut["shape"]) != cut["values"] or cut["bytes"] != 4 * cut["values"]:
        yield f" has the shape {cut['shape']}, {cut['values']} values and {cut['bytes']} bytes"
    measured = {*cut["strongest"], *(c for each in cut["attacks"] for c in each["measures"])}
    if unknown := measured - columns:
        yield f" has the measure {min(unknown)!r}, which measures lacks"
    labels = [each["label"] for each in cut["attacks"]]
    if len({*labels}) < len(labels):
        yield ".attacks has two of the same label"
    for at, attack in enumerate(cut["attacks"]):
        yield from (f".attacks[{at}]{said}" for said in _of_attack(attack, scored))
    known = {*labels, *(each["attack"] for each in cut["attacks"])}
    for column, found in cut["strongest"].items():
        where = f".strongest.{column}"
        yield from (f"{where}{said}" for said in _of_measure(column, found))
        if unknown := {*found["by"]} - known:
            yield f"{where}.by is {min(unknown)!r}, which is no attack there"
        if found["tried"] > len(labels) or found["victims"] > scored:
            yield (
                f"{where} is of {found['tried']} attacks and {found['victims']} victims; there are {len(labels)}, and"
                f" {scored} victims were attacked"
            )
        if found.get("people", 0) > found["victims"]:
            yield f"{where}.people is {found['people']}, of {found['victims']} victims"
        if unknown := {*found.get("open", ())} - known:
            yield f"{where}.open is {min(unknown)!r}, which is no attack there"
        if column in scales:
            yield from (f"{where}{said}" for said in _of_strongest(cut, column, scales[column]))
    for column, gain in cut.get("gains", {}).items():
        if gain["value"] is not None and gain["value"] > 1 + _rounding(gain, scales.get(column)):
            yield f".gains.{column}.value is {gain['value']:g}; nobody gets more than all, which is 1"
    yield from _of_people(cut, columns, scored)
    yield from _of_promises(cut, scales)
    if cut["verdict"]["level"] == "floor":
        for name, share in _found(cut, scales).items():
            if share is not None and share > MUCH:
                yield f".verdict.level is 'floor', and {name} is {share:g}: that is not nothing"


def _found(cut: Json, scales: Mapping[str, Json]) -> dict[str, float | None]:
    """Shares of what there was to find, by where they stand."""
    found = {
        f"gains.{column}.value": gain["value"]
        for column, gain in cut.get("gains", {}).items()
        if column in RANGES
    }
    best = cut["strongest"].get("MSE")
    nothing = _floor(best, scales)
    if best and best["value"] is not None and nothing:
        found.setdefault("gains.MSE.value", 1 - best["value"] / nothing)
    named = cut["reidentified"]
    return found | {"reidentified.low": named["low"] if named else None}


def _floor(best: Json | None, scales: Mapping[str, Json]) -> float | None:
    """Of the squared error, over the victims of the strongest; files of before have that of one cut's alone."""
    found = (best or {}).get("floor", scales.get("MSE", {}).get("floor"))
    return None if found is None else float(found)


def _rounding(gain: Json, scale: Json | None) -> float:
    """Of a share: where pictures are nearly alike there is little to find, and rounding is much of it."""
    perfect = scale["perfect"] if scale else None
    whole = 1.0 if perfect is None else abs(perfect - gain["floor"])
    return ROUNDING / whole if whole else math.inf


def _of_strongest(cut: Json, column: str, scale: Json) -> Iterator[str]:
    """Beside the rows of the attacks on the same victims."""
    found, sign = cut["strongest"][column], 1 if scale["lower_leaks"] else -1
    value, best, low, high = (found[name] for name in ("value", "best_of_each", "low", "high"))
    if value is None:
        return
    slack = ROUNDING * max(1.0, abs(value))
    if best is not None and sign * (best - value) > slack:
        yield f".best_of_each is {best:g}, which leaks less than the value, {value:g}"
    for row in cut["attacks"]:
        own = row["measures"].get(column, {}).get("value")
        if row["status"] != "ok" or own is None or row["victims"] != found["victims"]:
            continue
        if found["by"] == [row["label"]] and abs(own - value) > slack:
            yield f".value is {value:g}, and that of {row['label']}, who it is by, is {own:g}"
        if None not in (low, high) and found["victims"] >= FEW:
            if sign * (value - own) > DOUBTLESS * (high - low) / 4 + slack:
                yield f".value is {value:g}, and {row['label']} has {own:g}, which leaks more"


def _of_attack(attack: Json, scored: int) -> Iterator[str]:
    for column, found in attack["measures"].items():
        yield from (f".measures.{column}{said}" for said in _of_measure(column, found))
    came = attack["status"] == "ok"
    if not came and not attack["reason"]:
        yield " is no success and gives no reason"
    if came and (attack["reason"] or attack.get("cause")):
        yield f" is a success and gives a reason why it is none: {attack['reason'] or attack['cause']}"
    if attack["victims"] > scored:
        yield f".victims is {attack['victims']}, and {scored} victims were attacked"


def _of_measure(column: str, found: Json) -> Iterator[str]:
    low, high = RANGES.get(column, (-math.inf, math.inf))
    value = found["value"]
    if value is not None and not low - ROUNDING <= value <= high + ROUNDING:
        yield f".value is {value:g}; {column} lies in [{low:g}, {high:g}]"


def _of_people(cut: Json, columns: set[str], scored: int) -> Iterator[str]:
    """Of victims: how leakage is spread, classes, and who is found again."""
    if spread := cut["distribution"]:
        if spread["column"] not in columns:
            yield f".distribution.column is {spread['column']!r}, which measures lacks"
        levels = sorted(spread["quantiles"].items(), key=lambda each: float(each[0]))
        if any(high < low - ROUNDING for (_, low), (_, high) in pairwise(levels)):
            yield ".distribution.quantiles fall"
    if (classes := sum(each["victims"] for each in cut["by_class"])) > scored:
        yield f".by_class has {classes} victims, and {scored} were attacked"
    if (found := cut["reidentified"]) and found["candidates"] > scored:
        yield f".reidentified.candidates is {found['candidates']}, and {scored} were attacked"
    if found and found.get("victims", 0) > found["candidates"]:
        yield f".reidentified.victims is {found['victims']}, among {found['candidates']} candidates"
    if (copied := cut.get("copied")) and copied["victims"] > scored:
        yield f".copied.victims is {copied['victims']}, and {scored} were attacked"


def _of_promises(cut: Json, scales: Mapping[str, Json]) -> Iterator[str]:
    """Of what is promised beside what was found."""
    promised, found = cut["guarantees"], cut["reidentified"]
    # Among more it is no easier.
    if found and promised["naming"] is not None and promised["candidates"] <= found["candidates"]:
        looked = found.get("victims", found["candidates"])
        if beyond(found["value"], promised["naming"], looked):
            yield f".guarantees.naming is {promised['naming']:g}, and {found['value']:g} of {looked} were named"
    limits, best = cut["bounds"], cut["strongest"].get("MSE")
    count = best["victims"] if best else 0
    if not limits or not best or limits["mse"] is None or not limits["n"] == count >= FEW:
        return
    low, value, high = (best[end] for end in ("low", "value", "high"))
    if None in (low, value, high):
        return
    # An interval is four standard deviations wide. That of the bound stands nowhere: who knows the victims and is taken
    # in by the noise may be off by twice what the mean image is, or not at all.
    scatter = (_floor(best, scales) or value) / math.sqrt(count)
    chance = math.hypot((high - low) / 4, scatter)
    if limits["mse"] > value + DOUBTLESS * chance + ROUNDING:
        yield f".bounds.mse is {limits['mse']:g}, and the strongest attack has {value:g}, which is below it"
