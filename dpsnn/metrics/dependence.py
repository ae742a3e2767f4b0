"""Distance correlation of what was seen and what there was, in blocks of equal size, beside shuffled pairs."""

import torch
from jaxtyping import Float
from torch import Tensor

from dpsnn.metrics.base import Cells, Metric, Scored, Values, mean, standard_error
from dpsnn.metrics.distance_correlation import bias_corrected_distance_correlation, signed_root
from dpsnn.metrics.floors import shuffled

BLOCK = 500
"""Samples per distance correlation. Equal N makes values comparable; the mean and its error are taken over blocks."""

LEAST = 4
"""Samples for which the bias-corrected distance correlation is defined."""


def block_size(count: int) -> int:
    """At most BLOCK samples, and at least two blocks, so that there is an error; but no fewer than LEAST samples."""
    return max(LEAST, min(BLOCK, count // 2))


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


class DCorr(Metric):
    """Distance correlation of images and reconstructions, bias-corrected, in blocks of `DCorrN` images."""

    key = "dcorr"
    column = "MeanValDCorr"
    error = "SEValDCorr"
    floor = "DCorrFloor"
    floor_label = "floor: shuffled pairs"
    label = "distance correlation of images and reconstructions"
    order = 50

    def values(self, seen: Scored) -> Values:
        """It belongs to many images together, and to none alone."""
        return None

    def cells(self, seen: Scored, values: Values) -> Cells:
        """Shuffled pairs come in the same blocks, hence the floor depends on the reconstructions."""
        size = block_size(len(seen.images))
        blocks, floors = dcorr_blocks(seen.images, seen.reconstructions, size)
        return {
            self.column: mean(blocks),
            self.error: standard_error(blocks),
            self.floor: mean(floors),
            "DCorrN": size if len(blocks) else None,
        }

    def references(self, nothing: Scored, perfect: Scored, classes: Scored | None = None) -> Cells:
        return {}
