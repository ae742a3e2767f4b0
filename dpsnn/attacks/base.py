"""What an attacker knows, and what an attack must be able to do."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, ClassVar, Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from dpsnn.batches import (  # noqa: F401  attacks average what they hear
    average,
    derived_seed,
    to_unit,
)
from dpsnn.errors import UsageError
from dpsnn.metrics import relative_misfit
from dpsnn.names import TRAINING_TOKENS
from dpsnn.parts import Part
from dpsnn.signals import check
from dpsnn.tensors import Activation, Inputs, Logits, Smashed
from dpsnn.training import FULL, Fitted

OWN_VALIDATION = 0.1
"""Share of the attacker's images on which it judges what it learnt."""

BLOCK = 100
"""Images per query: larger blocks are slower, as their feature maps leave the processor's cache."""

# ---------------------------------------------------------------- what an attacker knows


class Need(StrEnum):
    """What an attack cannot do without; it is handed what it names here, and nothing else."""

    QUERIES = "queries"
    """The defended client as an oracle for images of its own; it answers without gradients."""
    WEIGHTS = "weights"
    """The client's weights, hence its gradients, and the density of what the mechanism adds."""
    DENSITY = "density"
    """How likely what is heard is for a given activation, as the mechanism is public; without gradients."""
    SERVER = "server"
    """The server's half, with gradients for who has the client's."""
    LABELS = "labels"
    """The classes that the server tells apart."""
    TRANSMISSIONS = "transmissions"
    """Each image may be heard several times."""


Misfit = Callable[[Activation, Float[Tensor, "q n *cut"]], Float[Tensor, " n"]]
"""Activation, q transmissions of each image → one value each, the lower the better."""

Pairwise = Callable[[Float[Tensor, " m *cut"], Float[Tensor, "q n *cut"]], Float[Tensor, "n m"]]
"""m activations, q transmissions of each of n images → -ln of how likely what was heard is for each activation."""


@dataclass(frozen=True)
class Knowledge:
    """Everything the threat model grants, and nothing else.

    A computational server (or anyone on the wire) that may query the defended client with images of its own: it knows
    the mechanism (Kerckhoffs), so it can draw fresh noise for an activation it has already asked for. It never sees the
    images it is scored on, the training images of the target, or their labels.
    """

    client: Callable[[Inputs], Activation]
    """The client as an oracle, before the defence."""
    defend: Callable[[Activation], Smashed]
    """The mechanism on the wire, with fresh randomness at every call."""
    surrogate: Inputs
    """The attacker's own images, as bytes or in the client's units; there may be none."""
    threat_model: str = "query access to the defended client, own images only"

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of one image, `(C, H, W)`."""
        return tuple(self.surrogate.shape[1:])

    @cached_property
    def cut_shape(self) -> tuple[int, ...]:
        """Of the activation of one image."""
        with torch.no_grad():
            return tuple(
                self.client(to_unit(self.surrogate.new_zeros(1, *self.image_shape))).shape[1:]
            )

    @cached_property
    def activations(self) -> Activation:
        """The client's answers to the own images, asked for once: it is deterministic."""
        with torch.no_grad():
            return torch.cat([self.client(to_unit(block)) for block in self.surrogate.split(BLOCK)])


@dataclass(frozen=True)
class Insider(Knowledge):
    """Who holds more than the wire: each of these is None unless it was named as a need."""

    server: Callable[[Smashed], Logits] | None = None
    labels: Int[Tensor, " classes"] | None = None
    """All classes."""
    pairwise: Pairwise | None = None
    """NoLikelihood if the mechanism has none; where it adds no noise, half the squared distance."""


@dataclass(frozen=True)
class WhiteBox(Insider):
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


def held_out(count: int, seed: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " m"]]:
    """Rows of own images to learn from, and of those on which an attacker judges what it learnt.

    Raises:
        UsageError: If there is none left to judge by.
    """
    if count < 2:
        raise UsageError(
            f"an attacker with {count} images of its own cannot learn; it needs 2 or more, one of them to choose its"
            " best epoch by"
        )
    generator = torch.Generator().manual_seed(derived_seed(seed, 0))
    order = torch.randperm(count, generator=generator)
    out = max(1, round(OWN_VALIDATION * count))
    return order[out:], order[:out]


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


# ---------------------------------------------------------------- what an attack is


@runtime_checkable
class Learn(Protocol):
    """A training as whoever runs the attack wants it: where its progress is kept, and in which precision.

    Whoever goes on after an interruption may do all of `prepare` again: it must come to the same trainings in the same
    order, all but one of them trials.
    """

    def __call__(
        self,
        module: pl.LightningModule,
        *,
        monitor: str,
        mode: str,
        max_epochs: int,
        trial: str = "",
    ) -> Fitted:
        """Train the module, which keeps the epoch that was best.

        Args:
            module: What is to learn.
            monitor: The quantity that tells which epoch was best.
            mode: `min` or `max` of it.
            max_epochs: Passes over its data.
            trial: What a training is for that only prepares another, to be shown.
        """
        ...


COMMON = ("naive", *TRAINING_TOKENS)
"""Options of which tables have columns for all attacks."""


