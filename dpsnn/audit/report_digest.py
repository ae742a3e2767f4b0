"""What the page of an audit shows, of what its JSON holds: every text ready to be read, every number in its place.

The second of three stages: JSON → digest → page. Nothing here knows HTML, and whatever is shown can be tested here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpsnn.audit.lacking import FAILED, cause, lost
from dpsnn.audit.report_pictures import Gallery, galleries
from dpsnn.audit.report_series import Series, series
from dpsnn.audit.report_table import (
    Table,
    attack_table,
    class_table,
    cuts_table,
    pick,
    scale_of,
    spread_table,
)
from dpsnn.audit.report_words import (
    PERCENT,
    Estimate,
    Scale,
    clean,
    count,
    lasted,
    listed,
    moment,
    rough,
    sentence,
    shape,
)
from dpsnn.audit.result import PAIRS, AuditResult
from dpsnn.numbers import Number

LEVELS = {
    "leaks": "Leaks",
    "partly": "Leaks in part",
    "floor": "At the floor",
    "unknown": "Not known",
}
"""Level of a verdict → the word for it, the worst first."""

TALLY = {
    "leaks": ("leaks", "leak"),
    "partly": ("leaks in part", "leak in part"),
    "floor": ("is at the floor", "are at the floor"),
    "unknown": ("is not known", "are not known"),
}

FAVOURITE = ("SSIM", "MSE")
"""Measures that charts and pictures show, the first first, where an audit has them."""

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Fact:
    """A word and what there is to say of it."""

    name: str
    text: str


@dataclass(frozen=True)
class Flag:
    """A reason to doubt, and the cuts that raised it."""

    raised: str
    why: str
    do: str
    cuts: str


@dataclass(frozen=True)
class CutDigest:
    """A cut."""

    number: int
    """From 1, in the order of depth; by which charts call it."""
    name: str
    level: str
    word: str
    sentence: str
    recommended: bool
    facts: tuple[Fact, ...]
    notes: tuple[str, ...]
    guarantees: tuple[Fact, ...]
    promised: str
    clipped: str
    attacks: Table
    failed: int
    spread: Table | None
    classes: Table | None


@dataclass(frozen=True)
class Digest:
    """The page in plain values."""

    model: str
    about: str
    headline: str
    recommended: str
    pick: str
    """What the recommended cut is called."""
    reason: str
    doubt: str
    notes: tuple[str, ...]
    """What is to be known of the model."""
    cuts: tuple[CutDigest, ...]
    table: Table
    series: Series
    galleries: tuple[Gallery, ...]
    flags: tuple[Flag, ...]
    refused: tuple[Fact, ...]
    """Modules behind which it cannot be cut, and why."""
    assumptions: tuple[str, ...]
    setup: tuple[Fact, ...]
    made: tuple[Fact, ...]
    reproduce: str
    over: str
    """Over what the intervals are."""


def digest(result: AuditResult) -> Digest:
    """What there is to show of an audit."""
    cuts = sorted(result.cuts, key=lambda cut: int(cut["order"]))
    best = result.recommended
    flags = _flags(cuts)
    scales = {each["column"]: scale_of(each, cuts) for each in favourites(result)}
    return Digest(
        model=clean(result.model["name"]),
        about=_about(result),
        headline=_headline(cuts),
        recommended=clean(best["cut"]) if best else "",
        pick=_pick(best, cuts),
        reason=f"{clean(best['reason']).rstrip('.')}." if best else "",
        doubt=_doubt(cuts, flags),
        notes=tuple(map(sentence, result.model.get("notes", []))),
        cuts=tuple(_cut(cut, at + 1, result) for at, cut in enumerate(cuts)),
        table=cuts_table(cuts, result, [*scales], LEVELS),
        series=series(
            cuts, result, [(each, scales[each["column"]]) for each in favourites(result)]
        ),
        galleries=galleries(cuts, result, scales, LEVELS),
        flags=flags,
        refused=tuple(
            Fact(clean(each["name"]), sentence(each["reason"]))
            for each in result.model.get("no_cuts", [])
        ),
        assumptions=tuple(_assumptions(result)),
        setup=tuple(_setup(result)),
        made=tuple(_made(result)),
        reproduce=clean(result.reproduce),
        over=_over(cuts),
    )


def favourites(result: AuditResult) -> Sequence[Json]:
    """The measures that are drawn: of FAVOURITE those that there are, else the first one."""
    there = {
        c
        for cut in result.cuts
        for c, found in cut["strongest"].items()
        if found["value"] is not None
    }
    measures = [each for each in result.measures if each["column"] in there]
    chosen = [each for name in FAVOURITE for each in measures if each["column"] == name]
    return chosen or measures[:1]


# ---------------------------------------------------------------- at the top


def _pick(best: Json | None, cuts: Sequence[Json]) -> str:
    if not best:
        return ""
    levels = {cut["name"]: cut["verdict"]["level"] for cut in cuts}
    word = pick(levels[best["cut"]], cuts)
    return {"recommended": "Recommended cut:", "least leaks": "Least leaks at"}.get(word, "At")


def _about(result: AuditResult) -> str:
    data, cuts = result.data, count(len(result.cuts), "cut")
    own, victims = count(data["own"], "picture"), count(data["victims"], "victim")
    return f"{cuts}; data: {clean(data['name'])}; an attacker with {own} of its own, {victims}."


def _headline(cuts: Sequence[Json]) -> str:
    """`3 of 5 cuts leak, 1 leaks in part, 1 is at the floor.`"""
    levels = [cut["verdict"]["level"] for cut in cuts]
    found = [(levels.count(level), words) for level, words in TALLY.items() if level in levels]
    if not found:
        return "No cut was audited."
    if len(levels) == 1:
        return f"The cut {found[0][1][0]}."
    if len(found) == 1:
        return f"{'Both' if len(levels) == 2 else f'All {len(levels)}'} cuts {found[0][1][1]}."
    (first, words), *rest = found
    told = [f"{first} of {len(levels)} cuts {words[first > 1]}"]
    told += [f"{number} {words[number > 1]}" for number, words in rest]
    return f"{', '.join(told)}."


def _doubt(cuts: Sequence[Json], flags: Sequence[Flag]) -> str:
    """What to know before believing it."""
    gone = [cause(row) for cut in cuts for row in lost(cut["attacks"])]
    failed = gone.count(FAILED)
    told = [count(len(flags), "reason to doubt", "reasons to doubt")] if flags else []
    told += [count(failed, "attack failed", "attacks failed")] if failed else []
    left = len(gone) - failed
    told += [count(left, "attack left out", "attacks left out")] if left else []
    return ", ".join(told)


def _over(cuts: Sequence[Json]) -> str:
    over = {found.get("over") for cut in cuts for found in cut["strongest"].values()} - {None}
    return listed(sorted(over))


def _flags(cuts: Sequence[Json]) -> tuple[Flag, ...]:
    """Each once, with the cuts that raised it."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for cut in cuts:
        for flag in cut["flags"]:
            words = (sentence(flag["raised"]), sentence(flag["why"]), sentence(flag["do"]))
            names = found.setdefault(words, [])
            names += [cut["name"]] if cut["name"] not in names else []
    every = len(cuts) > 1
    return tuple(
        Flag(
            *words,
            (
                "all cuts"
                if every and len(names) == len(cuts)
                else f"cut{'s' * (len(names) > 1)} {listed(names)}"
            ),
        )
        for words, names in found.items()
    )


