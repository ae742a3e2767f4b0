"""How the steps of a DP-SGD training add up: Rényi DP, privacy losses composed numerically, and a bound from below.

All for the Poisson-subsampled Gaussian mechanism, with neighbours that differ by the presence of one example.
"""

import math
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, log_ndtr, logsumexp, ndtr
from scipy.stats import binom

from dpsnn.tensors import Number

History = Sequence[tuple[float, float, int]]
"""Parts of a training: noise multiplier above 0, rate in (0, 1] at which each example is drawn, steps."""

Values = NDArray[np.float64]

RDP_ORDERS = (*(1 + x / 10 for x in range(1, 100)), *range(12, 64))
"""Rényi orders of opacus."""

CLASSIC_ORDERS = (1.25, 1.5, 1.75, 2, 2.25, 2.5, 3, 3.5, 4, 4.5, *range(5, 64), 128, 256, 512)
"""Rényi orders of TensorFlow Privacy's old command, with which many published values were made."""


class NotComputable(ArithmeticError):
    """An accountant has no value that holds; the message is the reason."""


# ---------------------------------------------------------------- Rényi DP


def rdp_epsilon(history: History, delta: Number) -> float:
    """ε from Rényi DP, converted by Theorem 21 of Balle et al. 2020 (arXiv 1905.09982).

    Every order gives an upper bound, so that one at the edge of the range is no fault: the bound is only looser.
    """
    orders = np.asarray(RDP_ORDERS)
    found = _rdp(history, RDP_ORDERS) + np.log1p(-1 / orders)
    found -= (math.log(delta) + np.log(orders)) / (orders - 1)
    return max(0.0, float(np.min(found)))


def classic_epsilon(history: History, delta: Number) -> float:
    """ε from Rényi DP by ε = RDP - ln δ / (α - 1) (Mironov 2017), as in many older publications; looser."""
    orders = np.asarray(CLASSIC_ORDERS)
    return float(np.min(_rdp(history, CLASSIC_ORDERS) - math.log(delta) / (orders - 1)))


def _rdp(history: History, orders: tuple[Number, ...]) -> Values:
    """Rényi DP of a training at each order: that of its steps adds up (Mironov 2017)."""
    parts = [steps * _rdp_of_step(noise, rate, orders) for noise, rate, steps in history]
    return np.asarray(np.sum(parts, axis=0))


@lru_cache(maxsize=64)
def _rdp_of_step(noise: float, rate: float, orders: tuple[Number, ...]) -> Values:
    """Rényi DP of one step, with A the moment of Mironov, Talwar & Zhang 2019 (arXiv 1908.10530): ln A / (α - 1).

    Their series for fractional orders, which opacus sums, has terms of either sign and breaks down for small noise (no
    value, too small a value, or no end). The integrals are taken numerically here, of positive numbers.
    """
    with np.errstate(over="ignore", divide="ignore"):
        if rate == 1:
            return np.asarray(orders) / 2 / np.float64(noise) / noise
        whole = np.arange(1, math.ceil(max(orders)) + 1)
        moments = np.asarray([_log_moment(noise, rate, order) for order in whole.tolist()])
        # ln A is convex in α: between whole numbers it lies below the chord.
        found = np.interp(orders, whole, moments)
        fractions = [i for i, order in enumerate(orders) if order != int(order)]
        if fractions and noise >= 0.01:
            found[fractions] = _log_moments(noise, rate, np.asarray(orders)[fractions])
        return np.maximum(found, 0.0) / (np.asarray(orders) - 1)


def _log_moment(noise: float, rate: float, order: int) -> float:
    """ln A of a whole order: ln(1 + Σ binom(α, i) (1 - q)^(α - i) q^i (exp((i² - i) / 2σ²) - 1))."""
    if order == 1:
        return 0.0
    i = np.arange(2, order + 1)
    chance = gammaln(order + 1) - gammaln(i + 1) - gammaln(order - i + 1)
    chance += i * math.log(rate) + (order - i) * math.log1p(-rate)
    exponent = (i * i - i) / 2 / np.float64(noise) / noise
    terms = chance + exponent + np.log(-np.expm1(-exponent))
    return float(np.logaddexp(0.0, logsumexp(terms))) if np.isfinite(exponent[-1]) else math.inf


def _log_moments(noise: float, rate: float, orders: Values) -> Values:
    """ln A of any orders: ln E[(1 - q + q exp((2z - 1) / 2σ²))^α], z ~ N(0, σ²).

    By the trapezoidal rule, whose error for functions analytic in a strip falls exponentially: the strip reaches to
    ±iπσ, where the base vanishes, in units u = z / σ.
    """
    step = min(noise / 2, 0.25)
    u = np.arange(-12, orders.max() / noise + 12, step)
    base = np.logaddexp(math.log1p(-rate), math.log(rate) + (u - 0.5 / noise) / noise)
    scale = math.log(step / math.sqrt(2 * math.pi))
    return np.asarray([logsumexp(order * base - u**2 / 2) + scale for order in orders])


# ---------------------------------------------------------------- composed privacy losses

MAX_GRID = 2**22
"""Points on which privacy losses are composed; some ten arrays of this many floats are held at once."""

MAX_LOSS = 600.0
"""Largest privacy loss on the grid: e to it must be a number."""


