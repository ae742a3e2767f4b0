"""What an attacker knows, and what an attack must be able to do."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch

from dpsnn.batches import to_unit
from dpsnn.tensors import Activation, Images, Pixels, Smashed

BLOCK = 100
"""Images per query: larger blocks are slower, as their feature maps leave the processor's cache."""


@dataclass(frozen=True)
class Knowledge:
    """Everything the threat model grants, and nothing else.

    A computational server (or anyone on the wire) that may query the defended client with images of its own: it knows
    the mechanism (Kerckhoffs), so it can draw fresh noise for an activation it has already asked for. It never sees the
    images it is scored on, the training images of the target, or their labels.
    """

    client: Callable[[Images], Activation]
    """The client as an oracle, before the defence."""
    defend: Callable[[Activation], Smashed]
    """The mechanism on the wire, with fresh randomness at every call."""
    surrogate: Pixels
    """The attacker's own images."""
    threat_model: str = "query access to the defended client, own images only"

    @cached_property
    def activations(self) -> Activation:
        """The client's answers to the own images, asked for once: it is deterministic."""
        with torch.no_grad():
            return torch.cat([self.client(to_unit(block)) for block in self.surrogate.split(BLOCK)])


class Attack(Protocol):
    """Anything that can turn what crossed the wire back into pictures."""

    def reconstruct(self, smashed: Smashed) -> Images:
        """Guess the images `(N, C, H, W)` in [0, 1] from what crossed the wire."""
        ...
