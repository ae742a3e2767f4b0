"""What a mechanism guarantees: ε of transmissions with noise on the wire, and ε of a training with DP-SGD.

The first is local differential privacy of an input that is sent. Nothing is guaranteed where the client's output is
unbounded. The second protects the examples of the training set, and nobody else.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import erfcx, ndtri_exp

from dpsnn.errors import UsageError
from dpsnn.metrics.accountants import (
    History,
    NotComputable,
    classic_epsilon,
    gdp_ratio,
    least_epsilon,
    prv_epsilon,
    rdp_epsilon,
)
from dpsnn.tensors import Number

TRANSMISSION_DELTA = 1e-5
"""δ at which ε of Gaussian noise on the wire is given."""


def _check_delta(delta: Number) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta}; it must lie between 0 and 1")


def laplace_epsilon(scale: Number, sensitivity: Number) -> float:
    """ε of adding Laplace(0, scale) to every value of a vector: sensitivity / scale (Dwork et al. 2006).

    Args:
        scale: b of the Laplace distribution, 0 or more.
        sensitivity: Largest L1 distance of two vectors: 1000 for 500 tanh outputs; infinite where nothing limits it.

    Returns:
        ε, infinite without noise or limit.
    """
    return _ratio(sensitivity, scale)


def _ratio(sensitivity: Number, noise: Number) -> float:
    """Sensitivity over noise; infinite without noise, or beyond the largest number, but 0 where nothing can differ."""
    if sensitivity == 0:
        return 0.0
    if noise == 0:
        return math.inf
    with np.errstate(over="ignore"):
        return float(np.float64(sensitivity) / noise)


def gaussian_epsilon(std: Number, sensitivity: Number, delta: Number = TRANSMISSION_DELTA) -> float:
    """ε at `delta` of adding N(0, std²) to every value of a vector.

    The exact curve of Balle & Wang 2018 (arXiv 1805.06530), Theorem 8; the classic √(2 ln(1.25/δ)) formula is invalid
    above ε = 1. Of k transmissions of one input nothing is lost by averaging them: √k times the sensitivity of one.

    Args:
        std: Standard deviation, 0 or more.
        sensitivity: Largest L2 distance of two vectors: 2·√500 for 500 tanh outputs; infinite where nothing limits it.
        delta: δ in (0, 1).

    Returns:
        ε, infinite without noise or limit.
    """
    return _gaussian_curve(_ratio(sensitivity, std), delta)


def _gaussian_curve(ratio: Number, delta: Number) -> float:
    """ε of a Gaussian mechanism with `ratio` = L2 sensitivity / standard deviation, exactly.

    With r the ratio and ε = r x + r² / 2, Balle & Wang's Φ(r/2 - ε/r) - e^ε Φ(-r/2 - ε/r) is φ(x) (m(x) - m(x + r)),
    where m = Φ(-x) / φ(x) is Mills' ratio: nothing overflows, and little cancels.

    Args:
        ratio: 0 or more.
        delta: δ in (0, 1).
    """
    _check_delta(delta)
    if ratio == 0 or math.isinf(ratio):
        return float(ratio)
    # δ(x) < Φ(-x) above, and below x = -10 even δ(0.999...) lies.
    low, high = max(-ratio / 2, -10.0), float(-ndtri_exp(math.log(delta)))
    if low >= high or _log_delta(low, ratio) <= math.log(delta):
        return 0.0
    x = brentq(lambda x: _log_delta(x, ratio) - math.log(delta), low, high, xtol=1e-14)
    return max(0.0, ratio * (x + ratio / 2))


def _log_delta(x: float, ratio: Number) -> float:
    """ln(φ(x) (m(x) - m(x + ratio))); a short step from x to x + ratio is integrated: -m'(s) = 1 - s m(s)."""
    if ratio < 0.5:
        nodes, weights = np.polynomial.legendre.leggauss(16)
        at = x + ratio * (nodes + 1) / 2
        difference = ratio / 2 * float(weights @ (1 - at * _mills(at)))
    else:
        difference = float(_mills(x) - _mills(x + ratio))
    return -(x**2) / 2 - math.log(2 * math.pi) / 2 + math.log(difference)


