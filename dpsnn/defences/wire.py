"""The precision in which values cross the wire."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from dpsnn.defences.base import CutInfo, Defence, DefenceModule
from dpsnn.defences.mechanism import Step
from dpsnn.defences.values import Cells, Rounding, Values
from dpsnn.errors import UsageError, one_of
from dpsnn.parts import option
from dpsnn.tensors import Activation, Smashed

FLOATS = {"bfloat16": torch.bfloat16, "float16": torch.float16}

PRECISIONS = ("float32", *FLOATS, "int8")

NARROWEST = 1e-10
"""Width of a cell: of the mass of narrower ones, near 0, double precision tells no digits."""


@dataclass(frozen=True, kw_only=True)
class WirePrecision(Defence):
    """Fewer digits of every value on the wire, in training and after it; what no network resolves nobody can undo."""

    key = "wire"
    heading = "precision of the wire"
    order = 75

    carries: str = option(
        "float32",
        "how values cross the wire: float32, bfloat16, float16 or int8 (255 levels)",
        name="wire_precision",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.carries, PRECISIONS, "wire_precision")

    @property
    def on(self) -> bool:
        return self.carries != "float32"

    @property
    def place(self) -> int:
        """Behind all noise and other rounding: the wire has this precision."""
        return 85

    def build(self, cut: CutInfo) -> DefenceModule:
        return Wire(self.carries, cut.bound)

    def legend(self) -> str:
        return self.carries if self.on else ""


@dataclass(frozen=True)
class ToFloat(Cells):
    """Replace every value by the nearest number of a narrower float; what is beyond its range by the last one."""

    name: str

    @property
    def kind(self) -> torch.dtype:
        return FLOATS[self.name]

    def apply(self, activation: Activation) -> Activation:
        """Rounded, to even; its gradient is that of the clipped values (straight-through), as rounding has none."""
        inside = self.smooth(activation)
        return inside + (inside.detach().to(self.kind).to(inside.dtype) - inside.detach())

    def smooth(self, activation: Activation) -> Activation:
        largest = torch.finfo(self.kind).max
        return activation.clamp(-largest, largest)

    def image(self, values: Values) -> Values:
        ends = self.apply(torch.tensor([values.low, values.high], dtype=torch.float64))
        lower, upper = (edge.double() for edge in self._neighbours(ends))
        # Numbers lie furthest apart at the ends; each value moves by half of that at most.
        step = float(torch.where(ends > 0, ends - lower, upper - ends).max())
        l1 = values.l1 + values.dimension * step
        l2 = values.l2 + values.dimension**0.5 * step
        return replace(values, low=float(ends[0]), high=float(ends[1]), l1=l1, l2=l2)

    def cells(
        self, heard: Float[Tensor, "q n *cut"]
    ) -> tuple[Float[Tensor, "q n *cut"], Float[Tensor, "q n *cut"]]:
        """Between which values lay what was rounded to this, in double precision; the last numbers take all beyond."""
        heard = heard.double()
        lower, upper = self._neighbours(heard)
        least = torch.full_like(heard, NARROWEST / 2)
        return heard - torch.maximum((heard - lower) / 2, least), heard + torch.maximum(
            (upper - heard) / 2, least
        )

    def _neighbours(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The next smaller and the next larger number of this kind, infinite behind the last."""
        bits = values.to(self.kind).view(torch.int16).int()
        # Numbers in order: those below 0 count downwards, and there are two zeros.
        order = torch.where(bits >= 0, bits, -(bits + 2**15))
        found = []
        for moved in (order - 1, order + 1):
            back = torch.where(moved >= 0, moved, -moved - 2**15)
            found.append(back.to(torch.int16).view(self.kind).double())
        return found[0], found[1]


class Wire(DefenceModule):
    """Round every value to what the wire can carry; float32 is exactly the identity.

    It is deterministic and promises nothing by itself. int8 has 255 equally spaced levels from -bound to bound.

    Args:
        precision: One of `PRECISIONS`.
        bound: Largest absolute value that the client sends.

    Raises:
        UsageError: If nothing bounds what is to be sent as int8.
    """

    def __init__(self, precision: str, bound: float | None = None) -> None:
        super().__init__()
        one_of(precision, PRECISIONS, "precision of the wire")
        if precision == "int8" and not bound:
            raise UsageError(
                "nothing bounds what this client sends, so int8 has no scale; give --wire_precision float16, or"
                " --quantise_bits 8 with --quantise_low and --quantise_high"
            )
        self.rounding: Cells | None = None
        if precision == "int8":
            self.rounding = Rounding(-float(bound or 0), float(bound or 0), 255)
        elif precision in FLOATS:
            self.rounding = ToFloat(precision)

    def forward(self, activation: Activation) -> Smashed:
        return self.rounding.apply(activation) if self.rounding else activation

    def mechanism(self) -> Sequence[Step]:
        return (self.rounding,) if self.rounding else ()

    def extra_repr(self) -> str:
        return str(self.rounding or "float32")
