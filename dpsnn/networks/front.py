"""What a decoder sees of the wire: values that a known function bent are straightened, and all are on one scale.

A linear layer does not see what a saturated function tells apart: two thirds of 500 tanh values lie beyond ±0.99, and
float32 keeps well what distinguishes them.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dpsnn.batches import average
from dpsnn.networks.resolution import resolution
from dpsnn.networks.ridge import PROBED, linear_error
from dpsnn.tensors import Activation, Images, Smashed

PAYS = 0.98
"""What a change must bring the squared error of a linear map on images held out below, as a share of it."""

HELD = 2 * 10**7
"""Values that are kept in memory for it."""

MANY = 10**6
"""Values off which the precision of the wire is read."""

SPARSE = 1 / 40
"""Of the range of a value: the least that is taken for its spread, where it hardly ever differs from its usual one."""

EVERYTHING = 1e300
"""Instead of infinity, which no checkpoint may hold."""

# ---------------------------------------------------------------- functions undone

Undo = Callable[[Tensor, "Bend"], Tensor]


class Bend(NamedTuple):
    """A function that may have bent the values: how it is undone, the ends of its range, and its slope below 0."""

    undo: Undo | None = None
    low: float = -EVERYTHING
    high: float = EVERYTHING
    slope: float = 1.0


def _sigmoid(values: Tensor, bend: Bend) -> Tensor:
    """Of a sigmoid, or a tanh: half the log odds."""
    return ((values - bend.low) / (bend.high - values)).log() / 2


def _softmax(values: Tensor, bend: Bend) -> Tensor:
    """Up to a constant of each row, which no softmax tells."""
    logs = values.log()
    return logs - logs.mean(1, keepdim=True)


def _leaky(values: Tensor, bend: Bend) -> Tensor:
    return torch.where(values < 0, values / bend.slope, values)


def _elu(values: Tensor, bend: Bend) -> Tensor:
    return torch.where(values < 0, values.clamp(max=0).log1p(), values)


def _softplus(values: Tensor, bend: Bend) -> Tensor:
    return values + (-torch.expm1(-values)).log()


def _exponential(values: Tensor, bend: Bend) -> Tensor:
    return values.log()


UNDOES: tuple[Undo | None, ...] = (
    None,
    _sigmoid,
    _softmax,
    _leaky,
    _elu,
    _softplus,
    _exponential,
)
"""As they are numbered in checkpoints."""


def _slope(values: Tensor) -> float:
    """How much a function is less steep below 0 than above: densities on both sides of a leaky ReLU tell."""
    above, below = values[values > 0], -values[values < 0]
    if min(len(above), len(below)) < PROBED:
        return 1.0
    ends = [side.kthvalue(max(1, len(side) // 20)).values for side in (below, above)]
    return float(ends[0] * len(above) / (ends[1] * len(below)))


def possible(values: Activation) -> Iterator[Bend]:
    """Every function that the values, before any noise, may have come out of."""
    low, high = float(values.min()), float(values.max())
    if low < 0 < high and 1e-4 < (slope := _slope(values[: 4 * PROBED])) < 0.9:
        yield Bend(_leaky, slope=slope)
    if -1 <= low < 0:
        yield Bend(_elu, -1.0)
    if low >= 0:
        yield Bend(_softplus, 0.0)
        yield Bend(_exponential, 0.0)
        if high <= 1 and bool(((values.flatten(1).sum(1) - 1).abs() < 0.01).all()):
            yield Bend(_softmax, 0.0, 1.0)
    for ends in dict.fromkeys(((0.0, 1.0), (-1.0, 1.0), (low, high))):
        if ends[0] <= low < high <= ends[1]:
            yield Bend(_sigmoid, *ends)


# ---------------------------------------------------------------- the module


class Way(NamedTuple):
    """One way to look at the wire."""

    bend: Bend = Bend()
    closed: bool = False
    """Whether no value is taken to lie beyond where it can without noise: behind Laplace noise all that is further out
    says the same, exactly."""
    each: bool = False
    """Whether that is done with every transmission by itself, and not with their mean."""


class Front(nn.Module):
    """Smashed tensor → as many values, straightened and standardised; it is no network, and is found in closed form.

    All that it knows it finds out on the attacker's own images. Values that never change there are dropped, and of
    others no more is taken in than a range around that of the own ones: no stranger makes a picture infinite.

    Args:
        shape: Of one smashed tensor.
    """

    bend: Tensor
    low: Tensor
    high: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        # What undoes it, by number, the ends of its range and its slope; and whether each transmission is straightened.
        self.register_buffer("bend", torch.zeros(5, dtype=torch.float64))
        for name in ("low", "high", "centre", "scale"):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def forward(self, transmissions: Iterable[Smashed]) -> Smashed:
        """From all transmissions of the same images."""
        if self.bend[4]:
            straight = average(self._straight(each) for each in transmissions)
        else:
            straight = self._straight(average(transmissions))
        return ((straight - self.centre) * self.scale).float()

    def _straight(self, smashed: Smashed) -> Tensor:
        """In double precision, which tells the ends of a range from what is near them."""
        values = smashed.double().clamp(self.low, self.high)
        number, low, high, slope = self.bend[:4].tolist()
        undo = UNDOES[int(number)]
        return undo(values, Bend(undo, low, high, slope)) if undo else values

    @torch.no_grad()
    def look(
        self,
        activation: Activation,
        hear: Callable[[Activation], Smashed],
        queries: int,
        images: Images,
    ) -> None:
        """Find out what bent the values, if undoing it pays, and on what scale they are.

        Args:
            activation: Of own images.
            hear: One transmission of it.
            queries: Transmissions of each image that will be heard.
            images: The own ones.
        """
        rows = min(4 * PROBED, max(2, HELD // (queries * activation[0].numel())))
        clean, wanted = activation[:rows], images[:rows].flatten(1).to(activation.device)
        heard = [hear(clean) for _ in range(queries)]
        spread = float((heard[0] - hear(clean)).std(correction=0)) / math.sqrt(2)

        def error(way: Way) -> float:
            self._set(way, clean, heard, spread)
            return linear_error(self(heard).flatten(1), wanted, max(1, len(wanted) // 4))

        noisy = (False, True) if spread else (False,)
        ways = product([Bend(), *possible(clean)], noisy, noisy if queries > 1 else (False,))
        errors = {way: error(way) for way in (Way(*each) for each in ways)}
        best = min(errors, key=lambda way: errors[way])
        self._set(best if errors[best] < PAYS * errors[Way()] else Way(), clean, heard, spread)

    def _set(self, way: Way, clean: Activation, heard: list[Smashed], spread: float) -> None:
        """Look at the wire in this way from now on.

        Args:
            way: Which.
            clean: Activations of own images.
            heard: Their transmissions.
            spread: Of the noise in one of them.
        """
        bend = way.bend
        known = [UNDOES.index(bend.undo), bend.low, bend.high, bend.slope, way.each]
        self.bend.copy_(torch.tensor(known, dtype=torch.float64))
        seen = (clean if way.closed else average(heard)).double()
        low, high = seen.amin(0), seen.amax(0)
        around = torch.zeros(()) if way.closed else high - low
        fine = resolution(heard[0].flatten()[:MANY])
        # What is nearer to an end than half of what the wire resolves cannot be told from it: one rounding moves no
        # row far, however steep the function is there.
        ends = (
            bend.low + max(fine.below(-bend.low), spread) / 2,
            bend.high - max(fine.below(bend.high), spread) / 2,
        )
        if ends[0] > ends[1]:
            # Noise as wide as the range leaves nothing to straighten; beyond it the function has no inverse.
            ends = (bend.low + bend.high) / 2, (bend.low + bend.high) / 2
        self.low.copy_((low - around).clamp(*ends))
        self.high.copy_((high + around).clamp(*ends))
        self.centre.zero_()
        self.scale.fill_(1)
        straight = self(heard).double()
        spreads = torch.maximum(
            straight.std(0, correction=0), SPARSE * (straight.amax(0) - straight.amin(0))
        )
        self.centre.copy_(straight.mean(0))
        self.scale.copy_(torch.where(spreads > 0, 1 / spreads, 0))
