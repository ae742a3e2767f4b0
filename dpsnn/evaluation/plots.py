"""Plots of numbers, in one style: labelled, colour-blind safe, and told apart by marker and line in black and white."""

from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import binomtest

from dpsnn.evaluation.apart import name_lines, settle, thin_ticks
from dpsnn.evaluation.measures import ACCURACY, WIRE, Measure, leakage
from dpsnn.evaluation.report import plt
from dpsnn.evaluation.summary import interval

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe & Ito's palette, safe for the colour-blind."""

MARKERS = ("o", "s", "^", "D", "v", "P")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))

LONGEST = 32
"""Characters that fit beside an axis."""

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.markersize": 5,
    "lines.linewidth": 1.4,
    "axes.ymargin": 0.13,  # room for the names of floors and ceilings
    "hatch.linewidth": 0.8,
    "figure.constrained_layout.use": True,
}

Label = str | tuple[str, str]
"""Of a series: its name, or what it is of and how that was varied."""

Series = Mapping[str, pd.DataFrame] | Mapping[tuple[str, str], pd.DataFrame]
"""Label → rows of a table."""


def look(number: int) -> dict[str, Any]:
    """Colour and marker of a series; no two of the first 36 share both."""
    count = len(COLOURS)
    return {"color": COLOURS[number % count], "marker": MARKERS[(number + number // count) % count]}


def looks(labels: Sequence[Label], first: int = 0) -> list[dict[str, Any]]:
    """Colour, marker and line of each series.

    Pairs have the colour of what they are of, and the line of how that was varied, with hollow markers after the first.

    Args:
        labels: Of the series.
        first: How many looks other panels of the figure already use.
    """
    pairs = [(label, None) if isinstance(label, str) else label for label in labels]
    kinds, ways = (list(dict.fromkeys(each)) for each in zip(*pairs))
    found = []
    for kind, way in pairs:
        number, turn = first + kinds.index(kind), ways.index(way)
        line = LINES[(number if way is None else turn) % len(LINES)]
        hollow = {"markerfacecolor": "white"} if turn else {}
        found.append({**look(number), "linestyle": line, **hollow})
    return found


SEEDS, IMAGES = "seeds", "images"
"""What an interval is over: trainings anew, or the images that are scored by one."""


def over(groups: Iterable[Sized]) -> str:
    """What the intervals of a table or figure are over: seeds if each group of repetitions has several, else images.

    Both say different things, so none shows one beside the other.
    """
    counts = [len(rows) for rows in groups if len(rows)]
    return SEEDS if counts and min(counts) > 1 else IMAGES


def estimate(rows: pd.DataFrame, measure: Measure, about: str = "") -> tuple[float, float]:
    """Mean of a measure and half its 95 % interval.

    Args:
        rows: Repetitions.
        measure: Of their table.
        about: What the interval is over; by default what `over` says of these rows.
    """
    values = rows[measure.column].dropna()
    middle = float(values.mean())
    if (about or over([values])) == IMAGES and measure.error in rows:
        halves = [_half(rows.loc[index], measure) for index in values.index]
        return middle, sum(halves) / len(halves) if halves else np.nan
    return middle, interval([float(value) for value in values])


def _half(row: Any, measure: Measure) -> float:
    """Half the interval over images of one row: of shares that of Clopper & Pearson, where their count is known."""
    count = row.get("Images") if measure.percent else None
    if count is None or pd.isna(count):
        return 1.96 * float(row[measure.error])
    right = round(float(row[measure.column]) / 100 * float(count))
    low, high = binomtest(right, int(count)).proportion_ci(method="exact")
    return 50 * float(high - low)


def over_all(series: Series, x: str) -> str:
    """What the intervals of all these lines are over."""
    return over(group for rows in series.values() for _, group in rows.groupby(x))


def curves(
    axis: Axes,
    series: Series,
    x: str,
    measure: Measure,
    xlabel: str,
    first: int = 0,
    about: str = "",
) -> None:
    """One line per series, the mean over seeds with its interval; floor and ceiling where the measure has them.

    Args:
        axis: Where to draw.
        series: Label → rows of a table; rows of equal `x` are repetitions.
        x: Column of the horizontal axis, of numbers.
        measure: Column of the vertical axis.
        xlabel: What stands below.
        first: How many colours and markers other panels of the figure already use.
        about: What the intervals are over; by default what all series have.
    """
    about = about or over_all(series, x)
    for (label, rows), own in zip(series.items(), looks([*series], first)):
        points = [estimate(repeated, measure, about) for _, repeated in rows.groupby(x)]
        middle, half = np.array(points).reshape(-1, 2).T
        text = label if isinstance(label, str) else ", ".join(label)
        axis.errorbar(sorted(set(rows[x])), middle, yerr=half, label=text, **own, capsize=2)
    for name, height in references(pd.concat(series.values()), measure).items():
        axis.axhline(height, label=name, **REFERENCE)
    axis.autoscale_view(scalex=False)
    axis.set_xlabel(xlabel)
    axis.set_ylabel(_upright(measure.label))


def _upright(label: str) -> str:
    """On two lines what is longer than an axis is high."""
    return label.replace(" (", "\n(", 1) if len(label) > LONGEST else label


# ---------------------------------------------------------------- floors and ceilings

REFERENCE: dict[str, Any] = {"color": "black", "linewidth": 1.1, "gid": "reference"}
"""Of a line for a floor or a ceiling; `finish` gives each its own dashes and writes beside it what it is."""

DASHES: dict[str, Any] = {
    "floor: mean image": (0, (1, 1.5)),
    "floor: most frequent class": (0, (5, 1.5, 1, 1.5)),
    "floor: shuffled pairs": (0, (5, 1.5, 1, 1.5, 1, 1.5)),
    "floor: class mean": (0, (3, 1.5)),
    "ceiling: true image": (0, (9, 3)),
}
"""The same in all figures."""

SPARE: tuple[Any, ...] = ((0, (1, 4)), (0, (9, 2, 3, 2)), (0, (3, 1, 3, 1, 1, 1)), (0, (6, 6)))
"""Of others, in the order in which a figure has them."""


def references(rows: pd.DataFrame, measure: Measure) -> dict[str, float]:
    """What no information and what the true image give, as far as rows say it: name → value."""
    columns = {measure.floor_label: measure.floor, "ceiling: true image": measure.ceiling}
    there = {name: rows[column].mean() for name, column in columns.items() if column in rows}
    return {name: float(value) for name, value in there.items() if not np.isnan(value)}


def _draw_apart(lines: Iterable[Line2D]) -> None:
    """Give floors and ceilings of different names different dashes."""
    spare: dict[str, Any] = {}
    for line in lines:
        name = str(line.get_label())
        if name not in DASHES:
            spare.setdefault(name, SPARE[len(spare) % len(SPARE)])
        line.set_linestyle((DASHES | spare)[name])


def finish(
    figure: Figure,
    title: str,
    turn: bool = False,
    rows: int = 0,
    below: str = "",
    handles: Mapping[str, Artist] | None = None,
    about: str = "",
) -> None:
    """Title, ticks apart, names of floors and ceilings in their panels, one legend below, each entry once.

    Args:
        figure: With all that is drawn.
        title: Above.
        turn: Whether ticks are names, which turn where they would touch.
        rows: Of the legend; 0: as few as four columns need.
        below: A remark between the panels and the legend.
        handles: Entries of the legend that look other than what is drawn.
        about: What intervals are over, which is told below; none are drawn where empty.
    """
    below = "\n".join(filter(None, (about and f"bars: 95 % intervals over {about}", below)))
    drawn = {
        axis: [line for line in axis.lines if line.get_gid() == REFERENCE["gid"]]
        for axis in figure.axes
    }
    _draw_apart(line for lines in drawn.values() for line in lines)
    entries = {
        label: handle
        for axis in figure.axes
        for handle, label in zip(*axis.get_legend_handles_labels())
    }
    # What was measured first, then floors and ceilings.
    entries = dict(sorted(entries.items(), key=lambda entry: ":" in entry[0])) | dict(handles or {})
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside lower center",
        ncols=-(-len(entries) // rows) if rows else min(4, len(entries)),
        handlelength=2.8,
        columnspacing=1.4,
        title=below or None,
        title_fontsize=8,
    )
    figure.suptitle(title)
    settle(figure.axes[0])
    for axis, lines in drawn.items():
        thin_ticks(axis, turn)
        name_lines(axis, [*{line.get_label(): line for line in reversed(lines)}.values()])


def shared_leakage(tables: Iterable[pd.DataFrame]) -> list[Measure]:
    """The measures of leakage that any of these tables have."""
    return leakage({str(column) for rows in tables for column in rows.columns[rows.notna().any()]})


def _panels(count: int, height: float) -> tuple[Figure, Any]:
    """Side by side."""
    figure, axes = plt.subplots(1, count, figsize=(9.5 / 3 * count, height), squeeze=False)
    return figure, axes[0]


def leakage_curves(
    series: Series,
    x: str,
    xlabel: str,
    title: str,
    scale: str = "linear",
    measures: Sequence[Measure] = (),
    below: str = "",
) -> Figure:
    """Measures of leakage against one setting, a panel each.

    Args:
        series: Label → rows of the table of attackers; pairs stand below one another in the legend.
        x: Column of the setting, of numbers.
        xlabel: Name of the setting, with its unit.
        title: Above the figure.
        scale: `linear`, `log`, or `symlog` for settings that include 0.
        measures: What the panels show; all of leakage where empty.
        below: A remark under the panels.
    """
    measures = measures or shared_leakage(series.values())
    ways = {label[1] for label in series if not isinstance(label, str)}
    with plt.rc_context(STYLE):
        figure, axes = _panels(len(measures), 3.8 if below else 3.5)
        ticks = sorted({float(value) for rows in series.values() for value in rows[x]})
        for axis, measure in zip(axes, measures):
            curves(axis, series, x, measure, xlabel)
            if scale == "symlog":
                # Linear up to the smallest value above 0, so that 0 has its place close beside it.
                smallest = min(t for t in ticks if t > 0)
                axis.set_xscale(scale, linthresh=smallest, linscale=0.3)
                axis.set_xlim(-0.3 * smallest, 1.3 * ticks[-1])
            else:
                axis.set_xscale(scale)
            if scale != "linear":
                axis.set_xticks(
                    ticks, _apart(ticks) if scale == "log" else map("{:g}".format, ticks)
                )
                axis.minorticks_off()
        finish(figure, title, rows=len(ways), below=below, about=over_all(series, x))
    return figure


def _apart(ticks: Sequence[float]) -> list[str]:
    """Labels of ticks on a logarithmic axis; empty where the next labelled one is too close."""
    labels: list[str] = []
    following = np.inf
    for tick in reversed(ticks):
        shown = following / tick > (ticks[-1] / ticks[0]) ** 0.15
        labels.append(f"{tick:g}" if shown else "")
        following = tick if shown else following
    return labels[::-1]


def leakage_bars(groups: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """The measures of leakage for settings that are no numbers, one bar each with its interval and its own floor."""
    measures, about = shared_leakage(groups.values()), over(groups.values())
    with plt.rc_context(STYLE):
        figure, axes = _panels(len(measures), 3.2)
        for axis, measure in zip(axes, measures):
            for number, rows in enumerate(groups.values()):
                value, half = estimate(rows, measure, about)
                axis.bar(
                    number,
                    value,
                    yerr=None if np.isnan(half) else half,
                    color=COLOURS[number % len(COLOURS)],
                    hatch=("", "//", "..", "xx")[number % 4],
                    edgecolor="white",
                    capsize=3,
                )
                # Each has a floor of its own: the mean of other images. White shows it upon the bar.
                ends = number - 0.45, number + 0.45
                for name, height in references(rows, replace(measure, ceiling="")).items():
                    axis.plot(ends, [height] * 2, color="white", linewidth=4, zorder=3)
                    axis.plot(
                        ends, [height] * 2, label=name, **{**REFERENCE, "linewidth": 2}, zorder=4
                    )
            every = pd.concat(groups.values())
            for name, height in references(every, replace(measure, floor="")).items():
                axis.axhline(height, label=name, zorder=4, **REFERENCE)
            axis.set_xticks(range(len(groups)), [*groups])
            axis.set_ylabel(_upright(measure.label))
        finish(figure, title, turn=True, about=about)
    return figure


def wire_curves(series: dict[str, pd.DataFrame], x: str, xlabel: str, title: str) -> Figure:
    """Distance correlation on the wire and test accuracy against a setting, by its column and its name."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(8, 3.5))
        for axis, measure in zip(axes, (WIRE, replace(ACCURACY, floor=""))):
            curves(axis, series, x, measure, xlabel)
        axes[0].set_ylim(bottom=min(0, axes[0].get_ylim()[0]))
        finish(figure, title, about=over_all(series, x))
    return figure


def privacy_curves(
    models: pd.DataFrame,
    series: dict[str, pd.DataFrame],
    x: str,
    xlabel: str,
    ticks: dict[float, str],
    title: str,
) -> Figure:
    """Accuracy on members and others, and leakage of inputs, against how much a training protects its images.

    Args:
        models: Rows of the table of classifiers.
        series: Label → rows of the table of attackers.
        x: Column of the strength in both; 0 without.
        xlabel: What stands below.
        ticks: Strength → what stands below it.
        title: Above the figure.
    """
    floored = replace(ACCURACY, label="accuracy %")
    members = models.assign(TestAcc=models.MeanTrainAcc, SETestAcc=models.SETrainAcc)
    leaked = shared_leakage(series.values())
    accuracies = {"accuracy on training images": members, "accuracy on test images": models}
    about = over_all({**accuracies, **series}, x)
    with plt.rc_context(STYLE):
        figure, axes = _panels(1 + len(leaked), 3.7)
        curves(axes[0], accuracies, x, floored, xlabel, about=about)
        for axis, measure in zip(axes[1:], leaked):
            curves(axis, series, x, measure, xlabel, len(accuracies), about)
        for axis in axes:
            axis.set_xticks(list(ticks), list(ticks.values()))
        finish(figure, title, about=about)
    return figure
