"""The tables of an audit's page, in plain values: headings, cells with their intervals, and what to sort them by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dpsnn.audit.report_words import (
    NOTHING,
    PERCENT,
    Estimate,
    Scale,
    clean,
    count,
    lasted,
    rough,
    size,
)
from dpsnn.audit.result import AuditResult
from dpsnn.numbers import Number

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Heading:
    """Of a column."""

    text: str
    below: str = ""
    """In small letters: which direction leaks."""
    number: bool = True


@dataclass(frozen=True)
class Cell:
    """What stands in a row below a heading."""

    text: str
    below: str = ""
    """In small letters: the interval."""
    sort: Number | None = None
    """By what to sort; None stands last whichever way."""
    level: str = ""
    """Of a verdict."""


@dataclass(frozen=True)
class Row:
    """A line of a table."""

    cells: tuple[Cell, ...]
    marked: str = ""
    """What distinguishes it: of cuts the word for the best one."""
    note: str = ""
    """Across the whole table, in the place of numbers."""


@dataclass(frozen=True)
class Table:
    """Headings, rows and what stands below them."""

    caption: str
    headings: tuple[Heading, ...]
    rows: tuple[Row, ...]
    foot: tuple[Row, ...] = ()


@dataclass(frozen=True)
class _Column:
    heading: Heading
    cell: Callable[[Json], Cell]
    foot: tuple[str, ...] = ("", "", "")
    """Floor, class floor and perfect."""


FOOT = (
    ("floor", "Floor: the mean picture"),
    ("class_floor", "Mean picture of the class"),
    ("perfect", "Perfect"),
)


def direction(measure: Json) -> str:
    return "lower leaks more" if measure["lower_leaks"] else "higher leaks more"


def scale_of(measure: Json, cuts: Sequence[Json]) -> Scale:
    """By which all numbers of a measure are written."""
    column = measure["column"]
    values: list[Number | None] = [measure["floor"], measure["class_floor"], measure["perfect"]]
    for cut in cuts:
        values += Estimate.of(cut["strongest"].get(column)).known()
    values += [each for key, _ in FOOT for each in beside(measure, cuts, key)]
    return Scale.of(values)


def beside(measure: Json, cuts: Sequence[Json], key: str) -> list[Number]:
    """A floor, or what is perfect, at each cut that has it: over the very victims of the strongest attack there.

    Cuts may have other victims, and so may attacks. Files of earlier versions have that of one cut alone.
    """
    found = [cut["strongest"].get(measure["column"], {}).get(key, measure[key]) for cut in cuts]
    return [each for each in found if each is not None]


def _estimated(found: Estimate, scale: Scale) -> Cell:
    return Cell(scale.text(found.value), scale.interval(found), found.value)


def _measure(measure: Json, cuts: Sequence[Json]) -> _Column:
    column, scale = measure["column"], scale_of(measure, cuts)

    def cell(cut: Json) -> Cell:
        return _estimated(Estimate.of(cut["strongest"].get(column)), scale)

    def foot(key: str) -> str:
        found = beside(measure, cuts, key)
        ends = [scale.text(end(found)) for end in (min, max)] if found else []
        return " to ".join(dict.fromkeys(ends))

    return _Column(
        Heading(clean(column), direction(measure)), cell, tuple(foot(key) for key, _ in FOOT)
    )


def _share(name: str, below: str, key: str) -> _Column:
    def cell(cut: Json) -> Cell:
        value = None if cut[key] is None else 100 * cut[key]
        return Cell(_part(value), "", value)

    return _Column(Heading(name, below), cell)


def _part(value: Number | None) -> str:
    """A percentage; what is not quite all is not rounded to all, as if nothing were left to the server."""
    return (
        f"over {PERCENT.text(99.9)}"
        if value is not None and 99.95 <= value < 100
        else PERCENT.text(value)
    )


def _accuracy(cut: Json) -> Cell:
    return _estimated(Estimate.of(cut["accuracy"]), PERCENT)


def _reidentified(cut: Json) -> Cell:
    found = cut["reidentified"]
    cell = _estimated(Estimate.of(found, 100), PERCENT)
    few = found and found.get("victims", found["candidates"]) < found["candidates"]
    return replace(cell, below=f"{cell.below}; {found['victims']} looked for") if few else cell


def _naming(cut: Json) -> Cell:
    share = cut["guarantees"]["naming"]
    if share is None or share >= 1:
        return Cell("none", "", 100.0)
    return Cell(PERCENT.text(100 * share), "", 100 * share)


def _columns(cuts: Sequence[Json], result: AuditResult, first: Sequence[str]) -> list[_Column]:
    """Those in which any cut has something to say; measures that are not among the `first` stand last."""
    found: list[_Column] = []
    if any(cut["accuracy"] for cut in cuts):
        floors = {cut["accuracy"]["floor"] for cut in cuts if cut["accuracy"]} - {None}
        foot = (PERCENT.text(min(floors)) if len(floors) == 1 else "", "", "")
        found.append(_Column(Heading("Accuracy", "of the task"), _accuracy, foot))
    there = {column for cut in cuts for column in cut["strongest"]}
    measures = {each["column"]: each for each in result.measures if each["column"] in there}
    found += [_measure(measures[name], cuts) for name in first]
    among = {cut["reidentified"]["candidates"] for cut in cuts if cut["reidentified"]}
    if among:
        told = f"among {count(among.pop())}" if len(among) == 1 else "of the victims"
        found.append(_Column(Heading("Re-identified", told), _reidentified))
    candidates = {cut["guarantees"]["candidates"] for cut in cuts}
    told = f"at most, among {count(candidates.pop())}" if len(candidates) == 1 else "at most"
    found.append(_Column(Heading("Named", told), _naming))
    found.append(
        _Column(
            Heading("Sent", "per picture"),
            lambda cut: Cell(size(cut["bytes"]), "", cut["bytes"]),
        )
    )
    for name, key in (("Weights", "weights_share"), ("Work", "flops_share")):
        if any(cut[key] is not None for cut in cuts):
            found.append(_share(name, "in the client", key))
    return found + [_measure(each, cuts) for name, each in measures.items() if name not in first]


def pick(level: str, cuts: Sequence[Json]) -> str:
    """What the best cut is called: nobody recommends one at which pictures leak, where they leak at every one.

    Args:
        level: Of its verdict.
        cuts: All; a single one with a verdict is not the least of anything.
    """
    several = sum(cut["verdict"]["level"] != "unknown" for cut in cuts) > 1
    return "recommended" if level != "leaks" else "least leaks" if several else ""


def cuts_table(
    cuts: Sequence[Json], result: AuditResult, first: Sequence[str], levels: Mapping[str, str]
) -> Table:
    """One line for each cut, with floors and ceilings at its foot.

    Args:
        cuts: By depth.
        result: The audit that they are of.
        first: The measures to begin with.
        levels: Words for verdicts, the worst first.
    """
    columns = _columns(cuts, result, first)
    severity = [*levels]
    best = result.recommended["cut"] if result.recommended else None
    rows = [
        Row(
            (
                Cell(clean(cut["name"]), "", at + 1),
                Cell(levels[level], "", severity.index(level), level),
                *(column.cell(cut) for column in columns),
            ),
            marked=pick(level, cuts) if cut["name"] == best else "",
        )
        for at, cut in enumerate(cuts)
        for level in [cut["verdict"]["level"]]
    ]
    foot = [
        Row((Cell(text), Cell(""), *(Cell(column.foot[at]) for column in columns)))
        for at, (_, text) in enumerate(FOOT)
        if any(column.foot[at] for column in columns)
    ]
    fixed = (Heading("Cut", "by depth", False), Heading("Verdict", "", False))
    return Table(
        "Every cut, with what the strongest attack gets and its 95 % interval",
        (*fixed, *(column.heading for column in columns)),
        tuple(rows),
        tuple(foot),
    )


def attack_table(cut: Json, result: AuditResult) -> Table:
    """One line for each attack on a cut; one that failed says why."""
    measures = [
        each
        for each in result.measures
        if any(each["column"] in attack["measures"] for attack in cut["attacks"])
    ]
    scales = [
        Scale.of(
            [measure["floor"], measure["perfect"]]
            + [
                end
                for attack in cut["attacks"]
                for end in Estimate.of(attack["measures"].get(measure["column"])).known()
            ]
        )
        for measure in measures
    ]
    headings = [Heading("Attack", "", False)]
    headings += [Heading(clean(each["column"]), direction(each)) for each in measures]
    headings += [
        Heading("Victims"),
        Heading("Own error", "floor"),
        Heading("Doubling", "takes off"),
        Heading("Time"),
    ]
    rows = []
    for attack in cut["attacks"]:
        label = Cell(clean(attack["label"]))
        if attack["status"] != "ok":
            note = f"{attack['status'].capitalize()}: {clean(attack['reason'])}"
            rows.append(Row((label,), note=note))
            continue
        scored = (
            _estimated(Estimate.of(attack["measures"].get(measure["column"])), scale)
            for measure, scale in zip(measures, scales)
        )
        rows.append(Row((label, *scored, *_learnt(attack))))
    return Table(f"Every attack on {clean(cut['name'])}", tuple(headings), tuple(rows))


def _learnt(attack: Json) -> tuple[Cell, ...]:
    """How far an attack learnt, and what it took."""
    gain, diverged = attack["doubling"], attack.get("diverged")
    took = attack["seconds"]
    return (
        Cell(count(attack["victims"])),
        Cell(rough(attack["own_error"]), rough(attack["own_floor"]).replace(NOTHING, "")),
        Cell("diverged" if diverged else PERCENT.text(None if gain is None else 100 * gain)),
        Cell(NOTHING if took is None else lasted(took)),
    )


QUANTILES = {
    "0.01": "1 %", "0.05": "5 %", "0.25": "25 %", "0.5": "half", "0.75": "75 %", "0.95": "95 %",
    "0.99": "99 %",
}  # fmt: skip


def spread_table(cut: Json, result: AuditResult) -> Table | None:
    """How a measure is distributed over victims; None where that is not known."""
    found = cut["distribution"]
    if found is None:
        return None
    column = found["column"]
    leaks = {each["column"]: f", {direction(each)}" for each in result.measures}
    scale = Scale.of([*found["quantiles"].values(), found["worst_one_percent"]])
    cells = [Cell(scale.text(found["quantiles"][q])) for q in QUANTILES]
    told = f"worst victim: no. {found['worst_victim']}"
    if "worst_by" in found:
        told += f", by {clean(found['worst_by'])}, the worst of the attacks for these"
    if (floor := found.get("worst_one_percent_floor")) is not None:
        told += f"; mean image: {scale.text(floor)}"
    if "fare_worse" in found:
        told += f"; at most {PERCENT.text(100 * found['fare_worse'])} of people fare worse"
    worst = Cell(scale.text(found["worst_one_percent"]), told)
    cells[0] = _one_in_a_hundred(found, scale, cells[0])
    cells[-1] = _one_in_a_hundred(found, scale, cells[-1])
    return Table(
        f"{clean(column)} over victims{leaks.get(column, '')}: so many victims lie below",
        (
            Heading("Measure", "", False),
            *(Heading(text) for text in QUANTILES.values()),
            Heading("Worst 1 %", "mean"),
        ),
        (Row((Cell(clean(column)), *cells, worst)),),
    )


def _one_in_a_hundred(found: Json, scale: Scale, cell: Cell) -> Cell:
    """The same with its interval, if it is that of the victims who fare worst."""
    tail = Estimate.of(found.get("one_percent"))
    if tail.value is None or scale.text(tail.value) != cell.text:
        return cell
    return replace(cell, below=scale.interval(tail))


def _of_class(found: Json, name: str, scale: Scale) -> str:
    """Interval and floor."""
    low, high, floor = (found.get(end, {}).get(name) for end in ("low", "high", "floor"))
    told = [scale.interval(Estimate(found[name], low, high))]
    told += [f"mean image: {scale.text(floor)}"] * (floor is not None)
    return "; ".join(each for each in told if each)


def class_table(cut: Json, result: AuditResult) -> Table | None:
    """What is got of each class; None where there are no classes."""
    classes = cut["by_class"]
    names = [name for name in ("MSE", "SSIM") if any(each[name] is not None for each in classes)]
    if not names:
        return None
    scales = [Scale.of([each[name] for each in classes]) for name in names]
    lines = {each["column"]: direction(each) for each in result.measures}
    return Table(
        f"By class, at {clean(cut['name'])}",
        (
            Heading("Class", "", False),
            Heading("Victims"),
            *(Heading(name, lines.get(name, "")) for name in names),
        ),
        tuple(
            Row(
                (
                    Cell(clean(each["class"])),
                    Cell(count(each["victims"])),
                    *(
                        Cell(scale.text(each[name]), _of_class(each, name, scale))
                        for name, scale in zip(names, scales)
                    ),
                )
            )
            for each in classes
        ),
    )
