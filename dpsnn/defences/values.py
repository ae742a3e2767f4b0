"""The set in which the values on the wire lie, and what deterministic steps make of it.

Noise is worth what it is in proportion to the distance of the furthest two inputs, so a guarantee needs the set.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpsnn.tensors import Activation, Number

RANGES = {
    nn.Tanh: (-1.0, 1.0),
    nn.Softsign: (-1.0, 1.0),
    nn.Sigmoid: (0.0, 1.0),
    nn.Hardsigmoid: (0.0, 1.0),
    nn.Softmax: (0.0, 1.0),
}
"""Between what the outputs of a layer lie, whatever its input."""

KEEPING = (nn.Identity, nn.Dropout)
"""Layers behind which, in evaluation, values are what they were."""

MOVING = (nn.Flatten, nn.Unflatten)
"""Layers behind which they are so too, but elsewhere: it is not known along which axis they added up to 1."""


def as_made(layer: nn.Module) -> bool:
    """Whether a layer does what its class says: nothing is hooked on it, and no forward of its own was given to it."""
    return not (layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer))


@dataclass(frozen=True)
class Values:
    """Where the values of one activation lie: in a box and in balls in L1 and in L2, each with a centre of its own."""

    dimension: int
    """Number of values."""
    low: Number = -math.inf
    high: Number = math.inf
    """Each value lies in [low, high]."""
    l1: Number = math.inf
    l2: Number = math.inf
    """Twice the radius of a ball that holds them: two of them are at most so far apart."""

    @classmethod
    def behind(
        cls, layer: nn.Module, shape: Sequence[int], bound: Number | None = None
    ) -> "Values":
        """Where a client's output lies: within ±bound, and where its last layer puts it, if its kind tells that.

        Args:
            layer: The client, or its last layer.
            shape: Of one activation.
            bound: Largest absolute value, where something else limits it.
        """
        dimension, limit = math.prod(shape), math.inf if bound is None else bound
        layer, moved = _last(layer)
        low, high = RANGES.get(type(layer), (-limit, limit))
        if type(layer) in (nn.Hardtanh, nn.ReLU6):
            assert isinstance(layer, nn.Hardtanh)  # as ReLU6 is
            low, high = layer.min_val, layer.max_val
        l1 = math.inf
        if type(layer) is nn.Softmax and layer.dim and not moved:
            # Along one axis they add up to 1, at every place of the others.
            l1 = 2.0 * dimension / (1, *shape)[layer.dim]
        return cls(dimension, max(low, -limit), min(high, limit), l1=l1)

    @classmethod
    def around(cls, activations: Activation) -> "Values":
        """A box and small balls around these very activations: what rests on them holds for no others."""
        rows = activations.flatten(1)
        centre = rows.mean(0)
        for turn in range(
            1, 101
        ):  # Bădoiu & Clarkson 2003: the centre goes to the furthest point, ever less
            furthest = (rows - centre).pow(2).sum(1).argmax()
            centre = centre + (rows[furthest] - centre) / (turn + 1)
        rows = rows.double()
        return cls(
            rows.shape[1],
            float(rows.min()),
            float(rows.max()),
            l1=2 * float((rows - rows.median(0).values).abs().sum(1).max()),
            l2=2 * float((rows - centre).norm(dim=1).max()),
        )

    def radius(self) -> float:
        """Half the width of the box."""
        return float(self.high - self.low) / 2

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


def _last(layer: nn.Module) -> tuple[nn.Module, bool]:
    """The layer that made the values which another, that may be a sequence, gives; and whether they moved since."""
    moved = False
    for each in _backwards(layer):
        if not as_made(each):
            break
        if type(each) not in (*KEEPING, *MOVING):
            return each, moved
        moved |= type(each) in MOVING
    return nn.Identity(), moved


def _backwards(layer: nn.Module) -> Iterator[nn.Module]:
    # Whoever calls its layers in another way may do anything behind the last.
    ours = isinstance(layer, nn.Sequential) and type(layer).forward is nn.Sequential.forward
    if ours and as_made(layer):
        assert isinstance(layer, nn.Sequential)
        for each in reversed(layer):
            yield from _backwards(each)
    else:
        yield layer


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
        # Infinity and NaN would be heard through any noise. Squares of the largest numbers fit double precision alone.
        activation = activation.nan_to_num(0.0)
        norms = activation.flatten(1).double().norm(dim=1).clamp(min=torch.finfo(torch.float).tiny)
        factor = (self.radius / norms).clamp(max=1).to(activation.dtype)
        return activation * factor.view(-1, *[1] * (activation.dim() - 1))

    def image(self, values: Values) -> Values:
        # It is a projection, hence brings no two points further apart in L2; in L1 it may.
        l2 = min(values.l2, 2 * self.radius)
        if not values.low <= 0 <= values.high:  # towards 0 means out of such a box
            return Values(values.dimension, -self.radius, self.radius, l2=l2)
        low, high = max(values.low, -self.radius), min(values.high, self.radius)
        return Values(values.dimension, low, high, l2=l2)


@dataclass(frozen=True)
class Clamp(Map):
    """Move every value outside [-radius, radius] to its nearer end: a clip to an L∞ ball."""

    radius: Number

    def apply(self, activation: Activation) -> Activation:
        return activation.nan_to_num(0.0).clamp(-self.radius, self.radius)

    def image(self, values: Values) -> Values:
        # No two values come further apart.
        low, high = (min(max(end, -self.radius), self.radius) for end in (values.low, values.high))
        return replace(values, low=low, high=high)


@dataclass(frozen=True)
class Cells(Map):
    """A rounding: of what comes out it is known between which values it lay, so that it may follow noise."""

    def cells(
        self, heard: Float[Tensor, "q n *cut"]
    ) -> tuple[Float[Tensor, "q n *cut"], Float[Tensor, "q n *cut"]]:
        """The ends of each, in double precision; they may be infinite."""
        raise NotImplementedError


@dataclass(frozen=True)
class Rounding(Cells):
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
