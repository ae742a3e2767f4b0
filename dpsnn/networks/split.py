"""A network cut in two, and the layers that need no file of their own."""

import torch
from torch import Tensor, nn

from dpsnn.tensors import Images, Logits


class SplitNetwork(nn.Module):
    """A client and a server; `server(client(images))` is the whole network.

    Args:
        client: Layers that run where the data lives, images `(N, C, H, W)` in [0, 1] → activation `(N, *cut)`.
        server: The rest, smashed `(N, *cut)` → logits `(N, classes)`.
        image_shape: `(C, H, W)` of one image.
        num_classes: Number of classes.
        bound: Largest absolute value the client can emit (1 behind a tanh), or None where nothing limits it. The
            guarantee of noise on the wire rests on it.
    """

    def __init__(
        self,
        client: nn.Module,
        server: nn.Module,
        image_shape: tuple[int, int, int],
        num_classes: int,
        bound: float | None = None,
    ) -> None:
        super().__init__()
        self.client = client
        self.server = server
        self.image_shape = image_shape
        self.num_classes = num_classes
        self.bound = bound
        self.cut_shape: torch.Size = self._cut_shape()

    @torch.no_grad()
    def _cut_shape(self) -> torch.Size:
        training = self.client.training
        shape = self.client.eval()(torch.zeros(1, *self.image_shape)).shape[1:]
        self.client.train(training)
        return shape

    def forward(self, images: Images) -> Logits:
        return self.server(self.client(images))


class Standardise(nn.Module):
    """Subtract a mean and divide by a standard deviation, both of images in [0, 1]."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean = mean
        self.std = std

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std
