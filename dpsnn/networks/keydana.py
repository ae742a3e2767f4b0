"""The network of the RStudio AI blog's post on encrypted deep learning (Sigrid Keydana, April 2020)."""

from collections import OrderedDict

from torch import nn

from dpsnn.networks.split import SplitNetwork
from dpsnn.parts import network

CUTS = {"conv1": 3, "conv2": 6, "conv3": 9, "logits": 11}
"""Name of the cut → layers in the client. Behind each of the three blocks, and at the end."""


@network
def keydana(
    image_shape: tuple[int, int, int],
    num_classes: int,
    mean: float = 0.0,
    std: float = 1.0,
    cut: str = "conv1",
) -> SplitNetwork:
    """Three blocks of convolution, average pool and ReLU, then one linear layer.

    Made to be computed on secret shares: an average is a sum, where a maximum takes comparisons, and what comes out is
    scores without a softmax. Pixels go in as they are, in [0, 1]. The post published the network whole; the cuts are
    ours.

    Args:
        image_shape: `(C, H, W)`, at least 22×22.
        num_classes: Number of classes.
        mean: Not used.
        std: Not used.
        cut: `conv1`, `conv2`, `conv3` or `logits`.

    Raises:
        UsageError: If there is no such cut.
    """
    channels, height, width = image_shape
    layers = OrderedDict[str, nn.Module]()
    for number, filters in enumerate((16, 32, 64), start=1):
        layers[f"conv{number}"] = nn.Conv2d(channels, filters, 3)
        layers[f"pool{number}"] = nn.AvgPool2d(2)
        layers[f"relu{number}"] = nn.ReLU()
        channels, height, width = filters, (height - 2) // 2, (width - 2) // 2
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels * height * width, num_classes)
    whole = SplitNetwork(
        nn.Sequential(layers), nn.Sequential(), image_shape, num_classes, cuts=CUTS, cut="logits"
    )
    return whole.at(cut)
