"""Classifiers of faces, from the simplest on: of Fredrikson, Jha & Ristenpart (CCS 2015), a small CNN, a judge."""

import copy
from functools import lru_cache
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpsnn.networks.split import SplitNetwork, Standardise
from dpsnn.parts import network
from dpsnn.tensors import Number

Module = TypeVar("Module", bound=nn.Module)

HIDDEN = 300
"""Units of the perceptron. The paper's has 3,000; a tenth learns 40 people as well with a tenth of the weights."""


@network
def softmax_regression(
    image_shape: tuple[int, int, int], num_classes: int, mean: float = 0.0, std: float = 1.0
) -> SplitNetwork:
    """One linear layer on the pixels, before the softmax of the loss.

    It leaves no choice of a cut: the layer is the server's, and what crosses the wire is the picture itself.
    """
    client = nn.Sequential(Standardise(mean, std), nn.Flatten())
    server = nn.Sequential(nn.Linear(_pixels(image_shape), num_classes))
    return SplitNetwork(client, server, image_shape, num_classes)


@network
def perceptron(
    image_shape: tuple[int, int, int], num_classes: int, mean: float = 0.0, std: float = 1.0
) -> SplitNetwork:
    """One hidden layer of sigmoid units; the cut is behind them, with values in (0, 1)."""
    client = nn.Sequential(
        Standardise(mean, std), nn.Flatten(), nn.Linear(_pixels(image_shape), HIDDEN), nn.Sigmoid()
    )
    server = nn.Sequential(nn.Linear(HIDDEN, num_classes))
    return SplitNetwork(client, server, image_shape, num_classes, bound=1.0)


@network
def faces_cnn(
    image_shape: tuple[int, int, int], num_classes: int, mean: float = 0.0, std: float = 1.0
) -> SplitNetwork:
    """Two convolutions with group normalisation, which keeps examples apart as DP-SGD needs it; the cut is behind them.

    Strides and pools shrink 112×92 pixels to 7×6 places with 32 values each.
    """

    def block(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2),
            nn.GroupNorm(4, outputs),
            # Before the ReLU it gives the same values as after it, from a quarter of them.
            nn.MaxPool2d(2, ceil_mode=True),
            nn.ReLU(),
        ]

    channels, height, width = image_shape
    client = nn.Sequential(
        Standardise(mean, std), *block(channels, 16, 5), *block(16, 32, 3), nn.Flatten()
    )
    # Every stride of 2 rounds up.
    flat = 32 * -(-height // 16) * -(-width // 16)
    server = nn.Sequential(nn.Linear(flat, num_classes))
    return SplitNetwork(client, server, image_shape, num_classes)


def unstrided(model: Module) -> Module:
    """A copy that gives the same values, with images' gradients sooner: no convolution skips pixels of one channel.

    A 5×5 kernel that moves by two pixels is a 3×3 one that moves by one block of 2×2 pixels, its channels. The gradient
    of the first takes the processor four times as long. Sides must be even; other layers stay as they are.
    """
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Conv2d) and _strides_over_pixels(layer):
                blocks = nn.Conv2d(4, layer.out_channels, 3, padding=1)
                kernel = nn.functional.pad(layer.weight.detach(), (0, 1, 0, 1))
                kernel = kernel.view(-1, 3, 2, 3, 2).permute(0, 2, 4, 1, 3).flatten(1, 2)
                blocks.weight = nn.Parameter(kernel, requires_grad=False)
                blocks.bias = layer.bias
                setattr(parent, name, nn.Sequential(nn.PixelUnshuffle(2), blocks))
    return model


def _strides_over_pixels(layer: nn.Conv2d) -> bool:
    geometry = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    return layer.in_channels == 1 and geometry == ((5, 5), (2, 2), (2, 2), (1, 1))


def smooth(images: Float[Tensor, "n c h w"], width: Number) -> Float[Tensor, "n c h w"]:
    """Blur with a Gaussian of standard deviation `width` pixels (cut off at three); borders are continued."""
    if width == 0:
        return images
    height, breadth = images.shape[-2:]
    # Two products of matrices: nine times as fast as convolutions of a single channel.
    return _blur(height, width).to(images) @ images @ _blur(breadth, width).to(images).T


@lru_cache
def _blur(size: int, width: Number) -> Float[Tensor, "size size"]:
    """The matrix that blurs `size` pixels in a row."""
    reach = max(1, round(3 * width))
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-offsets.square() / (2 * width**2))
    sources = (torch.arange(size).unsqueeze(1) + offsets).clamp(0, size - 1)
    shares = (weights / weights.sum()).expand(size, -1).contiguous()
    return torch.zeros(size, size).scatter_add_(1, sources, shares)


GRAIN = 2.0
"""Standard deviation in pixels of the blur of what a judge sees. On photographs it costs nothing; without it the grain
of rebuilt pictures, which no photograph has, makes judges that differ in their seed alone disagree widely."""


class OwnContrast(nn.Module):
    """Blur each picture, subtract its mean and divide by its standard deviation; one of one grey becomes 0."""

    def forward(self, images: Tensor) -> Tensor:
        images = smooth(images, GRAIN)
        flat = images.flatten(1)
        centred = images - flat.mean(1).view(-1, 1, 1, 1)
        return centred / flat.std(1).clamp(min=1e-5).view(-1, 1, 1, 1)


@network
def faces_judge(
    image_shape: tuple[int, int, int], num_classes: int, mean: float = 0.0, std: float = 1.0
) -> SplitNetwork:
    """A convolutional network with batch normalisation; pictures have their brightness and contrast evened out first.

    MI-FACE stops at grainy pictures of hardly any contrast; whether they show the person is asked here, not how
    brightly or how finely.
    `mean` and `std` are of no effect. It is never attacked: the cut exists only because every network here has one.
    """

    def block(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]

    channels, height, width = image_shape
    client = nn.Sequential(
        OwnContrast(),
        *block(channels, 16, 5, 2),
        *block(16, 32, 3, 2),
        *block(32, 64, 3, 2),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
    )
    flat = 64 * -(-height // 16) * -(-width // 16)
    server = nn.Sequential(nn.Dropout(0.3), nn.Linear(flat, num_classes))
    return SplitNetwork(client, server, image_shape, num_classes)


def _pixels(image_shape: tuple[int, int, int]) -> int:
    channels, height, width = image_shape
    return channels * height * width
