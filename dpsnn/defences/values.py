"""The set in which the values on the wire lie, and what deterministic steps make of it.

Noise is worth what it is in proportion to the distance of the furthest two inputs, so a guarantee needs the set.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from dpsnn.tensors import Activation, Number


@dataclass(frozen=True)
class Values:
    """Where the values of one activation lie: in a box, and no further apart than so much in L1 and in L2."""

    dimension: int
    """Number of values."""
    low: Number = -math.inf
    high: Number = math.inf
    """Each value lies in [low, high]."""
    l1: Number = math.inf
    l2: Number = math.inf
    """Largest distance of two activations: twice the radius of a ball."""

    def apart_l1(self) -> float:
        """The largest L1 distance of two activations: 1000 for 500 tanh outputs."""
        return self._least(self.dimension, self.l1, self.l2 * math.sqrt(self.dimension))

    def apart_l2(self, queries: int = 1) -> float:
        """The largest L2 distance of `queries` transmissions of one activation from another's: 2·√500 for the same."""
        times = math.sqrt(queries)
        return self._least(math.sqrt(self.dimension * queries), times * self.l1, times * self.l2)

    def _least(self, widths: Number, *others: Number) -> float:
        width = self.high - self.low
        return float(min(*others, width * widths if math.isfinite(width) else math.inf))


@dataclass(frozen=True)
class Map:
    """A deterministic step: the same activation always becomes the same."""

    random = False

    def apply(self, activation: Activation) -> Activation:
        """What becomes of it."""
        raise NotImplementedError

    def smooth(self, activation: Activation) -> Activation:
        """Nearly the same, with a gradient that leads an attacker somewhere."""
        return self.apply(activation)

    def image(self, values: Values) -> Values:
        """Where values that lay there lie afterwards; unless a step says better, anywhere."""
        return Values(values.dimension)


@dataclass(frozen=True)
class Clip(Map):
    """Shrink every activation that lies outside an L2 ball around 0 to its surface."""

    radius: Number

    def apply(self, activation: Activation) -> Activation:
        norms = activation.flatten(1).norm(dim=1).clamp(min=torch.finfo(activation.dtype).tiny)
        factor = (self.radius / norms).clamp(max=1)
        return activation * factor.view(-1, *[1] * (activation.dim() - 1))

    def image(self, values: Values) -> Values:
        # It is a projection, hence brings no two points further apart in L2; in L1 it may.
        l2 = min(values.l2, 2 * self.radius)
        if not values.low <= 0 <= values.high:  # towards 0 means out of such a box
            return Values(values.dimension, -self.radius, self.radius, l2=l2)
        low, high = max(values.low, -self.radius), min(values.high, self.radius)
        return Values(values.dimension, low, high, l2=l2)


@dataclass(frozen=True)
class Rounding(Map):
    """Replace every value by the nearest of `levels` equally spaced ones from `low` to `high`."""

    low: Number
    high: Number
    levels: int

    @property
    def step(self) -> float:
        return (self.high - self.low) / (self.levels - 1)

    def apply(self, activation: Activation) -> Activation:
        """Rounded; its gradient is that of the clipped values (straight-through), as rounding has none."""
        inside = self.smooth(activation)
        index = ((inside.detach() - self.low) / self.step).round()
        return (self.low + index * self.step) + (inside - inside.detach())

    def smooth(self, activation: Activation) -> Activation:
        return activation.clamp(self.low, self.high)

    def image(self, values: Values) -> Values:
        ends = torch.tensor([[values.low, values.high]], dtype=torch.float64)
        low, high = self.apply(ends)[0].tolist()
        l1 = values.l1 + values.dimension * self.step
        l2 = values.l2 + math.sqrt(values.dimension) * self.step
        return replace(values, low=low, high=high, l1=l1, l2=l2)

    def cells(
        self, heard: Float[Tensor, "q n *cut"]
    ) -> tuple[Float[Tensor, "q n *cut"], Float[Tensor, "q n *cut"]]:
        """Between which values lay what was rounded to this, in double precision; the outer levels take all beyond."""
        heard = heard.double()
        lower, upper = heard - self.step / 2, heard + self.step / 2
        infinity = torch.full_like(heard, math.inf)
        lower = torch.where(lower < self.low, -infinity, lower)
        return lower, torch.where(upper > self.high, infinity, upper)
