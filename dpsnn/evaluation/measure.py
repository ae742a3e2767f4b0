"""What measurements of classifiers and of attackers share."""

from torch import Tensor

from dpsnn.errors import UsageError
from dpsnn.metrics.base import mean, standard_error  # noqa: F401  of a column and its error
from dpsnn.metrics.dependence import block_size, dcorr_blocks  # noqa: F401  on the wire as well
from dpsnn.training import device  # noqa: F401  where measurements are made


def require_finite(values: Tensor, what: str) -> None:
    """Stop before measures are taken of what cannot be measured.

    Raises:
        UsageError: If a value is infinite or NaN.
    """
    if not bool(values.isfinite().all()):
        raise UsageError(f"{what} holds values that are not finite; train it again")
