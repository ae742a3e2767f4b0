"""Whether a classifier names the right class, image by image."""

import torch
from jaxtyping import Float
from torch import Tensor

from dpsnn.tensors import Labels, Logits


def correct(logits: Logits, labels: Labels) -> Float[Tensor, " n"]:
    """1 where the largest score is the true class's, 0 where it is another's.

    NaN for an image with a score that is not finite: `argmax` would name a class there too, always the same.
    """
    right = (logits.argmax(1) == labels).float()
    return torch.where(logits.isfinite().all(1), right, torch.nan)
