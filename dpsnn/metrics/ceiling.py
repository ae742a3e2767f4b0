"""How accurate anybody can be who hears no more than a naming bound allows, and how much noise such a bound asks for.

Classes are named no more easily than inputs: a rule that tells K classes apart splits what can be heard into K sets,
and the argument that bounds how often one of N inputs is named bounds its accuracy, with the share of the largest class
in the place of 1/N. It holds for every server, whatever it has learnt; the proofs stand in docs/guarantees.md.
"""

import math
from collections.abc import Callable

from scipy.special import ndtr, ndtri

from dpsnn.errors import UsageError
from dpsnn.metrics.naming import gaussian_power
from dpsnn.tensors import Labels, Number

Named = Callable[[Number], float]
"""Noise → share of N inputs that anybody names at most, which falls as noise rises."""

FINE = 1e-3
"""Of the noise: by how much more than the least is named at most."""

FURTHEST = 2.0**60
"""Times the first guess: beyond that there is no noise that does."""


def largest_share(labels: Labels) -> float:
    """The share of the most frequent class; not a number where there are no labels."""
    return labels.bincount().max().item() / len(labels) if len(labels) else math.nan


def accuracy_ceiling(naming: Callable[[Number], float], largest: Number) -> float:
    """The share that any server classifies rightly, at most: Φ(Φ⁻¹(largest share) + √k·C/σ) for Gaussian noise.

    Args:
        naming: N → share of N equally likely inputs that anybody names, at most; N need be no whole number. Of Gaussian
            or Laplace noise: what a mere (ε, δ) leaves of classes of unequal shares is proven for δ = 0 alone.
        largest: The share of the most frequent class, in (0, 1].
    """
    return min(1.0, naming(1 / largest))


def promised_ceiling(share: Number, candidates: Number, largest: Number) -> float:
    """The same under Gaussian noise that lets nobody name more than `share` of N: neither the noise nor the set counts.

    "5 of 100 named among 1,000" leaves at most 56.5 % with ten balanced classes, and 92.6 % with two.

    Args:
        share: In (0, 1).
        candidates: N.
        largest: The share of the most frequent class.
    """
    return gaussian_power(largest, max(0.0, gaussian_shift(share, candidates)))


def gaussian_shift(share: Number, candidates: Number) -> float:
    """√k·C/σ at which Gaussian noise lets nobody name more than `share` of N."""
    return float(ndtri(share) - ndtri(1 / candidates))


def candidates_for(accuracy: Number, share: Number, largest: Number) -> float:
    """Of how many inputs a share may be named at least, if a server is to reach an accuracy behind Gaussian noise."""
    return float(1 / ndtr(ndtri(share) - (ndtri(accuracy) - ndtri(largest))))


def least_noise(named: Named, most: Number, start: Number = 1.0, fine: Number = FINE) -> float:
    """The least noise at which a share that falls as noise rises is at most `most`.

    Whatever is returned was tried: the promise rests on `named` of that noise alone, not on its falling.

    Args:
        named: As above.
        most: The share.
        start: A first guess, of any size above 0.
        fine: By which share of it the noise may be more than the least.

    Raises:
        UsageError: If no noise does.
    """
    low = high = float(start)
    while named(high) > most:
        low, high = high, 2 * high
        if high > FURTHEST * start:
            raise UsageError(
                f"no noise brings it down to {most:g}: ask for less, or bound what is sent by a clip"
            )
    while low == high or named(low) <= most:
        # Without any noise all is told, so this ends: unless nothing is told at all, and no noise is needed.
        low, high = low / 2, low
        if low < start / FURTHEST:
            return high
    while high > (1 + fine) * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if named(middle) <= most else (middle, high)
    return high
