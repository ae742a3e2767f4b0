"""The charts of an audit's page: what each cut leaks, and what it is worth."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpsnn.audit.report_series import Axis, Box, Depth, Point, Spread, Tradeoff
from dpsnn.audit.report_svg import INKS, svg
from dpsnn.numbers import Number

WIDTH = 5.2
"""Inches, 374 units of the picture: about what a phone has, so that letters are as large there as in the text."""

LONGEST = 20
"""Letters of a name that are drawn."""

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dpsnn",
    "text.parse_math": False,
    "font.size": 10.5,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INKS["line"],
    "axes.labelcolor": INKS["muted"],
    "axes.labelsize": 10.5,
    "axes.unicode_minus": True,
    "text.color": INKS["ink"],
    "xtick.color": INKS["line"],
    "ytick.color": INKS["line"],
    "xtick.labelcolor": INKS["muted"],
    "ytick.labelcolor": INKS["muted"],
}

LOOKS: dict[str, dict[str, Any]] = {
    "leaks": {"marker": "o"},
    "partly": {"marker": "o", "fillstyle": "left"},
    "floor": {"marker": "o"},
    "unknown": {"marker": "x"},
}
"""How a verdict is marked, apart from its colour."""

FAR = 0.5
"""A floor further from the points than this share of their distance is told in words, not drawn."""


@contextmanager
def _drawing() -> Iterator[None]:
    """In the style of the page; letters that matplotlib's own font lacks are the browser's business."""
    with warnings.catch_warnings(), matplotlib.rc_context(STYLE):
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def depth_chart(chart: Depth) -> str:
    """A line for each cut, the one nearest to the input on top, with the floor across all."""
    with _drawing():
        figure, axis = _lines(chart.points)
        for at, point in enumerate(chart.points):
            _mark(axis, point, at)
            if point.bound is not None:
                axis.plot(
                    point.bound,
                    at,
                    marker="|",
                    color=INKS["muted"],
                    markersize=13,
                    markeredgewidth=2,
                    linestyle="",
                )
            if point.floor is not None:
                ends, dashes = [at - 0.38, at + 0.38], (0, (3, 2))
                axis.plot([point.floor] * 2, ends, color=INKS["ink"], lw=1.1, linestyle=dashes)
        _leakage(axis, chart.axis, axis.set_xlim, [end for p in chart.points for end in _ends(p)])
        return svg(figure, chart.key, chart.title, f"{chart.words}. {chart.caption}")


def spread_chart(chart: Spread) -> str:
    """A line for each cut: the middle victim, half of them, nearly all, and the worst."""
    with _drawing():
        figure, axis = _lines(chart.boxes)
        for at, box in enumerate(chart.boxes):
            colour, (least, low, middle, high, most) = INKS[box.level], box.quantiles
            axis.plot([least, most], [at, at], color=colour, linewidth=1, alpha=0.6)
            axis.plot(
                [low, high], [at, at], color=colour, linewidth=6, alpha=0.45, solid_capstyle="butt"
            )
            axis.plot(middle, at, marker="o", color=colour, markersize=5, linestyle="", zorder=4)
            side = "<" if chart.axis.lower_leaks else ">"
            axis.plot(
                box.worst, at, marker=side, color=colour, markersize=6, linestyle="", zorder=4
            )
        ends = [end for box in chart.boxes for end in (*box.quantiles, box.worst)]
        _leakage(axis, replace(chart.axis, class_floor=None), axis.set_xlim, ends)
        return svg(figure, "spread", chart.title, f"{chart.words}. {chart.caption}")


def tradeoff_chart(chart: Tradeoff) -> str:
    """Leakage to the right, accuracy upwards: the place to be is above and left."""
    with _drawing():
        figure = Figure(figsize=(WIDTH, 3.7))
        axis = figure.add_axes((0.125, 0.165, 0.845, 0.8))
        if chart.line:
            x, y = [p.x for p in chart.line], [p.y for p in chart.line]
            axis.plot(x, y, color=INKS["accent"], linewidth=1.2, marker=".", markersize=7)
            for point in chart.line:
                axis.annotate(
                    point.short,
                    (point.x, point.y),
                    xytext=(4, -4),
                    textcoords="offset points",
                    va="top",
                    color=INKS["accent"],
                )
        for point in chart.points:
            _place(axis, point)
        every = (*chart.points, *chart.line)
        _leakage(axis, chart.axis, axis.set_xlim, [end for p in every for end in _ends(p)])
        if chart.axis.lower_leaks:
            axis.invert_xaxis()
        _accuracy(axis, chart, [end for p in every for end in p.accuracy.known()])
        _number(axis, chart.points)
        axis.grid(color=INKS["line"], linewidth=0.5)
        axis.set_axisbelow(True)
        return svg(figure, "tradeoff", chart.title, f"{chart.words}. {chart.caption}")


def _lines(cuts: Sequence[Point | Box]) -> tuple[Figure, Axes]:
    """A figure with a line for each cut, the one nearest to the input on top."""
    rows = len(cuts)
    height = 0.36 * rows + 0.68
    figure = Figure(figsize=(WIDTH, height))
    longest = max(len(_short(cut.name)) for cut in cuts)
    left = min(0.36, (0.55 + 0.075 * longest) / WIDTH)
    axis = figure.add_axes((left, 0.6 / height, 0.98 - left, 0.36 * rows / height))
    axis.set_yticks(range(rows), [f"{cut.number} · {_short(cut.name)}" for cut in cuts])
    for label, cut in zip(axis.get_yticklabels(), cuts):
        label.set_color(INKS["ink"])
        label.set_fontweight("bold" if cut.recommended else "normal")
    axis.set_ylim(rows - 0.5, -0.5)
    axis.tick_params(axis="y", length=0, pad=8)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="y", color=INKS["line"], linewidth=0.5)
    axis.set_axisbelow(True)
    return figure, axis


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"…{name[1 - LONGEST:]}"


def _ends(point: Point) -> list[Number]:
    return point.leakage.known() + [end for end in (point.bound, point.floor) if end is not None]


def _mark(axis: Axes, point: Point, at: Number) -> None:
    """A cut on its line."""
    colour = INKS[point.level]
    low, high = point.leakage.low, point.leakage.high
    if low is not None and high is not None:
        axis.plot(
            [low, high], [at, at], color=colour, linewidth=2.2, alpha=0.45, solid_capstyle="butt"
        )
    axis.plot(point.x, at, **_look(point), markersize=7, linestyle="", zorder=4)


def _look(point: Point) -> dict[str, Any]:
    colour = INKS[point.level]
    fill = INKS["paper"] if point.level == "floor" else colour
    return {
        **LOOKS[point.level],
        "color": colour,
        "markeredgewidth": 1.4,
        "markerfacecolor": fill,
        "markerfacecoloralt": INKS["paper"],
    }


def _place(axis: Axes, point: Point) -> None:
    """A cut by its leakage and accuracy, with both intervals."""
    colour = INKS[point.level]
    left, right = point.leakage.low, point.leakage.high
    if left is not None and right is not None:
        axis.plot([left, right], [point.y, point.y], color=colour, linewidth=1, alpha=0.45)
    below, above = point.accuracy.low, point.accuracy.high
    if below is not None and above is not None:
        axis.plot([point.x, point.x], [below, above], color=colour, linewidth=1, alpha=0.45)
    axis.plot(point.x, point.y, **_look(point), markersize=7, linestyle="", zorder=4)
    if point.recommended:
        ring = {"marker": "o", "fillstyle": "none", "color": INKS["accent"], "linestyle": ""}
        axis.plot(point.x, point.y, markersize=15, markeredgewidth=1.8, **ring)  # type: ignore[arg-type]


def _leakage(
    axis: Axes, measure: Axis, limit: Callable[[Number, Number], object], drawn: Sequence[Number]
) -> None:
    """From the floor to the truth, and whatever lies beyond; the lines of no information across."""
    ends = [
        *drawn,
        *(end for end in (measure.floor, measure.class_floor, measure.perfect) if end is not None),
    ]
    room = 0.04 * ((max(ends) - min(ends)) or abs(ends[0]) or 1)
    limit(min(ends) - room, max(ends) + room)
    for value, style in ((measure.floor, (0, (5, 3))), (measure.class_floor, (0, (1, 2)))):
        if value is not None:
            axis.axvline(value, color=INKS["ink"], linewidth=1.1, linestyle=style, zorder=1)
    told = "lower leaks more" if measure.lower_leaks else "higher leaks more"
    axis.set_xlabel(f"{measure.name} ({told})")


def _accuracy(axis: Axes, chart: Tradeoff, known: Sequence[Number]) -> None:
    """Around the points; down to the floor where that is not far."""
    low, high = min(known), max(known)
    span = max(high - low, 2.0)
    if chart.floor is not None and low - chart.floor <= FAR * span:
        axis.axhline(chart.floor, color=INKS["ink"], linewidth=1.1, linestyle=(0, (5, 3)), zorder=1)
        low = min(low, chart.floor)
    # Room for the numbers above.
    axis.set_ylim(max(low - 0.08 * span, -1), high + 0.28 * span)
    axis.set_yticks([tick for tick in axis.get_yticks() if 0 <= tick <= 100])
    axis.set_ylim(max(low - 0.08 * span, -1), high + 0.28 * span)
    axis.set_ylabel("accuracy %")


def _number(axis: Axes, points: Sequence[Point]) -> None:
    """The number of each cut above it, stepwise higher where others stand already."""
    taken: list[tuple[Number, Number]] = []
    for point in sorted(points, key=lambda p: (-p.y, p.x)):
        x, y = axis.transData.transform((point.x, point.y))
        lift = 9.0
        while any(abs(x - left) < 16 and abs(y + lift - lower) < 14 for left, lower in taken):
            lift += 14
        taken.append((x, y + lift))
        axis.annotate(
            str(point.number),
            (point.x, point.y),
            xytext=(7, lift - 4),
            textcoords="offset pixels",
            va="bottom",
            fontweight="bold" if point.recommended else "normal",
        )
