"""What an attacker knows, and what an attack must be able to do."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from dpsnn.batches import to_unit
from dpsnn.errors import UsageError
from dpsnn.metrics import relative_misfit
from dpsnn.signals import check
from dpsnn.tensors import Activation, Images, Pixels, Smashed

BLOCK = 100
"""Images per query: larger blocks are slower, as their feature maps leave the processor's cache."""


Misfit = Callable[[Activation, Float[Tensor, "q n *cut"]], Float[Tensor, " n"]]
"""Activation, q transmissions of each image → one value each, the lower the better."""


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


@dataclass(frozen=True)
class WhiteBox(Knowledge):
    """A server that has the client's weights as well, and hence its gradients; it may not sample the noise alone.

    `client` must let gradients through to its images. The mechanism on the wire is public; what is drawn from it is
    not.
    """

    misfit: Misfit = relative_misfit
    """How badly an activation explains what was heard, by the mechanism: -ln of its likelihood; NoLikelihood if that is
    not known. The default knows of no noise."""
    threat_model: str = "weights of the client, its mechanism, own images only"


class NotFinite(UsageError):
    """An attack left the finite numbers."""


def check_finite(
    values: Tensor,
    step: int | None = None,
    what: str = "objective",
    cause: str = "the smashed tensor may hold such values already, else lower --learning_rate",
) -> None:
    """Stop an attack that can only waste time from here on.

    Args:
        values: Of each image, `(N, ...)`.
        step: Steps done, if the attack takes any.
        what: What they are.
        cause: Where such values come from, in words.

    Raises:
        NotFinite: With the first image concerned.
    """
    finite = values.isfinite()
    if not finite.all():
        place = (~finite).nonzero()[0].tolist()
        found = values[tuple(place)].item()
        when = "" if step is None else f" after {step} steps"
        raise NotFinite(f"the {what} of image {place[0]} is {found}{when}; {cause}")


@contextlib.contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on standard error, where that is a terminal; what it yields is called once a step."""
    with Progress(
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        task = bar.add_task(title, total=total)

        def advance() -> None:
            check()
            bar.advance(task)

        yield advance


class Attack(Protocol):
    """Anything that can turn what crossed the wire back into pictures."""

    def reconstruct(self, smashed: Smashed) -> Images:
        """Guess the images `(N, C, H, W)` in [0, 1] from what crossed the wire."""
        ...
