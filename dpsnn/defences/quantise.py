"""Quantisation: fewer bits for every value on the wire."""

from collections.abc import Sequence

from dpsnn.defences.base import DefenceModule, checked_strength
from dpsnn.defences.mechanism import Step
from dpsnn.defences.values import Rounding
from dpsnn.errors import UsageError
from dpsnn.tensors import Activation, Number, Smashed

MOST = 16
"""Bits: float32 tells finer steps no longer apart everywhere in the range."""


class Quantise(DefenceModule):
    """Round every value to the nearest of 2^bits equally spaced ones from `low` to `high`; what lies beyond is clipped.

    It is deterministic and promises nothing by itself. Training follows the gradient of the clipped values, as if
    nothing were rounded (straight-through, Bengio, Léonard & Courville 2013, arXiv 1308.3432).

    Args:
        bits: Of each value, 1 to 16; 0 is exactly the identity.
        low: The lowest level, -1 behind a tanh.
        high: The highest.

    Raises:
        UsageError: If the bits are no such number, or there is no range.
    """

    def __init__(self, bits: Number, low: Number = -1.0, high: Number = 1.0) -> None:
        super().__init__()
        self.bits = checked_strength(bits, "the number of bits")
        if self.bits not in range(MOST + 1):
            raise UsageError(
                f"the number of bits is {bits}; it must be a whole number from 0 to {MOST}"
            )
        width = high - low
        if not checked_strength(width, f"the width of the range from {low} to {high}"):
            raise UsageError(f"the range is from {low} to {high}; there is nothing between")
        self.rounding = Rounding(float(low), float(high), 2 ** int(self.bits)) if bits else None

    def forward(self, activation: Activation) -> Smashed:
        return self.rounding.apply(activation) if self.rounding else activation

    def mechanism(self) -> Sequence[Step]:
        return (self.rounding,) if self.rounding else ()

    def extra_repr(self) -> str:
        return f"bits={self.bits:g}, {self.rounding}"
