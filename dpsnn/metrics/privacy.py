"""What noise on the wire guarantees: ε of one transmission under local differential privacy.

Sent k times, one input costs k·ε (basic composition). Nothing is guaranteed where the client's output is unbounded.
"""

import math

from scipy.optimize import brentq
from scipy.special import log_ndtr

from dpsnn.tensors import Number


def laplace_epsilon(scale: Number, dimension: int, bound: Number | None) -> float:
    """ε of adding Laplace(0, scale) to each of `dimension` values in [-bound, bound].

    Any two inputs differ by at most 2·bound·dimension in L1, so ε = 2·bound·dimension / scale (Dwork, McSherry, Nissim
    & Smith 2006). 500 tanh outputs give 1000/scale.

    Args:
        scale: b of the Laplace distribution, 0 or more.
        dimension: Number of values sent.
        bound: Their largest absolute value; None where nothing limits it.

    Returns:
        ε, infinite without noise or bound.
    """
    if scale == 0 or bound is None:
        return math.inf
    return 2 * bound * dimension / scale


def gaussian_epsilon(
    std: Number, dimension: int, bound: Number | None, delta: Number = 1e-5
) -> float:
    """ε at `delta` of adding N(0, std²) to each of `dimension` values in [-bound, bound].

    The exact curve of Balle & Wang 2018 (arXiv 1805.06530), Theorem 8, with L2 sensitivity 2·bound·√dimension; the
    classic √(2 ln(1.25/δ)) formula is invalid above ε = 1.

    Returns:
        ε, infinite without noise or bound.
    """
    if std == 0 or bound is None:
        return math.inf
    ratio = 2 * bound * math.sqrt(dimension) / std

    def excess(epsilon: float) -> float:
        # log of Φ(r/2 - ε/r) - e^ε Φ(-r/2 - ε/r), minus log δ; logarithms because e^ε overflows.
        first = log_ndtr(ratio / 2 - epsilon / ratio)
        second = epsilon + log_ndtr(-ratio / 2 - epsilon / ratio)
        return float(first + math.log(-math.expm1(min(second - first, -1e-16))) - math.log(delta))

    if excess(0.0) <= 0:
        return 0.0
    upper = ratio**2 / 2 + ratio * 10 + 1
    return float(brentq(excess, 0.0, upper, xtol=1e-9 * upper, maxiter=500))


def transmission_epsilon(
    noise_scale: Number, gaussian_std: Number, dimension: int, bound: Number | None
) -> float:
    """ε of one transmission with either noise or both (each alone suffices, so the smaller holds)."""
    return min(
        laplace_epsilon(noise_scale, dimension, bound),
        gaussian_epsilon(gaussian_std, dimension, bound),
    )
