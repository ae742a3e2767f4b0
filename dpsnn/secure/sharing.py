"""Additive secret sharing, the idea behind encrypted inference, in a few functions one can read: no engine, no network.

A secret is split into random numbers that add up to it modulo a prime Q. Each party gets one. All but one of the shares
are uniform on 0 … Q - 1 and independent of the secret, and so is any choice of them: whoever lacks one share knows
nothing. Sums, and products with public numbers, can be computed share by share, without a word between the parties. A
product of two secrets cannot; that, and comparisons, is what an engine's protocols (here ABY3) are for.

The prime is that of the RStudio AI blog's post (April 2020). The post draws the shares with `runif`: they are neither
whole numbers nor unpredictable. Here they come from the operating system's source of secrets.
"""

import secrets
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

Q = 78_090_573_363_827
"""The modulus, a prime below 2⁴⁷."""

SCALE = 2**16
"""Steps per unit in which real numbers become whole ones."""

Secret = Int[np.ndarray, "..."]
"""Whole numbers 0 … Q - 1; shares of them look the same."""


def share(secret: Secret, parties: int = 3) -> list[Secret]:
    """Split each number into one share per party; all are random but the last, which makes the sum right."""
    random = [_uniform(secret.shape) for _ in range(parties - 1)]
    return [*random, (secret - sum(random)) % Q]


def rebuild(shares: Sequence[Secret]) -> Secret:
    """The secret: the sum of *all* shares. Any fewer give a random number."""
    return sum(shares[1:], start=shares[0]) % Q


def add(x: Sequence[Secret], y: Sequence[Secret]) -> list[Secret]:
    """Shares of x + y: each party adds its own two."""
    return [(a + b) % Q for a, b in zip(x, y, strict=True)]


def multiply_by_public(x: Sequence[Secret], factor: int) -> list[Secret]:
    """Shares of factor·x, where everybody knows the factor: each party multiplies its own."""
    # Python's whole numbers: a product of two below 2⁴⁷ does not fit 64 bits.
    return [(part.astype(object) * (factor % Q) % Q).astype(np.int64) for part in x]


def encode(values: Float[np.ndarray, "..."], scale: int = SCALE) -> Secret:
    """Real numbers as whole ones modulo Q, in steps of 1 / scale; negative ones take the upper half of the range."""
    return np.rint(values * scale).astype(np.int64) % Q


def decode(numbers: Secret, scale: int = SCALE) -> Float[np.ndarray, "..."]:
    """The real numbers again. After a product of two encoded ones the scale is the product of theirs."""
    return np.where(numbers > Q // 2, numbers - Q, numbers) / scale


def _uniform(shape: tuple[int, ...]) -> Secret:
    count = int(np.prod(shape))
    drawn = np.array([secrets.randbelow(Q) for _ in range(count)], dtype=np.int64)
    return drawn.reshape(shape)