def prv_epsilon(history: History, delta: Number) -> float:
    """ε by numerical composition (Gopi, Lee & Wutschitz 2021, arXiv 2106.02848), with opacus' implementation.

    The upper end of their error interval, 0.01 wide on either side; where a grid so fine would not fit into memory,
    0.1 or 0.5 wide.

    Raises:
        NotComputable: If no grid fits, or rounding would drown δ.
    """
    total = sum(steps for _, _, steps in history)
    delta_error = delta / 1000
    # Rounding of the Fourier transform, raised to a power, moves δ by about so much; opacus allows far more, and then
    # its ε can be too low.
    if np.finfo(float).eps * total > delta_error:
        raise NotComputable(
            f"rounding errors of {total:,} steps are not small beside delta {delta:g}"
        )
    # The domain of Gopi et al., Remark 5.6, as opacus has it, whose own search for it can fail or never end.
    reach = max(
        rdp_epsilon(history, delta_error / 4),
        *(rdp_epsilon([(noise, q, 1)], delta_error / (8 * total)) for noise, q, _ in history),
    )
    if not reach + 3 < MAX_LOSS:
        raise NotComputable("privacy losses are too large for their exponentials")
    for error in (0.01, 0.1, 0.5):
        half = max(reach, error) + 3
        mesh = error / math.sqrt(total * math.log(12 / delta_error) / 2)
        if 2 * half / mesh <= MAX_GRID:
            found = _opacus_prv(history, delta, half, mesh, error)
            if not found >= least_epsilon(history, delta):
                raise NotComputable(f"{found:.4g} came out, which is too little")
            return found
    raise NotComputable(f"{total:,} steps with losses up to {reach:.3g} need too fine a grid")


def _opacus_prv(history: History, delta: Number, half: float, mesh: float, error: float) -> float:
    # Importing opacus takes seconds, which only those should wait who train privately.
    from opacus.accountants import PRVAccountant
    from opacus.accountants.analysis.prv import Domain

    class Accountant(PRVAccountant):
        def _get_domain(self, **_: Any) -> Domain:
            return Domain.create_aligned(-half, half, mesh)

    made = Accountant()
    made.history = list(history)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return float(made.get_epsilon(delta, eps_error=error))
        except (ArithmeticError, MemoryError, RuntimeError, ValueError) as failed:
            raise NotComputable(f"opacus failed: {type(failed).__name__} {failed}") from failed


# ---------------------------------------------------------------- the central limit


def gdp_ratio(history: History) -> float:
    """μ of the Gaussian mechanism to which many steps tend (Bu, Dong, Long & Su 2020, arXiv 1911.11607).

    Approximate: the ε that belongs to it can be too small.

    Raises:
        ValueError: If parts differ in noise or rate.
    """
    if len({part[:2] for part in history}) > 1:
        raise ValueError("gdp cannot add up parts of different noise or rate; use rdp or prv")
    noise, rate, _ = history[0]
    steps = sum(part[2] for part in history)
    with np.errstate(over="ignore", divide="ignore"):
        return float(rate * math.sqrt(steps) * np.sqrt(np.expm1(1 / np.float64(noise) / noise)))


# ---------------------------------------------------------------- from below


def least_epsilon(history: History, delta: Number) -> float:
    """An ε below which no accountant can be right: what two tests for one example's presence can tell.

    A test that accepts with probability P where the example took part and Q where not proves ε ≥ ln((P - δ) / Q). One
    counts the steps whose output along the example's gradient exceeds a threshold, the other adds these outputs up.
    Only the most telling part of a history is looked at.

    Returns:
        A lower bound, 0 or more; close to the truth only where an example is plainly visible or steps are many.
    """
    with np.errstate(all="ignore"):
        return max(0.0, *(max(_counting(*part, delta), _adding(*part, delta)) for part in history))


def _counting(noise: float, rate: float, steps: int, delta: Number) -> float:
    """With N steps above a threshold: P(N ≥ n) by the binomial distribution, Q(N ≥ n) ≤ binom(k, n) pⁿ."""
    u = np.unique(
        np.r_[np.linspace(0, 12, 49), np.clip(1 / noise + np.linspace(-8, 4, 49), 0, None)]
    )
    here = (1 - rate) * ndtr(-u) + rate * ndtr(1 / noise - u)
    best = 0.0
    for tail in (0.01, 0.1, 0.5):
        n = np.maximum(1, binom.ppf(tail, steps, here))
        ways = gammaln(steps + 1) - gammaln(n + 1) - gammaln(steps - n + 1)
        proved = np.log(binom.sf(n - 1, steps, here) - delta) - ways - n * log_ndtr(-u)
        best = max(best, float(np.max(proved[np.isfinite(proved)], initial=0.0)))
    return best


def _adding(noise: float, rate: float, steps: int, delta: Number) -> float:
    """The sum is N(B, kσ²) with B ~ Bin(k, q), or N(0, kσ²); B is rounded down to one of its quantiles."""
    width = noise * math.sqrt(steps)
    drawn = np.unique(binom.ppf(np.linspace(0.001, 0.999, 250), steps, rate))
    chance = -np.diff(binom.sf(drawn - 1, steps, rate), append=0.0)
    u = np.unique(np.linspace(0, drawn[-1] / width + 8, 2000))
    here = ndtr(drawn / width - u[:, None]) @ chance
    proved = np.log(here - delta) - log_ndtr(-u)
    return float(np.max(proved[np.isfinite(proved)], initial=0.0))
