"""How far the mean of some values may be from that of all people, where a few of them are far from the others.

Errors of pictures are unequal, and Student's interval and resampling then end too early on the side of the long tail.
Hall 1992 ("On the removal of skewness by transformation", J. R. Statist. Soc. B 54, 221-228): a cubic that is
everywhere rising takes the skewness out of Student's ratio, and its inverse puts it into the ends.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from dpsnn.evaluation.strongest import LEVEL

TAIL = (1 - LEVEL) / 2

STRAIGHT = 1e-6
"""Skewness below which there is none to take out."""

BEYOND = 1e-4
"""Chance that all values lie to one side of the mean of all people, from which on an end may be there."""


def skewness(values: NDArray[np.float64]) -> float:
    """The third moment over the spread to its third power; 0 of values that are all alike."""
    off = values - values.mean()
    spread = float(np.sqrt(np.square(off).mean()))
    # Of values that differ in rounding alone it is that of the rounding.
    if spread <= 1e-12 * float(np.abs(values).max(initial=0)):
        return 0.0
    return float(((off / spread) ** 3).mean())


def limits(
    value: float, error: float, values: NDArray[np.float64], tail: float = TAIL
) -> tuple[float, float]:
    """Both ends of the interval of a mean of two or more values, Student's where they are symmetric.

    It holds the mean, turns with the sign of the values, and is a point where these are all alike: nothing is then
    known of those that are not. On the side of the short tail it ends at the last of many values: an error below 0 is
    none, nor is a similarity above 1.

    Args:
        value: The mean.
        error: Its standard error.
        values: Of which it is the mean.
        tail: Chance that the truth lies beyond one end.
    """
    count, skew = len(values), skewness(values)
    root, bend, shift = math.sqrt(count), skew / 3, skew / (6 * count)
    ratio = float(stdtrit(count - 1, 1 - tail)) / root

    def back(ratio: float) -> float:
        if abs(skew) < STRAIGHT:
            return ratio
        return (float(np.cbrt(1 + 3 * bend * (ratio - shift))) - 1) / bend

    low, high = value - error * root * back(ratio), value - error * root * back(-ratio)
    if 0.5**count < BEYOND and skew > STRAIGHT:
        low = min(value, max(low, float(values.min())))
    if 0.5**count < BEYOND and skew < -STRAIGHT:
        high = max(value, min(high, float(values.max())))
    return low, high
