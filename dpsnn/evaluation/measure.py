"""Measurements shared by the evaluation of classifiers and of attackers."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from dpsnn.errors import UsageError
from dpsnn.metrics import bias_corrected_distance_correlation, shuffled, signed_root
from dpsnn.training import device  # noqa: F401  where measurements are made

BLOCK = 500
"""Samples per distance correlation. Equal N makes values comparable; the mean and its error are taken over blocks."""


LEAST = 4
"""Samples for which the bias-corrected distance correlation is defined."""


def block_size(count: int) -> int:
    """At most BLOCK samples, and at least two blocks, so that there is an error; but no fewer than LEAST samples."""
    return max(LEAST, min(BLOCK, count // 2))


def standard_error(values: Tensor) -> float:
    """Standard error of the mean; not a number for a single value."""
    return values.double().std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan


def mean(values: Tensor) -> float:
    """Not a number where there is none, or one that is not finite: such a cell of a table stays empty."""
    return values.double().mean().item()


def require_finite(values: Tensor, what: str) -> None:
    """Stop before measures are taken of what cannot be measured.

    Raises:
        UsageError: If a value is infinite or NaN.
    """
    if not bool(values.isfinite().all()):
        raise UsageError(f"{what} holds values that are not finite; train it again")


def dcorr_blocks(
    x: Float[Tensor, "n ..."], y: Float[Tensor, "n ..."], size: int
) -> tuple[Float[Tensor, " blocks"], Float[Tensor, " blocks"]]:
    """Bias-corrected distance correlation, as sign·√|R²|, of consecutive blocks, and of shuffled pairs in each.

    A last block that is not full is left out; of fewer samples than one block there is none.
    """
    values, floors = [x.new_empty(0)], [x.new_empty(0)]
    for start in range(0, len(x) - size + 1, size):
        a, b = x[start : start + size], y[start : start + size]
        values.append(signed_root(bias_corrected_distance_correlation(a, b)).view(1))
        floors.append(
            signed_root(bias_corrected_distance_correlation(a, shuffled(b, start))).view(1)
        )
    return torch.cat(values), torch.cat(floors)
