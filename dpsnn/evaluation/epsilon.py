"""What a training with DP-SGD costs, or how much noise it needs: `dpsnn epsilon`."""

import math
from collections.abc import Iterator, Sequence

from dpsnn.batches import poisson_lots
from dpsnn.errors import UsageError
from dpsnn.metrics.privacy import Unaccounted, dp_sgd_epsilon, dp_sgd_noise_multiplier
from dpsnn.tensors import Number

MOST_STEPS = 10**15
"""Beyond it steps are no whole numbers any more in floating point."""


def steps_of(examples: int, batch_size: int, epochs: Number) -> tuple[float, int]:
    """Rate of a draw and steps of a training, as the training itself counts them; a part of an epoch is rounded up.

    Raises:
        UsageError: If something is out of range.
    """
    if not (math.isfinite(epochs) and epochs > 0):
        raise UsageError(f"epochs is {epochs}; it must be a finite number, greater than 0")
    if not 1 <= batch_size <= examples:
        raise UsageError(
            f"batch_size is {batch_size}; it must be from 1 to the {examples} examples"
        )
    rate, lots = poisson_lots(examples, batch_size)
    if epochs * lots > MOST_STEPS:
        raise UsageError(
            f"epochs is {epochs:g}; with {lots:,} steps each these are more than {MOST_STEPS:.0e} steps, the most that"
            " can be counted"
        )
    return rate, math.ceil(round(epochs * lots, 6)) or 1


def costs(
    noise_multiplier: Number, rate: float, steps: int, delta: Number, accountants: Sequence[str]
) -> Iterator[str]:
    """A line for each accountant: ε of a training, or why there is none and what it is at least.

    Raises:
        UsageError: At the end, if no accountant whose ε holds has one.
    """
    failed = []
    for accountant in accountants:
        try:
            cost = dp_sgd_epsilon([(noise_multiplier, rate, steps)], delta, accountant)
            yield f"{_named(accountant, rate)} epsilon {cost:.4g}"
        except Unaccounted as error:
            failed.append((accountant, error))
            yield f"{accountant:8} epsilon {error.reason}"
    _require_a_bound(accountants, failed)


def noises(
    target_epsilon: Number, rate: float, steps: int, delta: Number, accountants: Sequence[str]
) -> Iterator[str]:
    """A line for each accountant: the noise multiplier that a training needs for a budget.

    Raises:
        UsageError: At the end, if no accountant whose ε holds finds any.
    """
    failed = []
    for accountant in accountants:
        try:
            noise = dp_sgd_noise_multiplier(target_epsilon, rate, steps, delta, accountant)
            yield f"{_named(accountant, rate)} noise multiplier {noise:.4g}"
        except ValueError as error:
            failed.append((accountant, error))
            yield f"{accountant:8} {error}"
    _require_a_bound(accountants, failed, "; train for fewer epochs or allow more")


def _named(accountant: str, rate: float) -> str:
    return f"{accountant:8}{' about' if accountant == 'gdp' and rate < 1 else ''}"


def _require_a_bound(
    accountants: Sequence[str], failed: Sequence[tuple[str, ValueError]], remedy: str = ""
) -> None:
    without = {accountant for accountant, _ in failed}
    if failed and not set(accountants) - without - {"gdp"}:
        raise UsageError(f"{failed[0][1]}{remedy}") from failed[0][1]
