"""NoPeek (Vepakomma, Singh, Gupta & Raskar 2020, arXiv 2008.09161): train the client to say little about its input."""

import torch
from torch import Tensor

from dpsnn.defences.base import DefenceModule, checked_strength
from dpsnn.metrics import distance_correlation
from dpsnn.tensors import Images, Number, Smashed


class NoPeek(DefenceModule):
    """Penalise the distance correlation of images and smashed tensor; nothing changes at inference.

    Args:
        weight: Factor on the distance correlation; 0 is exactly no penalty.
        exponent: Power of the distances in (0, 2]; Titcombe et al. effectively used 2.

    Raises:
        UsageError: If the weight is negative or not finite.
    """

    def __init__(self, weight: Number, exponent: Number = 1.0) -> None:
        super().__init__()
        self.weight = checked_strength(weight, "the NoPeek weight")
        self.exponent = exponent

    def penalty(self, images: Images, smashed: Smashed) -> Tensor:
        # A last batch of one image has no distance correlation; it trains on the task alone.
        if self.weight == 0 or len(images) < 2:
            return torch.zeros((), device=smashed.device)
        return self.weight * distance_correlation(images, smashed, self.exponent)

    def extra_repr(self) -> str:
        return f"weight={self.weight}, exponent={self.exponent}"
