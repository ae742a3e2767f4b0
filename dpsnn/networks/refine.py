"""One learned step of a refinement: a guess, and where its gradient leads, in; a better guess out, in logits."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dpsnn.tensors import Images

WIDTH = 48
"""Feature maps, at half the resolution: every second pixel of both axes becomes a channel."""

EDGE = 1e-4
"""How near to 0 or 1 a guess may be: there logits have no end."""


class RefiningStep(nn.Module):
    """Convolutions that see a guess, gradients of how badly it explains what was heard, and their lengths.

    It starts as the identity: a step that has learnt nothing gives the logits of its guess.

    Args:
        channels: Of an image.
        hints: Images of the same shape that it sees beside the guess.
        lengths: Numbers for each image that it sees as well.
    """

    def __init__(self, channels: int, hints: int, lengths: int) -> None:
        super().__init__()
        seen = 4 * channels * (1 + hints) + lengths
        self.enter = nn.Conv2d(seen, WIDTH, 3, padding=1)
        self.middle = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(2))
        self.leave = nn.Conv2d(WIDTH, 4 * channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)

    def forward(
        self, guess: Images, hints: list[Tensor], lengths: Float[Tensor, "n l"]
    ) -> Float[Tensor, "n c h w"]:
        height, width = guess.shape[2:]
        # Sides that two does not divide get one row more.
        seen = F.pad(torch.cat([guess, *hints], 1), (0, width % 2, 0, height % 2))
        seen = F.pixel_unshuffle(seen, 2)
        flat = lengths[..., None, None].expand(-1, -1, *seen.shape[2:])
        features = self.enter(torch.cat([seen, flat], 1)).relu()
        for layer in self.middle:
            features = features + layer(features).relu()
        change = F.pixel_shuffle(self.leave(features), 2)[..., :height, :width]
        return guess.clamp(EDGE, 1 - EDGE).logit() + change.float()