# ---------------------------------------------------------------- of a cut


def _cut(cut: Json, number: int, result: AuditResult) -> CutDigest:
    level, best = cut["verdict"]["level"], result.recommended
    clip = cut["guarantees"]["with_clip"]
    return CutDigest(
        number=number,
        name=clean(cut["name"]),
        level=level,
        word=LEVELS[level],
        sentence=_verdict(cut),
        recommended=best is not None and best["cut"] == cut["name"],
        facts=tuple(_facts(cut)),
        notes=tuple(map(sentence, cut["notes"])),
        guarantees=tuple(_guarantees(cut)),
        promised=sentence(cut["guarantees"]["words"]),
        clipped=sentence(clip["words"]) if clip else "",
        attacks=attack_table(cut, result),
        failed=sum(attack["status"] != "ok" for attack in cut["attacks"]),
        spread=spread_table(cut, result),
        classes=class_table(cut, result),
    )


def _verdict(cut: Json) -> str:
    """The sentence, less the name of the cut, which stands beside it."""
    told, name = clean(cut["verdict"]["sentence"]), clean(cut["name"])
    for start in (f"{name}: ", f"{name} leaks"):
        if told.startswith(start):
            return sentence(told.removeprefix(name).lstrip(": "))
    return sentence(told)


def _facts(cut: Json) -> list[Fact]:
    found = [
        Fact("Layer", clean(cut["kind"])),
        Fact("Values on the wire", f"{count(cut['values'])} ({shape(cut['shape'])})"),
    ]
    if cut["dcorr"] and cut["dcorr"]["value"] is not None:
        floor = cut["dcorr"]["floor"]
        beside = f" (independent: {Scale(2).text(floor)})" if floor is not None else ""
        at = f", in blocks of {cut['dcorr']['n']}" if "n" in cut["dcorr"] else ""
        told = Scale(2).both(Estimate.of(cut["dcorr"]))
        found.append(Fact("Distance correlation", f"{told}{beside}{at}"))
    for column, gain in cut.get("gains", {}).items():
        told = PERCENT.both(Estimate.of(gain, 100))
        if "reach" in gain:
            told += f"; attacks on fewer victims may reach {PERCENT.text(100 * gain['reach'])}"
        found.append(Fact(f"Of the way to the truth, {clean(column)}", told))
    if copied := cut.get("copied"):
        told = f"{PERCENT.both(Estimate.of(copied, 100))} of {count(copied['victims'], 'victim')}"
        told += f"; others by chance: {rough(100 * copied['chance'])}\N{NO-BREAK SPACE}%"
        found.append(Fact("Rebuilt nearly exactly", told))
    return found


