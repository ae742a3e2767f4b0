"""The decoder of feature maps: what lies where in the map is painted there, without a dense layer over all of it."""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from dpsnn.networks.decoder import Decoder, conv
from dpsnn.parts import decoder

WIDTH = 32
"""Channels; as many again where maps are small."""

BORDER = 4
"""Pixels by which a map may fall short of the picture, or exceed it, and still lie at its centre, as it does behind
convolutions without padding; by more it is stretched."""


class _Fit(nn.Module):
    """Bring a map to the size of the picture: put in its centre, or stretched."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.size = height, width

    def forward(self, maps: Tensor) -> Tensor:
        lacking = [wanted - side for wanted, side in zip(self.size, maps.shape[-2:])]
        if max(map(abs, lacking)) > BORDER:
            shrinks = min(lacking) < 0
            mode = "area" if shrinks else "bilinear"
            more = {} if shrinks else {"align_corners": False}
            return F.interpolate(maps, self.size, mode=mode, **more)
        (high, wide), pad = lacking, []
        for each in (wide, high):
            pad += [each // 2, each - each // 2]
        return F.pad(maps, pad)


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


@decoder
def grid(smashed_shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> Decoder:
    """For feature maps of any size: convolutions that keep what lies where, output in [0, 1] by a sigmoid.

    Its weights do not grow with height and width, where those of a dense layer are a hundred billion at 224×224. What
    is no feature map is decoded as by `conv`.
    """
    if len(smashed_shape) != 3:
        return conv(smashed_shape, image_shape)
    maps, height, width = smashed_shape
    channels, tall, wide = image_shape
    times = max(1, min(round(tall / height), round(wide / width)))
    inner = WIDTH if height * width > 64 else 2 * WIDTH
    layers: list[nn.Module] = [
        nn.Conv2d(maps, inner, 1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(),
        *_block(inner, inner),
    ]
    while times > 1:
        factor = next((each for each in (2, 3, 5, 7) if times % each == 0), times)
        outer = max(WIDTH // 2, inner // 2)
        layers += [
            nn.ConvTranspose2d(inner, outer, factor, stride=factor, bias=False),
            nn.BatchNorm2d(outer),
            nn.ReLU(),
            *_block(outer, outer),
        ]
        times, inner = times // factor, outer
    layers += [_Fit(tall, wide), *_block(inner, inner), nn.Conv2d(inner, channels, 3, padding=1)]
    return Decoder(*layers, bounded=True, channels_last=False, rates=(1e-3, 3e-3, 1e-2), looks=True)


def dense_weights(smashed_shape: tuple[int, ...], image_shape: tuple[int, ...]) -> int:
    """Weights of the dense layer of the default decoder, `conv`."""
    _, height, width = image_shape
    return math.prod(smashed_shape) * 64 * -(-height // 4) * -(-width // 4)
