"""The judge: an independent classifier of another architecture that says whether a reconstruction is recognisable."""

from torch import nn

from dpsnn.networks.split import SplitNetwork, Standardise
from dpsnn.parts import network


@network
def validator(
    image_shape: tuple[int, int, int], num_classes: int, mean: float = 0.0, std: float = 1.0
) -> SplitNetwork:
    """A plain convolutional network with batch normalisation; it shares no layer shape with `titcombe`.

    It is never attacked: the cut after its convolutions exists only because every network here has one.
    """

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, 5, padding=2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.MaxPool2d(2),
            nn.ReLU(),
        ]

    channels, height, width = image_shape
    client = nn.Sequential(
        Standardise(mean, std), *block(channels, 24), *block(24, 48), nn.Flatten()
    )
    flat = 48 * (height // 4) * (width // 4)
    server = nn.Sequential(
        nn.Dropout(0.3), nn.Linear(flat, 96), nn.ReLU(), nn.Linear(96, num_classes)
    )
    return SplitNetwork(client, server, image_shape, num_classes)
