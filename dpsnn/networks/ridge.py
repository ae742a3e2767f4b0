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
        largest = float(self.spectrum.max().clamp(min=torch.finfo(torch.float64).tiny))
        known = self.spectrum > 1e-14 * largest
        shrunk = torch.where(known, self.spectrum + penalty * largest, torch.inf)
        return self.basis @ (self.targets / shrunk.unsqueeze(1))


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
    maps, centre, mean = ridge(x - x.mean(0), y - y.mean(0)), x.mean(0), y.mean(0)
    return min(
        float(((x_out - centre).double() @ maps.weights(each) + mean - y_out).square().mean())
        for each in PENALTIES
    )
