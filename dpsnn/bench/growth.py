"""How a cost grows with a size: a power law through the points, and its picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from dpsnn.bench.table import written
from dpsnn.evaluation.plots import STYLE, look
from dpsnn.evaluation.report import plt, save_figure
from dpsnn.numbers import Number

CONFIDENCE = 0.95


class PowerLaw(NamedTuple):
    """seconds = factor × size ^ exponent."""

    factor: float
    exponent: float
    low: float
    """Lower end of the exponent's 95 % interval; NaN from two points, which leave nothing to judge by."""
    high: float

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the exponent; None where nothing is left to judge it by."""
        return None if np.isnan(self.low) else (self.low, self.high)

    def __str__(self) -> str:
        """The exponent and its interval."""
        ends = self.interval
        return f"{self.exponent:.2f}" + (f" ({ends[0]:.2f} to {ends[1]:.2f})" if ends else "")

    def at(self, size: Number) -> float:
        """Seconds at a size."""
        return float(self.factor * size**self.exponent)


class Growth(NamedTuple):
    """What something took at several sizes."""

    sizes: Sequence[Number]
    """One of every measurement: a size that was measured three times stands three times."""
    seconds: Sequence[Number]
    of: str
    """What the size is: `images`."""


def power_law(growth: Growth) -> PowerLaw:
    """The least squares of logarithms, with Student's interval of the slope.

    Logarithms weigh relative errors, and those of times are alike at all sizes. A fixed cost makes the exponent smaller
    than it is of what grows beside it.

    Raises:
        ValueError: If fewer than two sizes were measured, or anything is not above 0.
    """
    if len({*growth.sizes}) < 2 or min(*growth.sizes, *growth.seconds) <= 0:
        raise ValueError(f"no power law goes through {growth}")
    x, y = np.log(growth.sizes), np.log(growth.seconds)
    fit = stats.linregress(x, y)
    free = len(x) - 2
    half = stats.t.ppf((1 + CONFIDENCE) / 2, free) * fit.stderr if free else np.nan
    exponent = float(fit.slope)
    return PowerLaw(
        float(np.exp(fit.intercept)), exponent, float(exponent - half), float(exponent + half)
    )


def line(name: str, growth: Growth) -> str:
    """A fit in words."""
    law = power_law(growth)
    least, most = (f"{each:,}" for each in (min(growth.sizes), max(growth.sizes)))
    longest = law.at(max(growth.sizes))
    return (
        f"{name}: seconds grow as {growth.of} ^ {law}, {least} to {most}; {longest:.3g} s at {most}"
    )


def draw(growths: Mapping[str, Growth], path: Path) -> Path:
    """All measurements and their power laws, a panel each, on axes of logarithms."""
    columns = min(3, len(growths))
    rows = -(-len(growths) // columns)
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            rows, columns, figsize=(3 * columns, 2.6 * rows), squeeze=False
        )
        for panel in panels.flat[len(growths) :]:
            panel.set_visible(False)
        for number, (name, growth) in enumerate(growths.items()):
            panel, law = panels.flat[number], power_law(growth)
            style = look(number)
            sizes = sorted({*growth.sizes})
            panel.plot(growth.sizes, growth.seconds, linestyle="", markerfacecolor="none", **style)
            panel.plot(sizes, [law.at(each) for each in sizes], color=style["color"])
            panel.set_xscale("log")
            panel.set_yscale("log")
            panel.set_xticks(sizes, [f"{each:,}" for each in sizes])
            ends = np.geomspace(min(growth.seconds), max(growth.seconds), 3)
            panel.set_yticks(ends, [written(float(each)) for each in ends])
            panel.minorticks_off()
            panel.set_title(f"{name}\nexponent {law}")
            panel.set_xlabel(growth.of)
            panel.set_ylabel("seconds")
        return save_figure(figure, path)
