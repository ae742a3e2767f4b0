"""How finely values on a wire are told apart, read off the values themselves."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

LEVELS = 2**16
"""More distinct values are no levels."""


class Resolution(NamedTuple):
    """So many binary digits of a float, or equally spaced levels."""

    digits: int
    """Of a float, the leading one included."""
    least: float
    """The smallest number above 0."""
    step: float = 0.0
    """The distance of levels; 0 of floats."""

    def below(self, bound: float) -> float:
        """The distance from a bound to the next smaller number: 2⁻²⁴ below 1 in float32, 2⁻¹¹ in float16."""
        if self.step:
            return self.step
        if bound == 0 or not math.isfinite(bound):
            return self.least
        mantissa, exponent = math.frexp(abs(bound))
        # Towards 0 from a power of two numbers lie twice as close.
        closer = 1 if mantissa == 0.5 and bound > 0 else 0
        return max(math.ldexp(1.0, exponent - self.digits - closer), self.least)


FLOATS = {
    torch.bfloat16: Resolution(8, 2.0**-133),
    torch.float16: Resolution(11, 2.0**-24),
    torch.float32: Resolution(24, 2.0**-149),
}
"""Coarsest first."""


def resolution(values: Tensor) -> Resolution:
    """The coarsest that all values have: levels where few and equally spaced ones occur, else that of a float."""
    distinct = values.unique()
    if 1 < len(distinct) <= LEVELS:
        gaps = distinct.double().diff()
        steps = gaps / gaps.min()
        whole = steps.round()
        if whole.sum() <= LEVELS and (steps - whole).abs().max() < 0.02:
            step = float((distinct[-1] - distinct[0]).double() / whole.sum())
            return Resolution(24, step, step)
    for kind, known in FLOATS.items():
        if torch.equal(distinct.to(kind).to(distinct.dtype), distinct):
            return known
    return FLOATS[torch.float32]
