"""What the two ways to find cuts have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import nn

POINTWISE = frozenset(
    ("activation", "batchnorm", "dropout", "normalization", "instancenorm", "flatten")
)
"""Files of torch.nn whose layers leave shapes and places alone: a cut before them leaks as much and costs as much."""

PLAIN = (nn.Identity,)


def is_pointwise(layer: object) -> bool:
    """Whether a layer computes value by value, so that a cut before it only gives away more."""
    package, _, file = type(layer).__module__.rpartition(".")
    ours = package == "torch.nn.modules" and file in POINTWISE
    return (ours and not isinstance(layer, nn.MultiheadAttention)) or isinstance(layer, PLAIN)


class Whole(nn.Module):
    """A model of anyone's, as one that gives one tensor.

    Args:
        model: Images → anything.
        pick: What it gives → the tensor that is its answer.
        before: What is done to images first.
    """

    def __init__(
        self,
        model: nn.Module,
        pick: Callable[[Any], Any] = lambda given: given,
        before: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.model, self.pick, self.before = model, pick, before

    def forward(self, images: Any) -> Any:
        """Of images, or of what stands for them while the model is traced."""
        return self.pick(self.model(self.before(images) if self.before else images))


def shown(path: str) -> str:
    """The name of a module as its owner knows it, without `Whole` around it; empty for the model itself."""
    return path.removeprefix("model.") if path != "model" else ""


class Halves(NamedTuple):
    """A model in two."""

    client: nn.Module
    server: nn.Module
    weights: Sequence[nn.Parameter]
    """Of the client."""
    others: Sequence[nn.Parameter]
    """Of the server."""


@dataclass
class Place:
    """Where one tensor may be all that crosses."""

    name: str
    kind: str
    halves: Callable[[], Halves]
    """Makes them: of a large model that takes a while for each place."""
    layer: nn.Module | None = None
    """The layer that limits its values, if any does."""
    aliases: tuple[str, ...] = ()
    inner: bool = False
    """Whether what follows, up to the next place, computes value by value."""
    notes: tuple[str, ...] = ()


@dataclass
class Found:
    """Places in the order of the model, and modules that are none, with the reason."""

    places: list[Place] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
