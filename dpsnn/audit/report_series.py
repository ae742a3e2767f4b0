"""What the charts of an audit's page show, in plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dpsnn.audit.report_table import beside
from dpsnn.audit.report_words import PERCENT, Estimate, Scale, clean, rough
from dpsnn.audit.result import AuditResult
from dpsnn.numbers import Number

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Axis:
    """Of a measure of leakage."""

    name: str
    lower_leaks: bool
    floor: Number | None
    class_floor: Number | None
    perfect: Number | None
    scale: Scale

    @classmethod
    def of(cls, measure: Json, scale: Scale) -> "Axis":
        return cls(
            clean(measure["column"]),
            measure["lower_leaks"],
            measure["floor"],
            measure["class_floor"],
            measure["perfect"],
            scale,
        )

    def references(self) -> str:
        """What the lines across a chart are, in words."""
        told = []
        if self.floor is not None:
            told.append(
                f"dashed, the floor: what the mean picture gives ({self.scale.text(self.floor)})"
            )
        if self.class_floor is not None:
            of = self.scale.text(self.class_floor)
            told.append(f"dotted: the mean picture of the victim’s class ({of})")
        return "; ".join(told)


@dataclass(frozen=True)
class Point:
    """A cut, or a noise."""

    number: int
    name: str
    level: str
    leakage: Estimate
    accuracy: Estimate
    bound: Number | None = None
    """Least error of any attacker, of the squared error alone."""
    recommended: bool = False
    short: str = ""
    """Of a noise: how much, in a few letters."""
    floor: Number | None = None
    """What no information gives for its victims, where cuts differ in that."""

    @property
    def x(self) -> Number:
        """Its leakage, which is known of whatever is drawn."""
        assert self.leakage.value is not None
        return self.leakage.value

    @property
    def y(self) -> Number:
        """Its accuracy, which is known of whatever is drawn against it."""
        assert self.accuracy.value is not None
        return self.accuracy.value


@dataclass(frozen=True)
class Depth:
    """What the strongest attack gets at each cut."""

    key: str
    axis: Axis
    points: tuple[Point, ...]

    @property
    def title(self) -> str:
        return f"{self.axis.name} of the strongest attack, by depth of the cut"

    @property
    def caption(self) -> str:
        """How to read it."""
        told = [self.axis.references(), "bars are 95 % intervals"]
        if any(point.bound is not None for point in self.points):
            told.append("an upright stroke is the least that anybody’s error can be")
        if any(point.floor is not None for point in self.points):
            told.append("dashed in each line, what the mean picture gives for the victims there")
        text = "; ".join(filter(None, told))
        return f"{text[0].upper()}{text[1:]}."

    @property
    def words(self) -> str:
        """The numbers, for who cannot see them."""
        write = self.axis.scale
        return "; ".join(
            f"{p.name}: {write.both(p.leakage)}"
            + (f", floor {write.text(p.floor)}" if p.floor is not None else "")
            for p in self.points
        )


@dataclass(frozen=True)
class Tradeoff:
    """Accuracy against leakage: points of their own, or of a line where noise was varied."""

    axis: Axis
    points: tuple[Point, ...]
    line: tuple[Point, ...]
    floor: Number | None
    """Accuracy of who always says the most frequent class, in per cent."""
    cut: str = ""
    """Of which the line is, where that is known."""

    title = "Accuracy against leakage"

    @property
    def caption(self) -> str:
        """How to read it."""
        told = [self.axis.references(), "numbers are the cuts as in the table"]
        if self.line:
            of = f"the cut {self.cut}" if self.cut else "one cut"
            told.append(f"the line is {of} under growing noise, how much stands below it")
        if any(point.recommended for point in self.points):
            lost = any(point.level == "unknown" for point in self.points)
            far = ", as far as that is known" if lost else ""
            told.append(f"the ring is the cut at which least leaks{far}")
        if self.floor is not None:
            told.append(
                f"the most frequent class alone has an accuracy of {PERCENT.text(self.floor)}"
            )
        known = {point.accuracy.value for point in self.points}
        if len(known) == 1 and len(self.points) > 1:
            told.append("without noise the accuracy is the same wherever the network is cut")
        text = "; ".join(filter(None, told))
        return f"{text[0].upper()}{text[1:]}."

    @property
    def words(self) -> str:
        """The numbers, for who cannot see them."""
        return "; ".join(
            f"{p.name}: accuracy {PERCENT.both(p.accuracy)}, {self.axis.name} {self.axis.scale.both(p.leakage)}"
            for p in (*self.points, *self.line)
        )


@dataclass(frozen=True)
class Box:
    """How a measure is distributed over the victims of one cut."""

    number: int
    name: str
    level: str
    recommended: bool
    quantiles: tuple[Number, ...]
    """1, 25, 50, 75 and 99 %."""
    worst: Number
    """Mean of the worst one per cent."""


@dataclass(frozen=True)
class Spread:
    """Victims are not alike: who is worst off at each cut."""

    axis: Axis
    boxes: tuple[Box, ...]

    @property
    def title(self) -> str:
        return f"{self.axis.name} from victim to victim"

    @property
    def caption(self) -> str:
        """How to read it."""
        told = "Dot, the middle victim; thick, half of them; thin, 98 of 100; triangle, the mean of the worst 1 %"
        floor = self.axis.floor
        return told + (
            f"; dashed, the floor ({self.axis.scale.text(floor)})." if floor is not None else "."
        )

    @property
    def words(self) -> str:
        """The numbers, for who cannot see them."""
        write = self.axis.scale.text
        return "; ".join(
            f"{box.name}: half of the victims from {write(box.quantiles[1])} to {write(box.quantiles[3])}, worst 1 %"
            f" {write(box.worst)}"
            for box in self.boxes
        )


@dataclass(frozen=True)
class Series:
    """All charts of a page."""

    depth: tuple[Depth, ...]
    tradeoff: Tradeoff | None
    spread: Spread | None


def series(
    cuts: Sequence[Json], result: AuditResult, measures: Sequence[tuple[Json, Scale]]
) -> Series:
    """What can be drawn.

    Args:
        cuts: By depth.
        result: The audit that they are of.
        measures: The measures to draw, the most telling first, and how their numbers are written.
    """
    axes = [_shared(measure, scale, cuts) for measure, scale in measures]
    found = {axis.name: _points(cuts, result, axis.name, axis.floor is None) for axis in axes}
    depth = [Depth(f"depth-{at}", axis, found[axis.name]) for at, axis in enumerate(axes, 1)]
    return Series(
        tuple(chart for chart in depth if chart.points),
        _tradeoff(cuts, result, axes[0], found[axes[0].name]) if axes else None,
        _spread(cuts, result, {axis.name: axis.scale for axis in axes}),
    )


def _shared(measure: Json, scale: Scale, cuts: Sequence[Json]) -> Axis:
    """With lines across the chart only where they are those of every cut."""
    found = {key: beside(measure, cuts, key) for key in ("floor", "class_floor")}
    alike = all(len({*map(scale.text, each)}) < 2 for each in found.values())
    floor, classes = (each[0] if alike and each else None for each in found.values())
    return replace(Axis.of(measure, scale), floor=floor, class_floor=classes)


def _points(
    cuts: Sequence[Json], result: AuditResult, column: str, floors: bool
) -> tuple[Point, ...]:
    # Around a single cut a ring would say nothing.
    best = result.recommended["cut"] if result.recommended and len(cuts) > 1 else None
    found = []
    for number, cut in enumerate(cuts, 1):
        leakage = Estimate.of(cut["strongest"].get(column))
        bounds = cut["bounds"] if column == "MSE" else None
        if leakage.value is not None:
            found.append(
                Point(
                    number,
                    clean(cut["name"]),
                    cut["verdict"]["level"],
                    leakage,
                    Estimate.of(cut["accuracy"]),
                    bounds["mse"] if bounds else None,
                    cut["name"] == best,
                    floor=cut["strongest"][column].get("floor") if floors else None,
                )
            )
    return tuple(found)


def _tradeoff(
    cuts: Sequence[Json], result: AuditResult, axis: Axis, points: Sequence[Point]
) -> Tradeoff | None:
    """None where no accuracy is known."""
    line = [
        Point(
            at,
            f"{clean(point['kind'])} noise {rough(point['noise'])}",
            "",
            _estimated(point, axis.name),
            _estimated(point, "accuracy"),
            short=rough(point["noise"]),
        )
        for at, point in enumerate(sorted(result.curve or [], key=lambda p: float(p["noise"])), 1)
        if axis.name in ("SSIM", "MSE")
        and point[axis.name] is not None
        and point["accuracy"] is not None
    ]
    known = [point for point in points if point.accuracy.value is not None]
    if not known and not line:
        return None
    floors = {cut["accuracy"]["floor"] for cut in cuts if cut["accuracy"]} - {None}
    floor = min(floors) if len(floors) == 1 else None
    return Tradeoff(axis, tuple(known), tuple(line), floor, clean(result.curve_cut or ""))


def _estimated(point: Json, name: str) -> Estimate:
    """Of a noise; files of earlier versions have no intervals there."""
    found = (point.get("intervals") or {}).get(name)
    return Estimate.of(found) if found else Estimate(point[name])


def _spread(
    cuts: Sequence[Json], result: AuditResult, scales: Mapping[str, Scale]
) -> Spread | None:
    """Of the first measure that a distribution is known of; None where there is none."""
    columns = [cut["distribution"]["column"] for cut in cuts if cut["distribution"]]
    measures = [each for each in result.measures if each["column"] in columns[:1]]
    if not measures:
        return None
    (measure,) = measures
    best = result.recommended["cut"] if result.recommended else None
    boxes = tuple(
        Box(
            number,
            clean(cut["name"]),
            cut["verdict"]["level"],
            cut["name"] == best,
            tuple(found["quantiles"][q] for q in ("0.01", "0.25", "0.5", "0.75", "0.99")),
            found["worst_one_percent"],
        )
        for number, cut in enumerate(cuts, 1)
        if (found := cut["distribution"]) and found["column"] == measure["column"]
    )
    return Spread(_shared(measure, scales.get(measure["column"], Scale()), cuts), boxes)
