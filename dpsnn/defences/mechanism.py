"""What crosses the wire as a whole: how likely it is for an activation, and what is promised to who sends it.

A mechanism is the ordered list of steps that all defences make. It alone can answer: densities of independent noises
do not add, and noise cannot know that a clip came before it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from jaxtyping import Float
from torch import Tensor

from dpsnn.defences.densities import SQUARES, Guarantee, Noise, convolved, in_pairs, merged
from dpsnn.defences.values import Cells, Map, Values
from dpsnn.errors import NoLikelihood
from dpsnn.metrics.misfit import relative_misfit
from dpsnn.metrics.privacy import TRANSMISSION_DELTA
from dpsnn.tensors import Activation, Number


@dataclass(frozen=True)
class Unknown:
    """A step that does not say what it does: nothing is known of what it gives, and nothing is promised for it."""

    name: str
    random = True

    def __str__(self) -> str:
        return self.name

    def image(self, values: Values) -> Values:
        return Values(values.dimension)


Step = Map | Noise | Unknown


def misfit(
    steps: Sequence[Step], activation: Activation, heard: Float[Tensor, "q n *cut"]
) -> Float[Tensor, " n"]:
    """How badly an activation explains q transmissions of it; the minimum is the most likely activation.

    With noise the negative logarithm of its density, or, where it was rounded, of its mass, up to a constant, summed
    over transmissions and averaged over values. Maps before the noise are applied to the activation, which is exact.
    Without noise, `relative_misfit` of the mapped activation.

    Where one of these maps has a `smooth` of its own, as rounding has, the value is exact, but the gradient is that of
    the smooth one. (The other straight-through gradient, that at the rounded values, is flat within a level: its
    attacker does worse than one who knows nothing.)

    Raises:
        NoLikelihood: If the steps are not maps, then at most two kinds of noise, then at most one rounding.
    """
    before, noises, rounding = _in_order(steps)
    exact = smooth = activation
    for step in before:
        exact, smooth = step.apply(exact), step.smooth(smooth)
    value = _unexplained(exact, noises, rounding, heard)
    if all(type(step).smooth is Map.smooth for step in before):
        return value
    slope = _unexplained(smooth, noises, rounding, heard)
    return value.detach() + (slope - slope.detach())


def _unexplained(
    mapped: Tensor, noises: Sequence[Noise], rounding: Cells | None, heard: Tensor
) -> Tensor:
    if not noises:
        return relative_misfit(mapped, heard)
    noise = convolved(noises)
    if rounding is None:
        values = noise.misfit(heard - mapped)
    else:
        lower, upper = (edge - mapped for edge in rounding.cells(heard))
        values = -noise.log_mass(lower, upper).to(heard.dtype)
    return values.flatten(2).mean(2).sum(0)


def pairwise(
    steps: Sequence[Step], known: Float[Tensor, " m *cut"], heard: Float[Tensor, "q n *cut"]
) -> Float[Tensor, "n m"]:
    """How badly each of m activations explains q transmissions of each of n others, without gradients.

    With noise -ln of its density, or of its mass where it was rounded, up to a constant of each row; in nats, and hence
    summed over values as over transmissions, where `misfit` is the mean over values. Without noise half the squared
    distance, as of Gaussian noise of standard deviation 1.

    Raises:
        NoLikelihood: As `misfit`.
    """
    before, noises, rounding = _in_order(steps)
    for step in before:
        known = step.apply(known)
    known, heard = known.flatten(1), heard.flatten(2)
    noise = convolved(noises) if noises else SQUARES
    if rounding is None or _is_fine(rounding, noise, heard):
        return noise.pairwise(known, heard)

    def unexplained(mapped: Tensor, said: Tensor) -> Tensor:
        lower, upper = (edge - mapped for edge in rounding.cells(said))
        return -noise.log_mass(lower, upper)

    return in_pairs(unexplained, known, heard)


FINE = 1 / 64
"""Of the noise's spread: a cell no wider has, in nats, a mass that differs from width times density by (1/64)²/24."""