def _guarantees(cut: Json) -> list[Fact]:
    """What is promised, in numbers, and whether the attacks kept to it."""
    given, bounds = cut["guarantees"], cut["bounds"]
    found = [Fact("Values", clean(given["set"]))]
    if given["epsilon"] is not None:
        delta = f", δ = {rough(given['delta'])}" if given["delta"] else ""
        found.append(Fact("Local differential privacy", f"ε = {rough(given['epsilon'])}{delta}"))
    if given["naming"] is not None and given["naming"] < 1:
        found.append(Fact("Naming bound", _named(given["naming"], cut)))
    if given["dfil"]:
        low, high = given.get("dfil_low"), given.get("dfil_high")
        ends = "" if low is None or high is None else f" ({rough(low)} to {rough(high)})"
        told = f"{rough(given['dfil'])}{ends}, of unbiased attackers alone, at a few own pictures"
        found.append(Fact("1/dFIL", told))
    if bounds and bounds["mse"] is not None:
        found.append(Fact("Least possible MSE", _against(bounds)))
    if known := cut.get("matched"):
        told = f"{PERCENT.both(Estimate.of(known, 100))} of {count(known['candidates'])}"
        found.append(Fact("Named by who holds the pictures", told))
    return found


def _named(share: Number, cut: Json) -> str:
    candidates = cut["guarantees"]["candidates"]
    if share >= 1:
        return f"No limit: anybody may name all of {count(candidates)}."
    return f"Nobody names more than {PERCENT.text(100 * share)} among {count(candidates)}."


