"""Decoders: smashed tensor in, picture out."""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from dpsnn.parts import Registry, decoder
from dpsnn.tensors import Images, Smashed


class _Crop(nn.Module):
    """Cut the top left `height` × `width` pixels: upsampling overshoots sizes that it does not divide."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height = height
        self.width = width

    def forward(self, images: Tensor) -> Tensor:
        return images[..., : self.height, : self.width]


class Decoder(nn.Module):
    """Layers from a smashed tensor to a picture.

    Args:
        layers: What turns one into the other.
        bounded: Whether the layers give logits, of which a sigmoid makes pixels in (0, 1).
        channels_last: Whether they are faster in this memory layout, in bf16 on a CPU.
        rates: Step sizes worth trying. Deep linear decoders have no normalisation and leave the rails at 1e-2.
        looks: Whether what crosses the wire is straightened and standardised for them (`dpsnn.networks.front`).
    """

    def __init__(
        self,
        *layers: nn.Module,
        bounded: bool,
        channels_last: bool,
        rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3),
        looks: bool = False,
    ) -> None:
        super().__init__()
        self.rates = rates
        self.looks = looks
        self.bounded = bounded
        self.channels_last = channels_last
        self.layers = nn.Sequential(*layers)

    def forward(self, smashed: Smashed) -> Images:
        raw = self.layers(smashed).float()
        return raw.sigmoid() if self.bounded else raw

    def loss(self, smashed: Smashed, images: Images) -> Tensor:
        """What training minimises; at its minimum both kinds give the mean image given the smashed tensor.

        For logits that is the cross-entropy: unlike the squared error its gradient does not vanish where the sigmoid
        saturates, which on dark backgrounds decides SSIM (0.90 against 0.83 on an undefended MNIST client).
        """
        raw = self.layers(smashed).float()
        if self.bounded:
            return F.binary_cross_entropy_with_logits(raw, images)
        return F.mse_loss(raw, images)


def _grid(smashed_shape: tuple[int, ...], grid: tuple[int, int, int]) -> list[nn.Module]:
    """A linear layer from a smashed tensor of any shape to feature maps `(channels, height, width)`."""
    linear = nn.Linear(math.prod(smashed_shape), math.prod(grid))
    return [nn.Flatten(), linear, nn.Unflatten(1, grid)]


@decoder
def conv(smashed_shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> Decoder:
    """The default: transposed convolutions with batch normalisation and ReLUs, output in [0, 1] by a sigmoid.

    Twice as many channels double the time and take 2 % off the squared error on MNIST.
    """
    channels, height, width = image_shape
    grid = (64, -(-height // 4), -(-width // 4))
    return Decoder(
        *_grid(smashed_shape, grid),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, channels, 3, padding=1),
        _Crop(height, width),
        bounded=True,
        channels_last=False,
        rates=(1e-3, 3e-3, 1e-2),
        looks=True,
    )


@decoder
def linear(smashed_shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> Decoder:
    """The decoder of Titcombe et al. 2021: no activation function anywhere, hence a linear map however many layers.

    Its output is not confined to [0, 1].
    """
    channels, height, width = image_shape
    grid = (64, max(1, -(-(height - 4) // 2)), max(1, -(-(width - 4) // 2)))
    return Decoder(
        *_grid(smashed_shape, grid),
        nn.ConvTranspose2d(64, 64, 3, stride=2, padding=1, output_padding=1),
        nn.ConvTranspose2d(64, 32, 3, padding=1),
        nn.ConvTranspose2d(32, 8, 3),
        nn.ConvTranspose2d(8, channels, 3),
        _Crop(height, width),
        bounded=False,
        channels_last=True,
    )


@decoder
def deconv(smashed_shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> Decoder:
    """The decoder of the RStudio AI blog's study on Omniglot: transposed convolutions with ReLUs from a single pixel.

    Four of them give 105×105 pixels; smaller images take as many as they need and are cropped, larger ones repeat the
    last. A ReLU ends it too, so that its output has no upper limit. Weights start as in Keras, where it was published.
    """
    channels, height, width = image_shape
    values = math.prod(smashed_shape)
    layers: list[nn.Module] = [nn.Flatten(), nn.Unflatten(1, (values, 1, 1))]
    kernels, size, inputs = [(9, 1), (7, 2), (7, 2), (5, 2)], 1, values
    wanted = max(height, width, 2)  # one layer at least
    while size < wanted:
        kernel, stride = kernels.pop(0) if kernels else (5, 2)
        size = (size - 1) * stride + kernel
        last = size >= wanted
        # Published: 32, 32, 1, 1 channels.
        outputs = channels if last or not kernels or kernels == [(5, 2)] else 32
        transposed = nn.ConvTranspose2d(inputs, outputs, kernel, stride)
        nn.init.xavier_uniform_(transposed.weight)
        # A random bias below zero can silence a layer of one channel for good: then all pictures are black.
        if transposed.bias is not None:
            nn.init.zeros_(transposed.bias)
        layers += [transposed, nn.ReLU()]
        inputs = outputs
    return Decoder(*layers, _Crop(height, width), bounded=False, channels_last=True)


DECODERS = Registry("decoder")
