"""What a mechanism guarantees: ε of one transmission with noise on the wire, and ε of a training with DP-SGD.

The first is local differential privacy of an input that is sent. Sent k times, it costs k·ε (basic composition).
Nothing is guaranteed where the client's output is unbounded. The second protects the examples of the training set, and
nobody else.
"""

import math
import warnings
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
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
    return _gaussian_curve(2 * bound * math.sqrt(dimension) / std, delta)


def _gaussian_curve(ratio: float, delta: Number) -> float:
    """ε of a Gaussian mechanism with `ratio` = L2 sensitivity / standard deviation, exactly."""

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


# ---------------------------------------------------------------- DP-SGD

History = Sequence[tuple[float, float, int]]
"""Parts of a training: noise multiplier, rate at which each example is drawn, steps."""

CLASSIC_ORDERS = (1.25, 1.5, 1.75, 2, 2.25, 2.5, 3, 3.5, 4, 4.5, *range(5, 64), 128, 256, 512)
"""Rényi orders of TensorFlow Privacy's old command, with which many published values were made."""


def dp_sgd_epsilon(history: History, delta: Number, accountant: str = "rdp") -> float:
    """ε at `delta` of DP-SGD with Poisson sampling, by one of opacus' accountants.

    Neighbours differ by the presence of one example. Where every example takes part in every step (rate 1) the whole is
    a single Gaussian mechanism, whose ε is exact under any accountant's name.

    Args:
        history: What was done; steps may be 0.
        delta: δ in (0, 1).
        accountant: One of `dpsnn.specs.ACCOUNTANTS`, or `classic`: Rényi orders and conversion
            (ε = RDP - ln δ / (α - 1), Mironov 2017) as in many older publications; looser than `rdp`.

    Returns:
        ε; infinite without noise.

    Raises:
        ValueError: For `gdp` if the parts differ in noise or rate.
    """
    history = [part for part in history if part[2] > 0]
    if not history:
        return 0.0
    if min(noise for noise, _, _ in history) == 0:
        return math.inf
    if accountant == "classic":
        return _classic_epsilon(history, delta)
    if all(rate == 1 for _, rate, _ in history):
        return _gaussian_curve(math.sqrt(sum(n / noise**2 for noise, _, n in history)), delta)
    if accountant == "gdp" and len(set(part[:2] for part in history)) > 1:
        raise ValueError("gdp cannot add up parts of different noise or rate; use rdp or prv")
    # Importing opacus takes seconds, which only those should wait who train privately.
    from opacus.accountants import RDPAccountant, create_accountant
    from opacus.accountants.analysis.rdp import get_privacy_spent

    with warnings.catch_warnings():
        # That gdp is approximate stands above; an order at the edge of rdp's range makes ε too large at worst.
        warnings.simplefilter("ignore")
        if accountant == "rdp":
            orders = tuple(RDPAccountant.DEFAULT_ALPHAS)
            return float(
                get_privacy_spent(orders=orders, rdp=_rdp(history, orders), delta=delta)[0]
            )
        made = create_accountant(accountant)
        made.history = list(history)
        try:
            return float(made.get_epsilon(delta))
        except ValueError:
            # gdp looks for ε between 0 and 500 only.
            if accountant == "gdp":
                return math.inf
            raise


def _classic_epsilon(history: History, delta: Number) -> float:
    orders = np.asarray(CLASSIC_ORDERS)
    return float(np.min(_rdp(history, CLASSIC_ORDERS) - math.log(delta) / (orders - 1)))


def _rdp(history: History, orders: tuple[Number, ...]) -> NDArray[np.float64]:
    """Rényi DP of a training at each order: that of its steps adds up (Mironov 2017)."""
    parts = [steps * _rdp_of_step(noise, rate, orders) for noise, rate, steps in history]
    return np.sum(parts, axis=0)


@lru_cache(maxsize=64)
def _rdp_of_step(noise: float, rate: float, orders: tuple[Number, ...]) -> NDArray[np.float64]:
    # Half a second; a training asks again after every epoch, and a search for the number of steps thirty times.
    from opacus.accountants.analysis.rdp import compute_rdp

    return np.asarray(compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=orders))


@lru_cache
def dp_sgd_noise_multiplier(
    target_epsilon: Number, rate: Number, steps: int, delta: Number, accountant: str = "rdp"
) -> float:
    """The least noise multiplier (within one per thousand) with which a training stays below `target_epsilon`.

    Raises:
        ValueError: If even 10,000 times the clip norm is not enough.
    """

    def within(noise: float) -> bool:
        return dp_sgd_epsilon([(noise, rate, steps)], delta, accountant) <= target_epsilon

    # The accountants struggle with hardly any noise; it would not protect anyhow.
    low, high = 0.1, 1.0
    while not within(high):
        low, high = high, high * 2
        if high > 10_000:
            raise ValueError(f"no noise multiplier below 10,000 reaches epsilon {target_epsilon}")
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if within(middle) else (middle, high)
    return high


def dp_sgd_steps(
    target_epsilon: Number,
    noise_multiplier: Number,
    rate: Number,
    delta: Number,
    accountant: str = "rdp",
) -> int:
    """The most steps with which a training stays within `target_epsilon`; at most 2³⁰."""

    def within(steps: int) -> bool:
        return (
            dp_sgd_epsilon([(noise_multiplier, rate, steps)], delta, accountant) <= target_epsilon
        )

    if not within(1):
        return 0
    low, high = 1, 2
    while high < 2**30 and within(high):
        low, high = high, high * 2
    if high >= 2**30:
        return 2**30
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if within(middle) else (low, middle)
    return low