def _against(bounds: Json) -> str:
    """The bound beside what was measured, on the same victims."""
    measured = bounds["mse"] / bounds["share"] if bounds["share"] else None
    ends = [bounds.get(end) for end in ("low", "high")]
    beside = "" if None in ends else f" ({' to '.join(map(rough, ends))})"
    told = f"{rough(bounds['mse'])}{beside} over {count(bounds['n'], 'picture')}"
    if measured is None:
        return told
    if bounds["mse"] <= measured:
        return f"{told}; ≤ {rough(measured)} measured"
    # Of an attack that is better beyond doubt there is a flag, and no bound.
    return f"{told}; {rough(measured)} measured, less by the chance of these transmissions"


# ---------------------------------------------------------------- what it rests on


def _assumptions(result: AuditResult) -> list[str]:
    data, settings, model = result.data, result.settings, result.model
    learns = clean(data["surrogate"]) if data["surrogate"] else f"the same {clean(data['name'])}"
    queries = settings["queries"]
    pairs = model["name"] == PAIRS
    hears = "once" if queries == 1 else count(queries, "time")
    found = [
        "What is measured is a lower bound: of the attacks that were tried, the strongest. A better one may get more.",
        (
            "The attacker knows neither the model nor its defences: it has pictures with what was sent of each, and"
            " cannot ask for more. Who has the model may get more."
            if pairs
            else f"The attacker knows the model and its defences, and hears each picture {hears}."
        ),
        f"The attacker owns {count(data['own'], 'picture')} of {learns} to learn from, and"
        f" {count(data['own_validation'])} more to tune on; none of them is a victim.",
    ]
    if not pairs:
        found.append(f"Defences on the wire: {listed(settings['defences']) or 'none'}.")
    if data["groups"]:
        found.append(f"Pictures that share a {clean(data['groups'])} stay on one side.")
    else:
        found.append(
            "Pictures were not told apart by person: one person's may stand on both sides."
        )
    if people := data.get("people"):
        found.append(
            f"Victims are {count(people, 'person', 'people')}, some with several pictures: intervals are over people,"
            " and candidates are one picture of each."
        )
    if data["near_duplicates"]:
        twins = count(data["near_duplicates"], "victim has", "victims have")
        found.append(f"{twins} a near duplicate among the attacker's pictures.")
    overlap = data["overlap_with_training"]
    if overlap is None:
        found.append("Whether the model was trained on the victims is not known.")
    else:
        found.append(f"Victims that the model was trained on: {count(overlap)}.")
    if model["attacked_shape"] != model["image_shape"]:
        small, whole = shape(model["attacked_shape"]), shape(model["image_shape"])
        found.append(f"Attacks rebuild pictures of {small}, where the model takes {whole}.")
    return found + [sentence(note) for note in data["notes"]]


def _setup(result: AuditResult) -> list[Fact]:
    model, data, settings = result.model, result.data, result.settings
    return [
        Fact("Model", clean(model["source"])),
        Fact("Weights", count(model["parameters"])),
        Fact("Classes", count(model["classes"])),
        Fact("Input", shape(model["image_shape"])),
        Fact("Data", f"{clean(data['name'])}, {count(data['images'], 'picture')}"),
        Fact("Victims scored", count(settings["victims_scored"])),
        Fact("Budget", clean(settings["budget"])),
        Fact(f"Seed{'s' * (len(settings['seeds']) != 1)}", listed(settings["seeds"])),
    ]


def _made(result: AuditResult) -> list[Fact]:
    made = result.made
    return [
        Fact("Made", moment(made["date"])),
        Fact("In", lasted(made["seconds"])),
        Fact("On", clean(made["machine"])),
        Fact("dpsnn", clean(made["dpsnn"])),
        Fact("PyTorch", clean(made["torch"])),
        Fact("Python", clean(made["python"])),
        Fact("Schema", clean(result.schema)),
    ]
