"""Plots of numbers, in one style: labelled, colour-blind safe, and told apart by marker and line in black and white."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpsnn.evaluation.apart import label_points, settle, thin_ticks
from dpsnn.evaluation.measures import ACCURACY, WIRE, Measure, leakage, named
from dpsnn.evaluation.report import plt
from dpsnn.evaluation.summary import interval
from dpsnn.tensors import Number

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe & Ito's palette, safe for the colour-blind."""

MARKERS = ("o", "s", "^", "D", "v", "P")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))

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
    "figure.constrained_layout.use": True,
}


def _look(number: int) -> dict[str, Any]:
    """Colour and marker of a series; no two of the first 36 share both."""
    count = len(COLOURS)
    return {"color": COLOURS[number % count], "marker": MARKERS[(number + number // count) % count]}


def estimate(rows: pd.DataFrame, measure: Measure) -> tuple[float, float]:
    """Mean of a measure and half its 95 % interval: over seeds where there are several, else over images."""
    values = rows[measure.column].dropna()
    if len(values) == 1 and measure.error in rows:
        return float(values.iloc[0]), 1.96 * float(rows[measure.error][values.index[0]])
    return float(values.mean()), interval([float(value) for value in values])


def curves(
    axis: Axes,
    series: dict[str, pd.DataFrame],
    x: str,
    measure: Measure,
    xlabel: str,
    first: int = 0,
) -> None:
    """One line per series, the mean over seeds with its interval; floor and ceiling where the measure has them.

    Args:
        axis: Where to draw.
        series: Label → rows of a table; rows of equal `x` are repetitions.
        x: Column of the horizontal axis, of numbers.
        measure: Column of the vertical axis.
        xlabel: What stands below.
        first: How many colours and markers other panels of the figure already use.
    """
    for number, (label, rows) in enumerate(series.items(), first):
        points = []
        for _, repeated in rows.groupby(x):
            points.append(estimate(repeated, measure))
        middle, half = np.array(points).reshape(-1, 2).T
        axis.errorbar(
            sorted(set(rows[x])),
            middle,
            yerr=half,
            label=label,
            **_look(number),
            linestyle=LINES[number % len(LINES)],
            capsize=2,
        )
    _reference_lines(axis, pd.concat(series.values()), measure)
    axis.set_xlabel(xlabel)
    axis.set_ylabel(measure.label)


def _reference_lines(
    axis: Axes, rows: pd.DataFrame, measure: Measure, upright: bool = False
) -> None:
    line = axis.axvline if upright else axis.axhline
    for column, label, style in (
        (measure.floor, measure.floor_label, (0, (1, 2))),
        (measure.ceiling, "ceiling: true image", (0, (6, 3))),
    ):
        if column in rows:
            line(
                float(rows[column].mean()), color="black", linewidth=1, linestyle=style, label=label
            )


def _finish(figure: Figure, title: str, turn: bool = False) -> None:
    """Title, ticks apart, and one legend below all panels, each entry once."""
    entries = {
        label: handle
        for axis in figure.axes
        for handle, label in zip(*axis.get_legend_handles_labels())
    }
    # What was measured first, then floors and ceilings.
    entries = dict(sorted(entries.items(), key=lambda entry: ":" in entry[0]))
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=min(4, len(entries))
    )
    figure.suptitle(title)
    settle(figure.axes[0])
    for axis in figure.axes:
        thin_ticks(axis, turn)


def _leakage(series: Mapping[str, pd.DataFrame]) -> list[Measure]:
    """The measures of leakage that any of these rows have."""
    return leakage({str(column) for rows in series.values() for column in rows})


def _panels(count: int, height: float, width: float = 9.5 / 3, **more: Any) -> tuple[Figure, Any]:
    """Side by side."""
    figure, axes = plt.subplots(1, count, figsize=(width * count, height), squeeze=False, **more)
    return figure, axes[0]


def leakage_curves(
    series: dict[str, pd.DataFrame],
    x: str,
    xlabel: str,
    title: str,
    scale: str = "linear",
    measures: Sequence[Measure] = (),
) -> Figure:
    """Measures of leakage against one setting, a panel each.

    Args:
        series: Label → rows of the table of attackers.
        x: Column of the setting, of numbers.
        xlabel: Name of the setting, with its unit.
        title: Above the figure.
        scale: `linear`, `log`, or `symlog` for settings that include 0.
        measures: What the panels show; all of leakage where empty.
    """
    measures = measures or _leakage(series)
    with plt.rc_context(STYLE):
        figure, axes = _panels(len(measures), 3.3)
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
        _finish(figure, title)
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


def leakage_bars(groups: dict[str, pd.DataFrame], title: str) -> Figure:
    """The measures of leakage for settings that are no numbers, one bar each with its interval."""
    measures = _leakage(groups)
    with plt.rc_context(STYLE):
        figure, axes = _panels(len(measures), 3.0)
        for axis, measure in zip(axes, measures):
            for number, (label, rows) in enumerate(groups.items()):
                value, half = estimate(rows, measure)
                axis.bar(
                    label,
                    value,
                    yerr=None if np.isnan(half) else half,
                    color=COLOURS[number % len(COLOURS)],
                    hatch=("", "//", "..", "xx")[number % 4],
                    edgecolor="black",
                    capsize=3,
                )
                if measure.floor in rows:
                    # Each has a floor of its own: the mean of other images.
                    axis.hlines(
                        float(rows[measure.floor].mean()),
                        number - 0.45,
                        number + 0.45,
                        color="black",
                        linestyle=(0, (1, 2)),
                        label=measure.floor_label,
                    )
            _reference_lines(axis, pd.concat(groups.values()), replace(measure, floor=""))
            axis.set_ylabel(measure.label)
        _finish(figure, title, turn=True)
    return figure


def wire_curves(series: dict[str, pd.DataFrame], x: str, xlabel: str, title: str) -> Figure:
    """Distance correlation on the wire and test accuracy against a setting, by its column and its name."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(8, 3.3))
        for axis, measure in zip(axes, (WIRE, replace(ACCURACY, floor=""))):
            curves(axis, series, x, measure, xlabel)
        axes[0].set_ylim(bottom=min(0, axes[0].get_ylim()[0]))
        _finish(figure, title)
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
    accuracies = {"accuracy on training images": members, "accuracy on test images": models}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.5))
        curves(axes[0], accuracies, x, floored, xlabel)
        for axis, measure in zip(axes[1:], map(named, ("mse", "ssim"))):
            curves(axis, series, x, measure, xlabel, len(accuracies))
        for axis in axes:
            axis.set_xticks(list(ticks), list(ticks.values()))
            axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
        _finish(figure, title)
    return figure


def front(points: Sequence[tuple[Number, Number]]) -> list[int]:
    """Indices of the points that no other one beats, by rising first coordinate; more is better in both."""
    order = sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1]))
    kept: list[int] = []
    for index in order:
        if not kept or points[index][1] > points[kept[-1]][1]:
            kept.append(index)
    return kept[::-1]


Families = Mapping[str, Sequence[tuple[str, pd.DataFrame, pd.DataFrame]]]
"""Family of defences → its members: label, rows of the classifier, rows of its attackers."""


def pareto(families: Families, title: str) -> Figure:
    """Accuracy against what the strongest attacker gets, a point per defence, a panel per measure, the front drawn."""
    measures = _leakage({"": pd.concat(a for members in families.values() for *_, a in members)})
    with plt.rc_context(STYLE):
        figure, axes = _panels(len(measures), 4.4, 4.0, sharey=True)
        fronts = [_pareto_panel(axis, families, measure) for axis, measure in zip(axes, measures)]
        _scale_by_errors(axes[0], "y")
        axes[0].set_ylabel(ACCURACY.label)
        _finish(figure, title)
        for axis, best in zip(axes, fronts):
            label_points(axis, [point for point, _ in best], [label for _, label in best])
    return figure


def _pareto_panel(
    axis: Axes, families: Families, measure: Measure
) -> list[tuple[tuple[float, float], str]]:
    """One measure; returns the points of the front with their labels."""
    points, labels, worst, better = [], [], [], -measure.sign
    for number, (family, members) in enumerate(families.items()):
        for position, (label, classifier, attackers) in enumerate(members):
            worst.append(attackers[attackers.Kind == _strongest(attackers, measure)])
            x, x_half = estimate(worst[-1], measure)
            y, y_half = estimate(classifier, ACCURACY)
            points.append((better * x, y))
            axis.errorbar(
                x,
                y,
                xerr=x_half,
                yerr=y_half,
                **_look(number),
                linestyle="",
                elinewidth=0.7,
                label=None if position else family,
            )
            labels.append(label)
    best = front(points)
    on_front = [(better * points[i][0], points[i][1]) for i in best]
    axis.plot(
        [x for x, _ in on_front],
        [y for _, y in on_front],
        color="black",
        linewidth=1,
        zorder=0,
        label="best at this leakage",
    )
    _reference_lines(axis, pd.concat(worst), measure, upright=True)
    axis.set_xlabel(measure.label)
    if measure.percent:
        _scale_by_errors(axis, "x")
    if better < 0:
        # More private to the right, in every panel.
        axis.invert_xaxis()
    return list(zip(on_front, (labels[i] for i in best)))


def _strongest(attacks: pd.DataFrame, measure: Measure) -> str:
    """The kind of attacker that gets most, by its mean over seeds."""
    means = attacks.groupby("Kind")[measure.column].mean()
    return str((measure.sign * means).idxmax())


TICKS = (10, 50, 70, 80, 90, 95, 97, 98, 99, 99.5, 99.8)


def _scale_by_errors(axis: Axes, which: str) -> None:
    """Percentages of right answers, spaced by the logarithm of the wrong: 98 and 99 are as far apart as 80 and 90."""

    def forward(right: Any) -> Any:
        return -np.log10(np.maximum(100 - np.asarray(right), 0.05))

    def backward(height: Any) -> Any:
        return 100 - 10 ** -np.asarray(height)

    box = axis.dataLim
    least, most = (box.x0, box.x1) if which == "x" else (box.y0, box.y1)
    # As much room beyond the best and the worst, seen in errors.
    limits = max(0.0, 100 - 1.4 * (100 - least)), 100 - (100 - most) / 1.6
    ticks = [t for t in TICKS if limits[0] < t < limits[1]]
    scale = {"functions": (forward, backward)}
    labels = [f"{tick:g}" for tick in ticks]
    if which == "x":
        axis.set_xscale("function", **scale)
        axis.set_xticks(ticks, labels)
        axis.set_xlim(*limits)
    else:
        axis.set_yscale("function", **scale)
        axis.set_yticks(ticks, labels)
        axis.set_ylim(*limits)
    axis.minorticks_off()
