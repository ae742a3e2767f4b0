"""Accuracy against leakage, a point per defence: which of them nothing beats, by name."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dpsnn.evaluation.apart import label_points
from dpsnn.evaluation.measures import ACCURACY, Measure
from dpsnn.evaluation.plots import (
    REFERENCE,
    STYLE,
    estimate,
    finish,
    look,
    over,
    references,
    shared_leakage,
)
from dpsnn.evaluation.report import plt
from dpsnn.tensors import Number

Families = Mapping[str, Sequence[tuple[str, pd.DataFrame, pd.DataFrame]]]
"""Family of defences → its members: label, rows of the classifier, rows of its attackers."""

FAR = 1 / 3
"""A floor or ceiling further from all points than this share of their span is not drawn but told in words."""

ALIKE = 0.05
"""Points within this share of what lies between floor and ceiling are not told apart."""


class Point(NamedTuple):
    """A defence: what its strongest attacker gets, and its accuracy, each with half an interval."""

    label: str
    family: int
    x: float
    x_half: float
    y: float
    y_half: float


def front(points: Sequence[tuple[Number, Number]]) -> list[int]:
    """Indices of the points that no other one beats, by rising first coordinate; more is better in both."""
    order = sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1]))
    kept: list[int] = []
    for index in order:
        if not kept or points[index][1] > points[kept[-1]][1]:
            kept.append(index)
    return kept[::-1]


def pareto(families: Families, title: str) -> Figure:
    """Accuracy against what the strongest attacker gets, a panel per measure that tells defences apart.

    Defences on the front are filled and named; the steps bound what is beaten by one of them.
    """
    attacks = pd.concat(a for members in families.values() for *_, a in members)
    measures = shared_leakage([attacks])
    about = over(group for groups in _repetitions(families, measures) for group in groups)
    found = {measure.name: _points(families, measure, about) for measure in measures}
    alike = {m.name: _alike(found[m.name], m, attacks) for m in measures}
    shown = [m for m in measures if not alike[m.name]] or measures
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            len(shown), 1, figsize=(9.5, 2.7 * len(shown) + 0.8), squeeze=False, sharey=True
        )
        axes = grid[:, 0]
        _scale_by_errors(axes[0].set_yscale)
        fronts = [
            _panel(axis, [*families], found[measure.name], measure, attacks)
            for axis, measure in zip(axes, shown)
        ]
        handles = {
            family: Line2D([], [], linestyle="", **look(number))
            for number, family in enumerate(families)
        }
        left_out = [alike[measure.name] for measure in measures if measure not in shown]
        finish(figure, title, below="\n".join(left_out), handles=handles, about=about)
        for axis, best in zip(axes, fronts):
            label_points(axis, [(p.x, p.y) for p in best], [p.label for p in best])
    return figure


def _repetitions(
    families: Families, measures: Sequence[Measure]
) -> Iterator[Iterator[pd.DataFrame]]:
    """Of every defence the classifiers, and by each measure their strongest attackers."""
    for members in families.values():
        for _, classifiers, attacks in members:
            yield iter([classifiers, *(_strongest(attacks, measure) for measure in measures)])


def _points(families: Families, measure: Measure, about: str) -> list[Point]:
    return [
        Point(label, number, *estimate(best, measure, about), *estimate(models, ACCURACY, about))
        for number, members in enumerate(families.values())
        for label, models, attacks in members
        if len(best := _strongest(attacks, measure))
    ]


def _strongest(attacks: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """Rows of the kind of attacker that gets most, by its mean over seeds; none if none was measured so."""
    means = attacks.groupby("Kind")[measure.column].mean()
    if means.isna().all():
        return attacks.iloc[:0]
    return attacks[attacks.Kind == str((measure.sign * means).idxmax())]


def _alike(points: Sequence[Point], measure: Measure, rows: pd.DataFrame) -> str:
    """In words that all points are about the same, seen from floor to ceiling; empty where they are not."""
    values = sorted(point.x for point in points)
    known = references(rows, measure)
    ends = [*known.values(), *values, *([float(measure.perfect)] if measure.perfect else [])]
    if len(values) < 2 or values[-1] - values[0] >= ALIKE * (max(ends) - min(ends)):
        return ""
    shown = [f"{value:.{measure.digits}f}" for value in (values[0], values[-1])]
    beside = "".join(f"; {name}, {value:.{measure.digits}f}" for name, value in known.items())
    return f"Not shown, as all are alike: {measure.heading} is {' to '.join(shown)}{beside}"


def _panel(
    axis: Axes, families: Sequence[str], points: Sequence[Point], measure: Measure, rows: Any
) -> list[Point]:
    """One measure; returns the points of the front."""
    better = -measure.sign
    best = [points[i] for i in front([(better * p.x, p.y) for p in points])]
    named = set[str]()
    for point in points:
        family = families[point.family]
        own = look(point.family) if point in best else {**look(point.family), "mfc": "white"}
        drawn = axis.errorbar(
            point.x, point.y, xerr=point.x_half, yerr=point.y_half, linestyle="", elinewidth=0.6,
            label=None if family in named else family, zorder=3 if point in best else 2, **own,
        )  # fmt: skip
        for interval in drawn.lines[2]:
            interval.set_alpha(0.3)
        named.add(family)
    # Accuracy that can be had at this leakage or less: that of the next point to the right.
    x = np.repeat([p.x for p in best], 2)[1:]
    y = np.repeat([p.y for p in best], 2)[:-1]
    axis.plot(x, y, color="grey", linewidth=0.8, zorder=0, label="filled: not beaten by any other")
    scale = _scale_by_errors(axis.set_xscale) if measure.percent else _plain
    beyond = _references(axis, points, measure, rows, scale)
    if better < 0:
        # More private to the right, in every panel.
        axis.invert_xaxis()
    axis.set_xlabel("\n".join((measure.label, *beyond)))
    axis.set_ylabel(ACCURACY.label)
    for which, limits in (("x", axis.get_xlim()), ("y", axis.get_ylim())):
        if which == "y" or measure.percent:
            ticks = [tick for tick in TICKS if min(limits) < tick < max(limits)]
            getattr(axis, f"set_{which}ticks")(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    return best


Scale = Callable[[Any], Any]


def _references(
    axis: Axes, points: Sequence[Point], measure: Measure, rows: pd.DataFrame, scale: Scale
) -> list[str]:
    """Draw floors and ceilings that are near the points; returns where the others are."""
    ends = scale(np.array([min(p.x for p in points), max(p.x for p in points)]))
    room = FAR * (ends[1] - ends[0])
    beyond = []
    for name, value in references(rows, measure).items():
        at = scale(np.array(value))
        if ends[0] - room <= at <= ends[1] + room:
            axis.axvline(value, label=name, **REFERENCE)
        else:
            side = "left" if (at > ends[1]) == (measure.sign > 0) else "right"
            beyond.append(f"{name}, {value:.{measure.digits}f}, is further to the {side}")
    return beyond


TICKS = (10, 20, 50, 70, 80, 90, 95, 97, 98, 98.5, 99, 99.2, 99.5, 99.8)


def _plain(values: Any) -> Any:
    return values


def _errors(right: Any) -> Any:
    return -np.log10(np.maximum(100 - np.asarray(right), 0.05))


def _scale_by_errors(set_scale: Callable[..., Any]) -> Scale:
    """Percentages of right answers, spaced by the logarithm of the wrong: 98 and 99 are as far apart as 80 and 90."""
    set_scale("function", functions=(_errors, lambda height: 100 - 10 ** -np.asarray(height)))
    return _errors
