"""A defence changes what crosses the wire, or how the client is trained, or both."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dpsnn.errors import UsageError
from dpsnn.tensors import Activation, Images, Number, Smashed


class DefenceModule(nn.Module):
    """One defence; by default it does nothing."""

    def forward(self, activation: Activation) -> Smashed:
        """Turn the client's activation into what crosses the wire."""
        return activation

    def penalty(self, images: Images, smashed: Smashed) -> Tensor:
        """A scalar added to the training loss, of the images and of what this defence gave."""
        return torch.zeros((), device=smashed.device)


class DefenceList(nn.ModuleList):
    """Defences applied in order; their penalties add up. A combination is a list, never a class.

    A penalty looks at what has come as far as its defence: behind noise at noisy values, before it at clean ones.
    """

    def __init__(self, defences: Iterable[DefenceModule] = ()) -> None:
        super().__init__(defences)

    def forward(self, activation: Activation) -> Smashed:
        for defence in self:
            activation = defence(activation)
        return activation

    def train_on(self, images: Images, activation: Activation) -> tuple[Smashed, Tensor]:
        """What crosses the wire, and the sum of the penalties."""
        total = torch.zeros((), device=activation.device)
        for defence in self:
            assert isinstance(defence, DefenceModule)
            activation = defence(activation)
            total = total + defence.penalty(images, activation)
        return activation, total


def checked_strength(value: Number, what: str) -> float:
    """`value` if it is finite and not negative; a UsageError that names `what` otherwise."""
    if not math.isfinite(value) or value < 0:
        raise UsageError(f"{what} is {value}; it must be a finite number, 0 or greater")
    return float(value)
