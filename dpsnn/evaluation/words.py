"""Rows of a table as a reader wants them: means with intervals, floors and ceilings, under words."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from dpsnn.evaluation.measures import Measure, named
from dpsnn.evaluation.plots import SEEDS, estimate, over, shared_leakage
from dpsnn.metrics.optimum import INFORMATIVE


def plus_minus(rows: pd.DataFrame, measure: Measure, about: str = "") -> str:
    """Mean ± half its 95 % interval, over `about` as in `estimate`, if it has one; empty if there is none."""
    value, half = (
        "" if math.isnan(number) else f"{number:.{measure.digits}f}"
        for number in estimate(rows, measure, about)
    )
    return f"{value} ± {half}" if value and half else value


OVER = "± over"
"""Heading of what intervals are over."""


def repeated(rows: pd.DataFrame, about: str) -> str:
    """What the intervals of a line are over: so many seeds, or images."""
    count = rows.Seed.nunique() if "Seed" in rows else len(rows)
    return f"{count} seeds" if about == SEEDS else about


def reachable(bound: float, measured: float, digits: int) -> str:
    """The least error that anybody reaches; where it is far below what is measured it says nothing of attackers."""
    if math.isnan(bound):
        return ""
    far = bound < INFORMATIVE * measured
    return f"{bound:.{digits}f}" + (", not informative" if far else "")


def reference(rows: pd.DataFrame, measure: Measure, column: str) -> str:
    """Mean of a measure's floor or ceiling; empty where there is none."""
    value = rows[column].mean() if column in rows else math.nan
    return "" if math.isnan(value) else f"{value:.{measure.digits}f}"


def in_words(
    rows: pd.DataFrame, by: Mapping[str, str], measures: Sequence[str] = ()
) -> pd.DataFrame:
    """One line for each setting: each measure with half its 95 % interval, and what that is over.

    Floors and ceilings that are the same for all stand in lines of their own at the end, others beside their measure.

    Args:
        rows: Of the table of classifiers or of that of attackers.
        by: Column of a setting → what it is called. Rows that agree in all of them are repetitions.
        measures: Names of those that are shown; all of leakage where empty.
    """
    groups = [group for _, group in rows.groupby([*by], dropna=False)]
    about = over(groups)
    lines: list[dict[str, object]] = [
        {word: group[column].iloc[0] for column, word in by.items()}
        | {OVER: repeated(group, about)}
        for group in groups
    ]
    first, *others = by.values()
    empty = dict.fromkeys((*others, OVER), "")
    last: dict[str, dict[str, object]] = {}
    for measure in [*map(named, measures)] or shared_leakage([rows]):
        for line, group in zip(lines, groups):
            line[measure.heading] = plus_minus(group, measure, about)
        for name, column in (("floor", measure.floor), ("ceiling", measure.ceiling)):
            values = [reference(group, measure, column) for group in groups]
            if len(set(values)) > 1:
                for line, value in zip(lines, values):
                    line[f"{measure.heading}, {name}"] = value
            elif shown := values[0] or (measure.perfect if name == "ceiling" else ""):
                last.setdefault(name, {first: name, **empty})[measure.heading] = shown
    table = pd.DataFrame([*lines, *(last[name] for name in ("floor", "ceiling") if name in last)])
    return table.fillna("").set_index([*by.values()])
