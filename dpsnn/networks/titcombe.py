"""The split network of Titcombe et al. 2021 (arXiv 2104.05743)."""

from torch import nn

from dpsnn.networks.split import SplitNetwork, Standardise


def titcombe(
    image_shape: tuple[int, int, int], num_classes: int, mean: float = 0.0, std: float = 1.0
) -> SplitNetwork:
    """Two convolutions, a pool and a bounded linear layer on the client; two linear layers on the server.

    The cut is 500 tanh outputs in (-1, 1). Pooling before the second ReLU gives the same values as pooling after it
    with a quarter of the work. The published model ended in a softmax; here the server returns logits.
    """
    channels, height, width = image_shape
    flat = 64 * ((height - 4) // 2) * ((width - 4) // 2)
    client = nn.Sequential(
        Standardise(mean, std),
        nn.Conv2d(channels, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(flat, 500),
        nn.Tanh(),
    )
    server = nn.Sequential(nn.Linear(500, 128), nn.ReLU(), nn.Linear(128, num_classes))
    return SplitNetwork(client, server, image_shape, num_classes, bound=1.0)
