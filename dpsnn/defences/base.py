"""A defence changes what crosses the wire, or how the client is trained, or both."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import torch
from jaxtyping import Float
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from dpsnn.defences import mechanism
from dpsnn.defences.densities import Guarantee
from dpsnn.defences.mechanism import Step, Unknown
from dpsnn.defences.values import Values
from dpsnn.errors import UsageError
from dpsnn.parts import Part
from dpsnn.tensors import Activation, Images, Labels, Number, Smashed


class CutInfo(NamedTuple):
    """What is known of the place where a network is cut."""

    shape: tuple[int, ...]
    """Of one activation."""
    image_shape: tuple[int, int, int]
    num_classes: int
    bound: float | None
    """Largest absolute value of the activation; None where nothing limits it."""


@dataclass(frozen=True, kw_only=True)
class Defence(Part):
    """Settings of one defence, plain values; what has a state is what they build.

    A defence acts on the wire (`build`), in the training (`callback`), or both. `order` is its place on the wire.

    Attributes:
        couples: How it lets the images of a batch touch one another, in words; empty where it does not.
        noisy: Whether what crosses the wire differs from one transmission of an input to the next.
        private: Whether training with it protects each training image by itself, so that nothing may couple them.
        precision: In which training must be then; empty leaves the choice.
    """

    kind = "defence"
    couples: ClassVar[str] = ""
    noisy: ClassVar[bool] = False
    private: ClassVar[bool] = False
    precision: ClassVar[str] = ""

    @property
    def place(self) -> int:
        """Where on the wire it stands: by default its `order`."""
        return self.order

    def check(self, spec: Any) -> None:
        """Refuse unsound company, or a training that it does not fit.

        Args:
            spec: The `ClassifierSpec` that it is part of.

        Raises:
            UsageError: If so.
        """

    def build(self, cut: CutInfo) -> "DefenceModule | None":
        """What acts on the wire, or adds to the loss; None where nothing does."""
        return None

    def callback(self, spec: Any, resumable: bool = False) -> Callback | None:
        """How it changes the training.

        Args:
            spec: What is trained.
            resumable: Whether the callback's state may hold secrets: only where it goes into a private file that is
                deleted at the end.
        """
        return None

    def prepare(self, callback: Any, data: Any) -> None:
        """Let the data be drawn as this training needs, before it starts."""

    def first_epoch(self, spec: Any) -> int:
        """Epoch, from 0, before which none is a candidate for the best."""
        return 0

    def record(self, callback: Any) -> Mapping[str, Any]:
        """What stands beside a model that was trained so."""
        return {}


class DefenceModule(nn.Module):
    """One defence; by default it does nothing."""

    part: Defence | None = None
    """The settings that it was built from."""

    @property
    def couples(self) -> str:
        """How gradients of single examples are not all that is learnt from them, in words; empty where they are."""
        if type(self).optimiser is DefenceModule.optimiser:
            return ""
        return f"{type(self).__name__} learns from the examples by an optimiser of its own"

    @property
    def place(self) -> int:
        """Where on the wire it stands."""
        return self.part.place if self.part else Defence.order

    def forward(self, activation: Activation) -> Smashed:
        """Turn the client's activation into what crosses the wire."""
        return activation

    def mechanism(self) -> Sequence[Step]:
        """What `forward` does, in steps: nothing where it is the one above, else unknown unless a defence says it.

        What is unknown has no likelihood and no guarantee.
        """
        untouched = type(self).forward is DefenceModule.forward
        return () if untouched else (Unknown(type(self).__name__),)

    @property
    def random(self) -> bool:
        """Whether the same activation may become another each time."""
        return any(step.random for step in self.mechanism())

    def penalty(self, images: Images, smashed: Smashed, labels: Labels | None = None) -> Tensor:
        """A scalar added to the training loss, of the images, what this defence gave, and the classes."""
        return torch.zeros((), device=smashed.device)

    def optimiser(self) -> torch.optim.Optimizer | None:
        """Of weights of its own that learn by `learn` alone, as an adversary's; None: they follow the training loss.

        It is made anew for every training, on the device of the weights; where that goes on, so does its state.
        """
        return None

    def learn(self, images: Images, smashed: Smashed, labels: Labels) -> Tensor:
        """What its own optimiser makes smaller behind every step of the classifier, of what crossed the wire."""
        raise NotImplementedError(f"{type(self).__name__} has an optimiser and nothing to learn")


class DefenceList(nn.ModuleList):
    """Defences applied in order; their penalties add up. A combination is a list, never a class.

    A penalty looks at what has come as far as its defence: behind noise at noisy values, before it at clean ones.
    """

    def __init__(self, defences: Iterable[DefenceModule] = ()) -> None:
        super().__init__(defences)

    def __iter__(self) -> Iterator[DefenceModule]:
        return cast(Iterator[DefenceModule], super().__iter__())

    def mechanism(self) -> list[Step]:
        """The steps of all of them."""
        return [step for defence in self for step in defence.mechanism()]

    def misfit(
        self, activation: Activation, heard: Float[Tensor, "q n *cut"]
    ) -> Float[Tensor, " n"]:
        """How badly an activation explains q transmissions of it; see `mechanism.misfit`."""
        return mechanism.misfit(self.mechanism(), activation, heard)

    def pairwise(
        self, known: Float[Tensor, " m *cut"], heard: Float[Tensor, "q n *cut"]
    ) -> Float[Tensor, "n m"]:
        """How badly each of m activations explains what was heard of each of n; see `mechanism.pairwise`."""
        return mechanism.pairwise(self.mechanism(), known, heard)

    def guarantee(
        self, cut_shape: Sequence[int], bound: Number | None, queries: int = 1
    ) -> Guarantee:
        """ε and δ of sending an input `queries` times, its activation within ±bound; see `mechanism.guarantee`."""
        limit = math.inf if bound is None else bound
        values = Values(math.prod(cut_shape), -limit, limit)
        return mechanism.guarantee(self.mechanism(), values, queries)

    def forward(self, activation: Activation) -> Smashed:
        for defence in self:
            activation = defence(activation)
        return activation

    def train_on(
        self, images: Images, activation: Activation, labels: Labels | None = None
    ) -> tuple[Smashed, Tensor]:
        """What crosses the wire, and the sum of the penalties."""
        total = torch.zeros((), device=activation.device)
        for defence in self:
            activation = defence(activation)
            total = total + defence.penalty(images, activation, labels)
        return activation, total


def checked_strength(value: Number, what: str) -> float:
    """`value` if it is finite and not negative; a UsageError that names `what` otherwise."""
    if not math.isfinite(value) or value < 0:
        raise UsageError(f"{what} is {value}; it must be a finite number, 0 or greater")
    return float(value)
