"""The split network of Titcombe et al. 2021 (arXiv 2104.05743)."""

from torch import Tensor, nn

from dpsnn.networks.split import SplitNetwork, Standardise
from dpsnn.parts import network


@network
def titcombe(
    image_shape: tuple[int, int, int], num_classes: int, mean: float = 0.0, std: float = 1.0
) -> SplitNetwork:
    """Two convolutions, a pool and a bounded linear layer on the client; two linear layers on the server.

    The cut is 500 tanh outputs in (-1, 1). Pooling before the second ReLU gives the same values as pooling after it
    with a quarter of the work. The published model ended in a softmax (`titcombe_softmax`); here the server returns
    logits.
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


class _Softmax(nn.Module):
    """Probabilities in float32: in bfloat16 those above 0.998 are 1, where the softmax has no gradient."""

    def forward(self, scores: Tensor) -> Tensor:
        return scores.float().softmax(1)


@network
def titcombe_softmax(
    image_shape: tuple[int, int, int], num_classes: int, mean: float = 0.0, std: float = 1.0
) -> SplitNetwork:
    """`titcombe` as it was published: the server ends in a softmax and gives probabilities, not logits.

    Cross-entropy takes the softmax of them once more, so the loss cannot fall below ln(1 + (classes - 1)/e), about
    1.46 for ten classes, and its gradient is weak. Only for reproducing the published figures.
    """
    network = titcombe(image_shape, num_classes, mean, std)
    assert isinstance(network.server, nn.Sequential)
    network.server.append(_Softmax())
    return network
