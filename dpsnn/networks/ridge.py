"""Ridge regression: the best linear map in closed form, for all penalties from one decomposition."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

PENALTIES = tuple(10.0**power for power in range(-9, 4))
"""Penalties that are tried, in units of the largest eigenvalue of the inputs' second moments."""

AT_ONCE = 2000
"""Rows or columns that are added up at a time, in double precision."""

PROBED = 512
"""Inputs from which a linear map is to tell how much can be learnt."""


class Ridge(NamedTuple):
    """All ridge regressions of centred outputs on centred inputs: W(λ) = basis · diag(1 / (spectrum + λ)) · targets."""

    basis: Float[Tensor, "d r"]
    spectrum: Float[Tensor, " r"]
    targets: Float[Tensor, "r p"]

    def weights(self, penalty: float) -> Float[Tensor, "d p"]:
        """The map that minimises ‖X W - Y‖² + λ ‖W‖², in double precision.

        Args:
            penalty: λ over the largest eigenvalue of XᵀX; 0 is least squares, of which the smallest is taken.
        """
        return self.basis @ (self.targets * self.factors(penalty).unsqueeze(1))

    def factors(self, penalty: float) -> Float[Tensor, " r"]:
        """1 / (spectrum + λ), and 0 in directions in which the inputs do not differ."""
        largest = float(self.spectrum.max().clamp(min=torch.finfo(torch.float64).tiny))
        known = self.spectrum > 1e-14 * largest
        return torch.where(known, self.spectrum + penalty * largest, torch.inf).reciprocal()

    def least_error(self, x: Float[Tensor, "m d"], y: Float[Tensor, "m p"]) -> float:
        """The mean squared error on other inputs and outputs, centred alike, under the penalty that is best for them.

        ‖Y - S·F·T‖² with S = X·basis, T the targets and F the factors on a diagonal is quadratic in F: all penalties
        cost what one does.
        """
        seen, y = x.double() @ self.basis, y.double()
        square = (seen.T @ seen) * (self.targets @ self.targets.T)
        line = ((y @ self.targets.T) * seen).sum(0)
        errors = [
            y.square().sum() + f @ square @ f - 2 * f @ line for f in map(self.factors, PENALTIES)
        ]
        return max(0.0, float(min(errors))) / y.numel()


def ridge(x: Float[Tensor, "n d"], y: Float[Tensor, "n p"]) -> Ridge:
    """Decompose XᵀX, or XXᵀ where there are fewer rows than columns; both say the same.

    Args:
        x: Inputs, centred.
        y: Outputs, centred.
    """
    rows, columns = x.shape
    if columns <= rows:
        pairs = [(a.double(), b.double()) for a, b in zip(x.split(AT_ONCE), y.split(AT_ONCE))]
        spectrum, basis = torch.linalg.eigh(sum(a.T @ a for a, _ in pairs))
        return Ridge(basis, spectrum, basis.T @ sum(a.T @ b for a, b in pairs))
    # Block by block, and in place: of feature maps there are more columns than memory has room for in several copies.
    blocks = x.split(AT_ONCE, 1)
    spectrum, turned = torch.linalg.eigh(sum(_squared(block.double()) for block in blocks))
    basis = turned.new_empty(columns, rows)
    for part, block in zip(basis.split(AT_ONCE), blocks):
        part.copy_(block.double().T @ turned)
    return Ridge(basis, spectrum, turned.T @ y.double())


def _squared(block: Float[Tensor, "n b"]) -> Float[Tensor, "n n"]:
    return block @ block.T


def linear_error(seen: Float[Tensor, "n d"], wanted: Float[Tensor, "n p"], out: int) -> float:
    """The mean squared error of the best linear map on the last `out` rows, found on all others; infinite without any.

    The penalty is the best for these rows as well: it says which of several inputs serves better, not how well.
    """
    if len(seen) <= out:
        return math.inf
    part = torch.linspace(0, seen.shape[1] - 1, min(PROBED, seen.shape[1])).long()
    split = [len(seen) - out, out]
    (x, x_out), (y, y_out) = seen[:, part].split(split), wanted.split(split)
    centre, mean = x.mean(0), y.mean(0)
    return ridge(x - centre, y - mean).least_error(x_out - centre, y_out - mean)
