"""A network cut in two, and the layers that need no file of their own."""

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dpsnn.errors import UsageError
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
        cuts: Name of each place where the network may be cut → number of layers before it. Client and server must be
            of the kind `nn.Sequential` then.
        cut: Name of the place where it is cut now; empty where it has one place only, without a name.
    """

    def __init__(
        self,
        client: nn.Module,
        server: nn.Module,
        image_shape: tuple[int, int, int],
        num_classes: int,
        bound: float | None = None,
        cuts: Mapping[str, int] | None = None,
        cut: str = "",
    ) -> None:
        super().__init__()
        self.client = client
        self.server = server
        self.image_shape = image_shape
        self.num_classes = num_classes
        self.bound = bound
        self.cuts = dict(cuts or {})
        self.cut = cut
        self.cut_shape: torch.Size = self._cut_shape()

    def at(self, cut: str) -> "SplitNetwork":
        """The same network, layers and all, cut elsewhere.

        Raises:
            UsageError: If it has no such cut.
        """
        if cut == self.cut:
            return self
        if cut not in self.cuts:
            known = (
                f"choose from {list(self.cuts)}" if self.cuts else "it has one only: leave it out"
            )
            raise UsageError(f"the network has no cut {cut!r}; {known}")
        assert isinstance(self.client, nn.Sequential) and isinstance(self.server, nn.Sequential)
        layers = [*self.client.named_children(), *self.server.named_children()]
        parts = layers[: self.cuts[cut]], layers[self.cuts[cut] :]
        client, server = (nn.Sequential(OrderedDict(part)) for part in parts)
        # A bound is that of one cut; of the others nothing is known.
        made = SplitNetwork(
            client, server, self.image_shape, self.num_classes, cuts=self.cuts, cut=cut
        )
        return made.train(self.training)

    @torch.no_grad()
    def _cut_shape(self) -> torch.Size:
        training = self.client.training
        device = next((p.device for p in self.client.parameters()), None)
        shape = self.client.eval()(torch.zeros(1, *self.image_shape, device=device)).shape[1:]
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
