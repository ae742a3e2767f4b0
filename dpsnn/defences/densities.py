"""Noise that is added to every value by itself: how likely it is, and what it promises.

All of it is symmetrical about 0. Sums of independent noises are other noises, never sums of these.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dpsnn.defences.city_block import city_block
from dpsnn.defences.city_block import pace as city_block_pace
from dpsnn.defences.values import Values
from dpsnn.errors import NoLikelihood
from dpsnn.metrics.naming import gaussian_power, laplace_power, pairwise_naming
from dpsnn.metrics.privacy import TRANSMISSION_DELTA, gaussian_epsilon, laplace_epsilon
from dpsnn.tensors import Number

Guarantee = tuple[float, float | None]
"""ε, infinite where nothing is guaranteed, and δ: None where the guarantee is pure, or none."""

FAR = 1000
"""In standard deviations: what lies further out than something has, compared with it, no mass in double precision."""

IN_CACHE = 2**19
"""Differences of values that are taken at a time, where every row meets every other."""


def in_pairs(
    measure: Callable[[Tensor, Tensor], Tensor],
    known: Float[Tensor, "m d"],
    heard: Float[Tensor, "q n d"],
) -> Float[Tensor, "n m"]:
    """A measure of single values, taken of every row heard and every row known, summed over values and transmissions.

    Args:
        measure: Known values, and heard ones → one number for each.
        known: Activations.
        heard: All transmissions of other ones.
    """
    rows = max(1, IN_CACHE // max(1, known.numel()))
    columns = max(1, IN_CACHE // max(1, known.shape[1]))
    found = heard.new_empty(heard.shape[1], len(known))
    for start in range(0, len(found), rows):
        for at in range(0, len(known), columns):
            block = known[at : at + columns]
            found[start : start + rows, at : at + columns] = sum(
                measure(block, said.unsqueeze(1)).sum(2) for said in heard[:, start : start + rows]
            )
    return found


class Noise(ABC):
    """Independent additive noise of one distribution."""

    random = True
    in_cells: ClassVar[float] = 150.0
    """Nanoseconds, about, that a core takes for the mass of a cell; as all that follow, measured beside one another."""

    @property
    @abstractmethod
    def spread(self) -> Number:
        """Its standard deviation, or another length that goes with it."""

    @abstractmethod
    def misfit(self, residual: Tensor) -> Tensor:
        """-ln of its density, up to a constant."""

    def pairwise(
        self, known: Float[Tensor, "m d"], heard: Float[Tensor, "q n d"]
    ) -> Float[Tensor, "n m"]:
        """`misfit` of all rows heard to all rows known, summed over values and transmissions."""
        return in_pairs(lambda mapped, said: self.misfit(said - mapped), known, heard)

    def pace(self, pairs: int) -> float:
        """Nanoseconds, about, that `pairwise` takes on a core for each of so many pairs of values that meet."""
        return 60.0

    @abstractmethod
    def log_tail(self, distance: Tensor) -> Tensor:
        """ln P(noise > distance), for distances from 0, in their precision."""

    def guarantee(
        self, values: Values, queries: int = 1, delta: Number = TRANSMISSION_DELTA
    ) -> Guarantee:
        """What it promises for `queries` transmissions of an activation out of `values`; nothing unless it says so."""
        return math.inf, None

    def naming(self, values: Values, candidates: Number, queries: int = 1) -> float:
        """How many of N equally likely inputs with activations in `values` anybody names, at most: what ε leaves."""
        epsilon, delta = self.guarantee(values, queries)
        return pairwise_naming(candidates, epsilon, delta or 0.0)

    def information(self) -> float:
        """Fisher information of a value for its shift; infinite unless it says so."""
        return math.inf

    def log_mass(self, lower: Tensor, upper: Tensor) -> Tensor:
        """ln P(lower < noise ≤ upper), accurate far out as well; one of the two may be infinite."""
        lower = torch.where(lower.isinf(), upper - FAR * self.spread, lower)
        upper = torch.where(upper.isinf(), lower + FAR * self.spread, upper)
        # Far above 0 the distribution function is 1, whatever the mass: look from the other side.
        above = lower + upper > 0
        lower, upper = torch.where(above, -upper, lower), torch.where(above, -lower, upper)
        log_upper = self._log_below(upper)
        return log_upper + (-torch.expm1(self._log_below(lower) - log_upper)).log()

    def _log_below(self, value: Tensor) -> Tensor:
        left, right = self.log_tail((-value).clamp(min=0)), self.log_tail(value.clamp(min=0))
        return torch.where(value <= 0, left, torch.log1p(-right.exp()))


@dataclass(frozen=True)
class Laplace(Noise):
    """Laplace(0, scale), with the density `exp(-|x|/scale) / 2 scale`."""

    scale: Number
    in_cells: ClassVar[float] = 70.0

    @property
    def spread(self) -> Number:
        return self.scale

    def misfit(self, residual: Tensor) -> Tensor:
        return residual.abs() / self.scale

    def pairwise(
        self, known: Float[Tensor, "m d"], heard: Float[Tensor, "q n d"]
    ) -> Float[Tensor, "n m"]:
        total = city_block(heard[0], known)
        for said in heard[1:]:
            total += city_block(said, known)
        return total / self.scale

    def pace(self, pairs: int) -> float:
        return city_block_pace(pairs)

    def log_tail(self, distance: Tensor) -> Tensor:
        return -distance / self.scale - math.log(2)

    def guarantee(
        self, values: Values, queries: int = 1, delta: Number = TRANSMISSION_DELTA
    ) -> Guarantee:
        """k·ε without any δ: basic composition, which is attained."""
        return queries * laplace_epsilon(self.scale, values.apart_l1()), None

    def naming(self, values: Values, candidates: Number, queries: int = 1) -> float:
        """By the worst shifts: in a box that of all values to its bounds, in an L1 ball that of one value alone."""
        box, ball = values.radius() / self.scale, values.apart_l1() / 2 / self.scale
        return min(
            laplace_power(1 / candidates, box, values.dimension * queries),
            laplace_power(1 / candidates, ball, queries),
        )

    def information(self) -> float:
        return float(self.scale) ** -2


@dataclass(frozen=True)
class Gaussian(Noise):
    """N(0, std²)."""

    std: Number
    in_cells: ClassVar[float] = 160.0

    @property
    def spread(self) -> Number:
        return self.std

    def misfit(self, residual: Tensor) -> Tensor:
        return residual.pow(2) / (2 * self.std**2)

    def pairwise(
        self, known: Float[Tensor, "m d"], heard: Float[Tensor, "q n d"]
    ) -> Float[Tensor, "n m"]:
        # Σ|h - a|² = q|m - a|² + Σ|h - m|² with the mean m of the transmissions. The squares are multiplied out, which
        # in single precision would leave nothing of small ones.
        mean, rows = heard.double().mean(0), known.double()
        apart = (heard - mean).pow(2).sum((0, 2))
        squares = mean.pow(2).sum(1)[:, None] + rows.pow(2).sum(1) - 2 * mean @ rows.T
        total = len(heard) * squares.clamp(min=0) + apart[:, None]
        return (total / (2 * self.std**2)).to(heard.dtype)

    def pace(self, pairs: int) -> float:
        return 0.1

    def log_tail(self, distance: Tensor) -> Tensor:
        return torch.special.log_ndtr(-distance / self.std)

    def guarantee(
        self, values: Values, queries: int = 1, delta: Number = TRANSMISSION_DELTA
    ) -> Guarantee:
        """The exact curve at `delta`: averaging k transmissions divides the standard deviation by √k."""
        return gaussian_epsilon(self.std, values.apart_l2(queries), delta), float(delta)

    def naming(self, values: Values, candidates: Number, queries: int = 1) -> float:
        """Φ(Φ⁻¹(1/N) + √k·C/σ): k transmissions are one with √k times the shift."""
        return gaussian_power(1 / candidates, values.apart_l2(queries) / 2 / self.std)

    def information(self) -> float:
        return float(self.std) ** -2


SQUARES = Gaussian(1.0)
"""By whose density an activation explains the worse, the larger half its squared distance is."""


@dataclass(frozen=True)
class NormalLaplace(Noise):
    """The sum of Laplace(0, scale) and N(0, std²): Reed & Jorgensen 2004, equations 1 and 2 with α = β = 1/scale."""

    scale: Number
    std: Number
    in_cells: ClassVar[float] = 450.0

    @property
    def spread(self) -> Number:
        return math.hypot(self.scale, self.std)

    def pace(self, pairs: int) -> float:
        return 120.0

    def misfit(self, residual: Tensor) -> Tensor:
        # In single precision two large numbers would leave nothing of their difference where s is far above b.
        b, s, exact = self.scale, self.std, residual.double()
        tails = (
            sign * exact / b + torch.special.log_ndtr(-sign * exact / s - s / b) for sign in (1, -1)
        )
        # So would the constant, were it left in.
        return (-torch.logaddexp(*tails) - (s / b) ** 2 / 2).to(residual.dtype)

    def log_tail(self, distance: Tensor) -> Tensor:
        # Φ(-z) - e^(r²/2)/2 (e^(rz) Φ(-z-r) - e^(-rz) Φ(z-r)) for z = distance/s and r = s/b; the first two of the
        # three are taken together, as the second is at most half the first.
        z, ratio = distance / self.std, self.std / self.scale
        normal = torch.special.log_ndtr(-z)
        near, far = (
            ratio * (ratio / 2 + sign * z) + torch.special.log_ndtr(-sign * z - ratio)
            for sign in (1, -1)
        )
        return torch.logaddexp(
            normal + torch.log1p(-(near - normal).clamp(max=0).exp() / 2), far - math.log(2)
        )


@dataclass(frozen=True)
class TwoLaplaces(Noise):
    """The sum of Laplace(0, scale) and of narrower, or equally wide, Laplace(0, narrow)."""

    scale: Number
    narrow: Number
    in_cells: ClassVar[float] = 85.0

    @property
    def spread(self) -> Number:
        return self.scale

    def pace(self, pairs: int) -> float:
        return 10.0

    def _reach(self, distance: Tensor) -> Tensor:
        """(1 - e^(-d·t)) / d with d = 1/narrow - 1/scale, which is t for equal scales."""
        d = 1 / self.narrow - 1 / self.scale
        return -torch.expm1(-d * distance) / d if d else distance

    def misfit(self, residual: Tensor) -> Tensor:
        # The density is (b e^(-|x|/b) - c e^(-|x|/c)) / 2(b² - c²), written without its difference.
        distance = residual.abs()
        return distance / self.scale - torch.log1p(self._reach(distance) / self.scale)

    def log_tail(self, distance: Tensor) -> Tensor:
        share = self.narrow / self.scale / (self.scale + self.narrow)
        return -distance / self.scale - math.log(2) + torch.log1p(share * self._reach(distance))


def merged(noises: Iterable[Noise]) -> list[Noise]:
    """The same noises in any order, all Gaussian ones as one: their variances add."""
    noises = list(noises)
    others = [noise for noise in noises if not isinstance(noise, Gaussian)]
    stds = [noise.std for noise in noises if isinstance(noise, Gaussian)]
    return [*others, Gaussian(math.hypot(*stds))] if stds else others


def convolved(noises: Iterable[Noise]) -> Noise:
    """The distribution of their sum, where it has a closed form.

    Raises:
        NoLikelihood: If it has none.
    """
    match merged(noises):
        case [noise]:
            return noise
        case [Laplace(scale), Gaussian(std)]:
            return NormalLaplace(scale, std)
        case [Laplace(first), Laplace(second)]:
            return TwoLaplaces(max(first, second), min(first, second))
        case several:
            raise NoLikelihood(f"the sum of {' and '.join(map(str, several))} has no density here")
