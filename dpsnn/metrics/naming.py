"""How often anybody can name the right one of N inputs: bounds for Gaussian and for Laplace noise on what is sent.

All follow from one number: how often a test that is wrong with probability `level` where noise alone was heard is right
where the noise was shifted. With `level` 1/N that is how often one of N equally likely inputs can be named whose values
are no further from a fixed centre than the shift; the proofs stand in docs/guarantees.md. (Balle, Cherubin & Hayes
2022, arXiv 2201.04845; Hayes, Mahloujifar & Balle 2023, arXiv 2302.07225; Kulynych et al. 2025, arXiv 2507.06969.)
"""

import math

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.special import ndtr, ndtri

from dpsnn.tensors import Number

GRID = 2**20
"""Points at which the sum of privacy losses is held, about: a tenth of a second."""

FINEST = 2000
"""Points of the loss of a single value to either side of 0; more change no digit that is shown."""

PLAIN = 50.0
"""A shift of a single value, in scales of the Laplace noise, from which on it may be taken to be heard through it."""


def gaussian_power(level: Number, shift: Number) -> float:
    """Φ(Φ⁻¹(level) + shift): Neyman & Pearson's test for a shift of Gaussian noise, which lies in one direction.

    Args:
        level: How often it errs without the shift, in (0, 1].
        shift: L2 norm of the shift in standard deviations, 0 or more; √k times it where it is heard k times.
    """
    return float(ndtr(ndtri(level) + shift)) if math.isfinite(shift) else 1.0


def laplace_power(level: Number, shift: Number, times: int = 1) -> float:
    """The same for Laplace noise of `times` values, each of which is shifted by `shift` scales: an upper bound.

    Of one value the privacy loss ln(p/q) has in [-shift, shift] the hockey stick 1 - exp((ε - shift)/2) (Dwork et al.
    2006). It is drawn through points ε = jg by chords, which lie above it: so the pair of distributions on these points
    that has the chords for its own is easier to tell apart, and so is its `times`-fold sum (Doroshenko et al. 2022,
    arXiv 2207.04380). Of the best test for that sum the power is exact.

    Args:
        level: How often the test errs without the shift, in (0, 1].
        shift: Of every value, in scales b of the noise, 0 or more.
        times: Values, those of all transmissions together.
    """
    finest = min(FINEST, GRID // (2 * times))
    if shift >= PLAIN or not finest:
        return 1.0
    step = shift / finest
    place = np.arange(-finest, finest + 1)
    # The slope of the hockey stick over e^ε rises by the mass without the shift.
    mass = np.exp(-(shift + place * step) / 2) * math.tanh(step / 4)
    mass[0] = 1 / (1 + math.exp(-step / 2))
    mass[-1] = math.exp(-shift) * mass[0]
    size = 2 * finest * times + 1
    fast = next_fast_len(size, real=True)
    summed = np.maximum(irfft(rfft(mass, fast) ** times, fast)[:size], 0)
    # From the largest loss down; with the shift the loss is distributed as its negative is without.
    errs, right = summed[::-1], summed
    # What the transforms round away could be there.
    lost = size * 1e-15 if times > 1 else 0.0
    level += lost
    until = np.cumsum(errs)
    last = min(int(np.searchsorted(until, level)), size - 1)
    share = (level - until[last] + errs[last]) / errs[last] if errs[last] else 1.0
    return float(min(1.0, lost + right[:last].sum() + min(1.0, max(0.0, share)) * right[last]))


def pairwise_naming(candidates: Number, epsilon: Number, delta: Number = 0.0) -> float:
    """What (ε, δ) between any two inputs leaves of naming one of N: (e^ε + (N - 1) δ) / (e^ε + N - 1).

    Of N inputs, each as likely, let S be the sum of the probabilities with which each is named rightly. Each is at most
    e^ε times that of naming it where another was sent, plus δ. Summed over all pairs of two: (N - 1) S ≤ e^ε (N - S) +
    N (N - 1) δ. (Kulynych et al. 2025, arXiv 2507.06969, for N = 2.)
    """
    others = (candidates - 1) * math.exp(-epsilon)
    return min(1.0, (1 + others * delta) / (1 + others))