def _is_fine(rounding: Cells, noise: Noise, heard: Tensor) -> bool:
    """Whether rounding only takes a constant from each row, the width of its cells, as wires of 16 bits do."""
    lower, upper = rounding.cells(heard)
    return bool((upper - lower).amax() <= FINE * noise.spread)


def pace(steps: Sequence[Step], activation: Activation) -> float:
    """Nanoseconds, about, that `pairwise` takes on a core for each pair of values that meet.

    Raises:
        NoLikelihood: As `misfit`, and where there is no noise.
    """
    _, noises, rounding = _in_order(steps)
    if not noises:
        raise NoLikelihood("no noise crosses the wire")
    noise = convolved(noises)
    furthest = activation.abs().max() + 10 * noise.spread
    if rounding is None or _is_fine(rounding, noise, furthest.view(1, 1, 1)):
        return noise.pace(len(activation) * activation.numel())
    return noise.in_cells


def _in_order(steps: Sequence[Step]) -> tuple[list[Map], list[Noise], Cells | None]:
    before: list[Map] = []
    noises: list[Noise] = []
    rounding: Cells | None = None
    for step in steps:
        if isinstance(step, Noise) and rounding is None:
            noises.append(step)
        elif isinstance(step, Map) and not noises:
            before.append(step)
        elif isinstance(step, Cells) and rounding is None:
            rounding = step
        else:
            after = "" if isinstance(step, Unknown) else f" after {rounding or noises[-1]}"
            raise NoLikelihood(f"the density of what {step}{after} gives is not known")
    return before, noises, rounding


def guarantee(
    steps: Iterable[Step],
    values: Values,
    queries: int = 1,
    delta: Number = TRANSMISSION_DELTA,
) -> Guarantee:
    """Local differential privacy of sending an activation out of `values` so often, each time with fresh noise.

    Each noise alone suffices, so the smallest ε holds: what comes after it is post-processing, and what was drawn
    before it only moves the set that it hides, whatever was drawn. A map after noise meets a moved set, hence all that
    is known is what the map makes of any.
    """
    hidden, told = _hidden(steps, values)
    found = [noise.guarantee(values, queries, delta) for noise, values in hidden]
    # Without noise either nothing can differ or all is told.
    found.append((0.0 if told.apart_l1() == 0 else math.inf, None))
    return min(found, key=lambda each: (each[0], each[1] or 0.0))


def naming(steps: Iterable[Step], values: Values, candidates: Number, queries: int = 1) -> float:
    """The share of N equally likely inputs with activations in `values` that anybody can name, at most: 1/N to 1.

    Each noise alone suffices here too. See docs/guarantees.md.
    """
    hidden, told = _hidden(steps, values)
    found = [noise.naming(values, candidates, queries) for noise, values in hidden]
    return max(1 / candidates, min(found, default=1.0) if told.apart_l1() else 0.0)


def information(steps: Sequence[Step]) -> float:
    """Fisher information, at most, of one value that is sent once for that value before the noise.

    Of two noises 1/(1/I + 1/J) (Stam 1959); rounding afterwards only takes some of it.

    Raises:
        NoLikelihood: If the steps are in no such order, or a map before the noise has no gradient of its own.
    """
    before, noises, _ = _in_order(steps)
    for step in before:
        if type(step).smooth is not Map.smooth:
            raise NoLikelihood(f"what {step} gives has no derivative")
    return 1 / sum(1 / noise.information() for noise in noises) if noises else math.inf


def _hidden(steps: Iterable[Step], values: Values) -> tuple[list[tuple[Noise, Values]], Values]:
    """Each noise with the set that it hides; and the set of what is sent, as far as it is known."""
    found: list[tuple[Noise, Values]] = []
    moved = False
    for noisy, group in groupby(steps, lambda step: isinstance(step, Noise)):
        if noisy:
            noises = merged(step for step in group if isinstance(step, Noise))
            found += [(noise, values) for noise in noises]
            moved = True
            continue
        for step in group:
            assert not isinstance(step, Noise)
            values = step.image(Values(values.dimension) if moved else values)
            moved = False
    return found, values
