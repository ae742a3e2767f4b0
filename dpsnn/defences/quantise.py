"""Quantisation: fewer bits for every value on the wire."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dpsnn.defences.base import CutInfo, Defence, DefenceModule, checked_strength
from dpsnn.defences.mechanism import Step
from dpsnn.defences.values import Rounding
from dpsnn.errors import UsageError
from dpsnn.parts import option
from dpsnn.tensors import Activation, Number, Smashed

MOST = 16
"""Bits: float32 tells finer steps no longer apart everywhere in the range."""


@dataclass(frozen=True, kw_only=True)
class Quantisation(Defence):
    """Fewer bits for every value on the wire, in training and after it: the nearest of 2^bits levels."""

    key = "quantise"
    heading = "quantisation on the wire"
    label = "bits"
    order = 70

    bits: int = option(0, "bits of every value that crosses the wire, 1 to 16; 0 is no rounding")
    low: Number | None = option(
        None, "lowest level (default: the lowest value the network can send)", check="free"
    )
    high: Number | None = option(
        None, "highest level (default: the highest value the network can send)", check="free"
    )

    @property
    def place(self) -> int:
        """Behind all noise: what crosses the wire has so many bits."""
        return 80

    def check(self, spec: Any) -> None:
        for name in ("low", "high"):
            if getattr(self, name) is not None and not self.on:
                raise UsageError(
                    f"{self.flat(name)} says nothing without --quantise_bits; give both"
                )
        Quantise(self.bits)  # of the range more is known when it is built

    def build(self, cut: CutInfo) -> DefenceModule:
        low = -cut.bound if self.low is None and cut.bound is not None else self.low
        high = cut.bound if self.high is None else self.high
        if low is None or high is None:
            raise UsageError(
                "nothing bounds what this client sends, so there is no range to quantise; give --quantise_low and"
                " --quantise_high"
            )
        return Quantise(self.bits, low, high)


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