@dataclass(frozen=True, kw_only=True)
class Attack(Part):
    """Settings of one attack, plain values; what does the work is what they build.

    Options that several attacks have under one name, such as `--steps`, have one default.

    Attributes:
        scored: Images on which it is scored, the first; None is all, and a number is for who takes minutes for each.
        learns: Whether it is trained in epochs, in a precision that can be chosen.
    """

    kind = "attack"
    scored: ClassVar[int | None] = None
    learns: ClassVar[bool] = False

    @property
    def on(self) -> bool:
        return True

    def build(self, knowledge: Knowledge, queries: int, seed: int) -> "AttackModule":
        """The attack itself, not prepared yet.

        Args:
            knowledge: Exactly what it needs; there may be no own images in it, which are for its preparation.
            queries: Transmissions of each image that it will hear.
            seed: Of what it draws and is not drawn for it.
        """
        raise NotImplementedError

    @property
    def needs(self) -> frozenset[Need]:
        """What it cannot do without; it is handed nothing else. Where no setting changes it, a plain attribute."""
        return frozenset()

    @property
    def unaware(self) -> bool:
        """Whether its preparation asks for activations alone, and would be the same under any mechanism."""
        return False

    @property
    def effort(self) -> float:
        """How many times as long as usual it takes to prepare, about; of several the longest is begun first."""
        return 1.0

    def aware(self) -> "Attack":
        """The attack that it is where the mechanism does nothing."""
        return self

    def token(self) -> str:
        """Words in names, those that are not the default."""
        words = (each for each in self._changed() if isinstance(each.default, bool | str))
        return "".join(
            f"_{each.name if isinstance(each.default, bool) else getattr(self, each.name)}"
            for each in words
        )

    def amounts(self) -> str:
        """Numbers in names, those that are not the default."""
        numbers = (each for each in self._changed() if not isinstance(each.default, bool | str))
        return "".join(
            f"_{self._spelled(each)}{each.name.replace('_', '')}"
            for each in numbers
            if self.flat(each.name) not in TRAINING_TOKENS
        )

    def _changed(self) -> list[Field[Any]]:
        return [each for each in self.own_fields() if getattr(self, each.name) != each.default]

    def columns(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """As of any part, but for what tables say of every attack."""
        return {
            self.column(each.name): getattr(self, each.name)
            for each in self.own_fields()
            if self.flat(each.name) not in COMMON
        }


class AttackModule(nn.Module):
    """Turns what crossed the wire back into images.

    What it finds out beforehand stands in its parameters and buffers. One that must have its own images at hand to
    reconstruct keeps them in a buffer called `own`, as they came: it is built anew around those in its checkpoint.
    """

    at_once: ClassVar[int | None] = None
    """Images that it is given at a time; None gives it all."""

    def fit(self) -> float | None:
        """Find out on own images what is left open; by default there is nothing to learn.

        Returns:
            The mean squared error that this leaves on own images held out, if any were.
        """
        return None

    def prepare(self, learn: Learn) -> Fitted:
        """Do whatever comes before the first image is heard; who learns in epochs has `learn` train it."""
        start = time.monotonic()
        error = self.fit()
        error = math.nan if error is None else error
        return Fitted(0, error, time.monotonic() - start, FULL)

    def chosen(self) -> dict[str, Any]:
        """Settings that it chose itself, for the record."""
        return {}

    def infer(self, heard: Float[Tensor, "queries n *cut"]) -> Inputs:
        """Guess the images, in [0, 1], from all transmissions of each."""
        raise NotImplementedError

    def infer_in_parts(self, heard: Float[Tensor, "queries n *cut"]) -> Inputs:
        """The same for any number of images, for who was not asked how many it takes at a time."""
        parts = heard.split(self.at_once or max(1, heard.shape[1]), 1)
        return torch.cat([self.infer(part) for part in parts])

    def reconstruct(self, smashed: Smashed) -> Inputs:
        """Guess the images from one transmission of each."""
        return self.infer(smashed.unsqueeze(0))


NO_MORE = 0.03
"""Share of the own error by which twice the epochs must lower it, or training pays no more."""


DIVERGED = -math.inf
"""By how much twice the epochs lower the own error where their training leaves the finite numbers."""


def pays(gains: Sequence[float], doublings: int) -> bool:
    """Whether to train anew for twice the epochs.

    Args:
        gains: By how much each doubling so far lowered the own error, as a share.
        doublings: How often at most.
    """
    return len(gains) < doublings and (not gains or gains[-1] > NO_MORE)


def trained(doublings: int) -> float:
    """Trainings as long as the first that doublings come to, it included, if all of them are made."""
    return 2.0 ** (doublings + 1) - 1


def gained(once: float, twice: float) -> float:
    """By how much twice the epochs lowered the own error, as a share; 0 where there was none to lower."""
    return 1 - twice / once if once else 0.0


def prepare_within(
    inner: AttackModule, learn: Learn, what: str, device: torch.device
) -> AttackModule:
    """Prepare an attack that another one is made of.

    What it trains is a trial of that one.

    Args:
        inner: The attack.
        learn: Of the other one.
        what: It is there for, in a line.
        device: Where it is to be.
    """

    def on_the_way(
        module: pl.LightningModule, *, monitor: str, mode: str, max_epochs: int, trial: str = ""
    ) -> Fitted:
        named = trial or f"  {what}"
        return learn(module, monitor=monitor, mode=mode, max_epochs=max_epochs, trial=named)

    inner.to(device).prepare(on_the_way)
    return inner.to(device).eval().requires_grad_(False)
