"""How badly an activation explains what was heard, for whoever knows of no noise."""

import torch
from jaxtyping import Float
from torch import Tensor

from dpsnn.tensors import Activation


def relative_misfit(
    activation: Activation, heard: Float[Tensor, "q n *cut"]
) -> Float[Tensor, " n"]:
    """‖f(x) - f*‖²/‖f*‖², Mahendran & Vedaldi's equation 2 (arXiv 1412.0035), the mean over q transmissions f*."""
    squares = heard.pow(2).flatten(2).sum(2)
    # Dead features, all zero, have no scale; the misfit is then taken as it is.
    scale = torch.where(squares > 0, squares, torch.ones_like(squares))
    return ((heard - activation).pow(2).flatten(2).sum(2) / scale).mean(0)
