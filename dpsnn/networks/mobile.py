"""The two-part network of the RStudio AI blog's model inversion study on Omniglot (May 2020)."""

from torch import nn

from dpsnn.errors import UsageError
from dpsnn.networks.split import SplitNetwork, Standardise
from dpsnn.parts import network

NORMS = ("batch", "group")


@network
def mobile(
    image_shape: tuple[int, int, int],
    num_classes: int,
    mean: float = 0.0,
    std: float = 1.0,
    norm: str = "batch",
    dropout: float = 0.2,
) -> SplitNetwork:
    """Four blocks of convolution, ReLU, normalisation, pool and dropout shrink 105×105 pixels to 32 values at the cut.

    Args:
        image_shape: `(C, H, W)`, at least 99×99: smaller pictures leave nothing after the pools.
        num_classes: Number of classes.
        mean: Of the pixels.
        std: Of the pixels.
        norm: `batch`, as published, or `group`, which keeps examples apart as DP-SGD needs it.
        dropout: Share of values set to 0 in training.

    Raises:
        UsageError: If images are too small.
    """
    if min(image_shape[1:]) < 99:
        raise UsageError(
            f"network mobile needs images of 99x99 or more, not {image_shape[1:]}; use --dataset omniglot"
        )

    def block(inputs: int, kernel: int, pool: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, 32, kernel),
            nn.ReLU(),
            nn.BatchNorm2d(32) if norm == "batch" else nn.GroupNorm(8, 32),
            nn.MaxPool2d(pool, stride),
            nn.Dropout(dropout),
        ]

    client = nn.Sequential(
        Standardise(mean, std),
        *block(image_shape[0], 7, 3, 3),
        *block(32, 7, 3, 2),
        *block(32, 5, 2, 2),
        *block(32, 3, 2, 2),
    )
    server = nn.Sequential(
        nn.Flatten(), nn.Linear(32, 256), nn.ReLU(), nn.Dropout(dropout), nn.Linear(256, 50), nn.ReLU(),
        nn.Linear(50, num_classes),
    )  # fmt: skip
    return SplitNetwork(client, server, image_shape, num_classes)
