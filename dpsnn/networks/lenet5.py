"""LeNet-5 as the studies of suppress-privacy use it: 32×32 pixels, ReLUs and maximum pools."""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

from dpsnn.networks.split import SplitNetwork
from dpsnn.parts import network

SIDE = 32

CUTS = {"conv1": 4, "conv2": 7, "fc1": 10, "fc2": 12, "logits": 13}
"""Name of the cut → layers in the client. After ReLU and pool where there are any; `fc1` sends 120 values."""


class Pad(nn.Module):
    """Surround images by black pixels, alike on all sides, until they are 32×32; larger sides stay as they are."""

    def forward(self, images: Tensor) -> Tensor:
        height, width = (max(0, SIDE - side) for side in images.shape[-2:])
        return F.pad(images, (width // 2, width - width // 2, height // 2, height - height // 2))


@network
def lenet5(
    image_shape: tuple[int, int, int],
    num_classes: int,
    mean: float = 0.0,
    std: float = 1.0,
    cut: str = "fc1",
) -> SplitNetwork:
    """Two convolutions and three linear layers; each may be the client's last.

    Pixels go in as they are, in [0, 1]: the published network does not standardise them, and neither `mean` nor `std`
    is used. Smaller images are padded inside, so that the client takes the data set's own. Pooling before the ReLU
    gives the same values as after it.

    Args:
        image_shape: `(C, H, W)`.
        num_classes: Number of classes.
        mean: Not used.
        std: Not used.
        cut: `conv1`, `conv2`, `fc1`, `fc2` or `logits`.

    Raises:
        UsageError: If there is no such cut.
    """
    channels, *sides = image_shape
    height, width = (((max(SIDE, side) - 4) // 2 - 4) // 2 for side in sides)
    layers = OrderedDict[str, nn.Module](
        pad=Pad(),
        conv1=nn.Conv2d(channels, 6, 5),
        pool1=nn.MaxPool2d(2),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(6, 16, 5),
        pool2=nn.MaxPool2d(2),
        relu2=nn.ReLU(),
        flatten=nn.Flatten(),
        fc1=nn.Linear(16 * height * width, 120),
        relu3=nn.ReLU(),
        fc2=nn.Linear(120, 84),
        relu4=nn.ReLU(),
        fc3=nn.Linear(84, num_classes),
    )
    whole = SplitNetwork(
        nn.Sequential(layers), nn.Sequential(), image_shape, num_classes, cuts=CUTS, cut="logits"
    )
    return whole.at(cut)