def _mills(x: float | NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(math.sqrt(math.pi / 2) * erfcx(np.asarray(x) / math.sqrt(2)))


# ---------------------------------------------------------------- DP-SGD


class Unaccounted(UsageError):
    """An accountant has no ε for a training that holds; `reason` says why, and what ε is at least."""

    def __init__(self, accountant: str, reason: str, least: float) -> None:
        self.reason = f"cannot be computed ({reason})"
        if least:
            self.reason += f", it is at least {least:.4g}"
        super().__init__(
            f"epsilon by {accountant} {self.reason}; choose another accountant or more noise"
        )


def dp_sgd_epsilon(history: History, delta: Number, accountant: str = "rdp") -> float:
    """ε at `delta` of DP-SGD with Poisson sampling.

    Neighbours differ by the presence of one example. Where every example takes part in every step (rate 1) the whole is
    a single Gaussian mechanism, whose ε is exact under any accountant's name.

    Args:
        history: What was done: noise multiplier, rate at which each example was drawn, steps, which may be 0.
        delta: δ in (0, 1).
        accountant: `rdp` and `prv` are upper bounds, prv the tighter; `gdp` is approximate and can be too low;
            `classic` counts as many older publications did, and is looser than `rdp`.

    Returns:
        ε; infinite without noise.

    Raises:
        Unaccounted: If the accountant has no value that holds.
        ValueError: If an argument is out of range; for `gdp` if the parts differ in noise or rate.
    """
    _check_delta(delta)
    for noise, rate, steps in history:
        if not (noise >= 0 and 0 <= rate <= 1 and steps >= 0):
            raise ValueError(f"no training has noise {noise}, rate {rate} and {steps} steps")
    # What draws nothing reveals nothing.
    history = [part for part in history if part[1] > 0 and part[2] > 0]
    if not history:
        return 0.0
    if min(noise for noise, _, _ in history) == 0:
        return math.inf
    try:
        found = _accounted(history, delta, accountant)
        if not found < math.inf:
            raise NotComputable("it is beyond the largest number")
    except NotComputable as error:
        raise Unaccounted(accountant, str(error), least_epsilon(history, delta)) from error
    return found


def _accounted(history: History, delta: Number, accountant: str) -> float:
    if accountant == "classic":
        return classic_epsilon(history, delta)
    if all(rate == 1 for _, rate, _ in history):
        return _gaussian_curve(math.sqrt(sum(n / noise / noise for noise, _, n in history)), delta)
    if accountant == "gdp":
        return _gaussian_curve(gdp_ratio(history), delta)
    return {"rdp": rdp_epsilon, "prv": prv_epsilon}[accountant](history, delta)


@lru_cache
def dp_sgd_noise_multiplier(
    target_epsilon: Number, rate: Number, steps: int, delta: Number, accountant: str = "rdp"
) -> float:
    """The least noise multiplier (within one per thousand) with which a training stays below `target_epsilon`.

    Noise for which the accountant has no value does not count as enough.

    Raises:
        ValueError: If even 10,000 times the clip norm is not enough.
    """
    refused = ""

    def within(noise: float) -> bool:
        nonlocal refused
        try:
            return dp_sgd_epsilon([(noise, rate, steps)], delta, accountant) <= target_epsilon
        except Unaccounted as error:
            refused = f"; at that noise it {error.reason}"
            return False

    low, high = 0.1, 1.0
    while not within(high):
        low, high = high, high * 2
        if high > 10_000:
            raise ValueError(
                f"no noise multiplier below 10,000 reaches epsilon {target_epsilon}{refused}"
            )
    while low < 1 and within(low):
        low, high = low / 2, low
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
    """The most steps with which a training stays within `target_epsilon`, and can be shown to; at most 2³⁰."""

    def within(steps: int) -> bool:
        try:
            spent = dp_sgd_epsilon([(noise_multiplier, rate, steps)], delta, accountant)
        except Unaccounted:
            return False
        return spent <= target_epsilon

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
