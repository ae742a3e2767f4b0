"""The refiner: a few learned steps from another attack's guess, each along the gradient of the misfit.

After Adler & Öktem 2017 (learned gradient descent): a network sees the guess and the gradient of how badly it explains
what was heard, through the client, and learns how far to follow it. It also sees the echo: what the first attack makes
of the guess itself, sent through the client, which tells how that attack errs just here. The steps are trained one by
one, each to come as near as it can, so that nothing is differentiated twice. On MNIST without a defence they lower the
squared error of ridge regression from .0081 to .0028.
"""

import contextlib
import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from dataclasses import replace as changed
from itertools import zip_longest
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dpsnn.attacks.base import (
    BLOCK,
    DIVERGED,
    Attack,
    AttackModule,
    Knowledge,
    Learn,
    Need,
    WhiteBox,
    check_finite,
    gained,
    held_out,
    pays,
    prepare_within,
    trained,
)
from dpsnn.averaging import Averaging
from dpsnn.batches import TensorBatches, derived_seed, to_unit
from dpsnn.errors import Diverged, UsageError
from dpsnn.networks.refine import RefiningStep
from dpsnn.parts import find, option
from dpsnn.tensors import Inputs
from dpsnn.training import Fitted, seeded

BATCH = 64

RATE = 2e-3
"""Adam's largest step size."""


@contextlib.contextmanager
def _factors_in_bf16(asked: bool) -> Iterator[None]:
    """Have float32 products made of bfloat16 factors, where a CPU has these, if that is asked.

    For the way through the client and back while steps are trained in bfloat16: their training takes a fifth less, and
    the own error is the same in its first two digits. They are judged, and used, with float32 ones. What was heard
    stays float32, and so does the first attack, whose linear map may be made of large numbers that cancel.
    """
    torch_on_cpu: Any = torch.backends.mkldnn
    kinds = (torch_on_cpu.conv, torch_on_cpu.matmul) if asked else ()
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "bf16"
        yield
    finally:
        for kind, usual in zip(kinds, before):
            kind.fp32_precision = usual


@dataclass(frozen=True, kw_only=True)
class Refiner(Attack):
    """Better another attack's guess by learned steps along the gradient through the client; white-box."""

    key = "refiner"
    version = 1  # still, since factors are in bf16: own errors keep their first two digits
    order = 25
    learns = True

    first: str = option("ridge", "attack that gives the first guess, with its usual settings")
    steps: int = option(3, "learned steps", least=1)
    epochs: int = option(10, "passes over the own images", least=1)
    doublings: int = option(
        0,
        "how often at most to train anew for twice the epochs, until that lowers the own error by 3 percent or less",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first == self.key:
            raise UsageError(
                "a refiner cannot refine itself; name another attack as --refiner_first"
            )
        self.method  # known

    @property
    def method(self) -> Attack:
        """The settings of the attack that guesses first."""
        made: Attack = find("attack", self.first)()
        return made

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.WEIGHTS, Need.QUERIES, Need.TRANSMISSIONS}) | self.method.needs

    @property
    def scored(self) -> int | None:  # type: ignore[override]
        """As many images as the first attack is."""
        return self.method.scored

    @property
    def effort(self) -> float:
        return trained(self.doublings)

    def build(self, knowledge: Knowledge, queries: int, seed: int) -> AttackModule:
        assert isinstance(knowledge, WhiteBox)
        return LearnedSteps(
            knowledge,
            lambda known: self.method.build(known, queries, seed),
            self.steps,
            self.epochs,
            queries,
            seed,
            self.doublings,
        )


class LearnedSteps(AttackModule, Averaging):
    """Train a few steps on own images, from guesses as good as those of images that nobody has seen.

    Guesses of images that the first attack was trained on are better than those it will make. So the own images are
    halved, a first attack learns from each, and its guesses of the other half are what the steps are trained on; in
    the end a third one, of all, guesses. (With 600 own images of MNIST and no defence that leaves a squared error of
    .0067, where guesses of images already known leave .0076.)

    Args:
        knowledge: The client with gradients, the likelihood of the mechanism, own images.
        make: The first attack, of some knowledge.
        steps: Learned steps.
        epochs: Passes over the own images.
        queries: Transmissions of each image that will be heard.
        seed: Of the split of the own images, their order, and noise.
        doublings: How often at most to train anew for twice the epochs.
    """

    usual: Tensor

    def __init__(
        self,
        knowledge: WhiteBox,
        make: Callable[[Knowledge], AttackModule],
        steps: int = 3,
        epochs: int = 10,
        queries: int = 1,
        seed: int = 0,
        doublings: int = 0,
    ) -> None:
        super().__init__()
        self.knowledge, self.make = knowledge, make
        self.epochs, self.queries, self.seed = epochs, queries, seed
        self.doublings, self.gains = doublings, list[float]()
        self.first = make(knowledge)
        channels = knowledge.image_shape[0]
        self.steps = nn.ModuleList(RefiningStep(channels, 3, 1) for _ in range(steps))
        self.register_buffer("usual", torch.ones(()))

    # ------------------------------------------------------------ what it does

    @property
    def at_once(self) -> int | None:  # type: ignore[override]
        """As many as the first attack takes."""
        return self.first.at_once

    def infer(self, heard: Float[Tensor, "queries n *cut"]) -> Inputs:
        """The guesses after the last step.

        Raises:
            NotFinite: If they are infinity or NaN.
        """
        with torch.no_grad():
            firsts = self.first.infer(heard)
            parts = zip(firsts.split(BLOCK), heard.split(BLOCK, 1))
            refined = [self._refined(self.first, *part)[-1].sigmoid() for part in parts]
        guesses = torch.cat(refined)
        check_finite(guesses, what="refined guess")
        return guesses

    def _refined(self, first: AttackModule, start: Tensor, heard: Tensor) -> list[Tensor]:
        """The logits that each step gives, from the guesses of a first attack."""
        found, guess = [], start
        tiny = torch.finfo(start.dtype).tiny
        for step in self.steps:
            slope, echo = self._hints(first, guess, heard)
            length = slope.flatten(1).norm(dim=1).clamp(min=tiny)
            # Values of about 1, in any number.
            direction = slope[0].numel() ** 0.5 * slope / length.view(-1, 1, 1, 1)
            relative = (length / self.usual).log().clamp(-10, 10)
            found.append(step(guess, [direction, start, echo - guess], relative[:, None]))
            guess = found[-1].detach().sigmoid()
        return found

    def _hints(self, first: AttackModule, guess: Tensor, heard: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of the misfit with respect to the guess, and the guess's echo.

        Whoever wants all images at once, as it asks much of itself each time, is asked for no echo.
        """
        device = guess.device.type
        brief = self.training and torch.is_autocast_enabled(device)
        with torch.inference_mode(False), torch.autocast(device, enabled=False):
            # Tensors of inference mode take no part in a backward pass.
            images, heard = guess.detach().clone().requires_grad_(), heard.clone()
            with torch.enable_grad(), _factors_in_bf16(brief):
                activation = self.knowledge.client(images)
                value = self.knowledge.misfit(activation, heard)
                (slope,) = torch.autograd.grad(value.sum(), images)
            with torch.no_grad():
                sent = activation.detach().expand_as(heard)
                echo = guess if first.at_once is None else first.infer(sent)
        return slope, echo

    # ------------------------------------------------------------ how it learns

    def prepare(self, learn: Learn) -> Fitted:
        """Train the first attacks, hear own images, and train the steps.

        Raises:
            NoLikelihood: If the mechanism has none.
            UsageError: If there are too few own images.
        """
        start = time.monotonic()
        own = self.knowledge.surrogate
        if len(own) < 6:
            raise UsageError(
                f"a refiner with {len(own)} images of its own cannot learn; it needs 6 or more"
            )
        rest, self._out = held_out(len(own), self.seed)
        self._halves = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        self._others = [self._guesser(half, learn) for half in self._halves]
        self.first = self._guesser(rest, learn)
        heard, guess = self._overheard(self.first, self._out, 9)
        blocks = zip(guess.split(BLOCK), heard.split(BLOCK, 1))
        slopes = [self._hints(self.first, *both)[0] for both in blocks]
        lengths = torch.cat(slopes).flatten(1).norm(dim=1)
        if usual := lengths.median():
            self.usual.copy_(usual)
        self._val = to_unit(own[self._out]), guess, heard.transpose(0, 1)
        self.train()  # the first attack is asked in validation alone
        untrained = copy.deepcopy(self.steps.state_dict())
        fitted = learn(self, monitor="val/mse", mode="min", max_epochs=self.epochs)
        while pays(self.gains, self.doublings):
            fitted = self._doubled(learn, untrained, fitted)
        del self._others
        return fitted._replace(seconds=time.monotonic() - start)

    def _doubled(self, learn: Learn, untrained: dict[str, Tensor], once: Fitted) -> Fitted:
        """Train anew for twice the epochs, with the schedule stretched, and keep what is better."""
        found, epochs = copy.deepcopy(self.steps.state_dict()), 2 * self.epochs
        self.steps.load_state_dict(untrained)
        self.train()
        try:
            twice = learn(
                self,
                monitor="val/mse",
                mode="min",
                max_epochs=epochs,
                trial=f"  trying {epochs} epochs",
            )
        except Diverged:
            # What was found before is as good as it was; whether more epochs would better it is known of those before.
            self.gains = self.gains or [DIVERGED]
            self.doublings = len(self.gains)
            self.steps.load_state_dict(found)
            self.to("cpu", memory_format=torch.contiguous_format).eval()
            return once
        self.gains.append(gained(once.value, twice.value))
        if twice.value >= once.value:
            self.steps.load_state_dict(found)
            return once
        self.epochs = epochs
        return twice

    def chosen(self) -> dict[str, Any]:
        return {"doubling": self.gains[-1], "epochs": self.epochs} if self.gains else {}

    def _guesser(self, rows: Tensor, learn: Learn) -> AttackModule:
        """A first attack that knows these own images alone."""
        known = changed(self.knowledge, surrogate=self.knowledge.surrogate[rows])
        what = f"first guesses, learnt from {len(rows)} images"
        return prepare_within(self.make(known), learn, what, self.usual.device)

    @torch.no_grad()
    def _overheard(self, first: AttackModule, rows: Tensor, *stream: int) -> tuple[Tensor, Tensor]:
        """Transmissions of own images, and what a first attack makes of them."""
        heard, guesses = [], []
        with seeded(self.seed, *stream):
            for some in rows.split(first.at_once or len(rows)):
                activation = self.knowledge.activations[some]
                said = torch.stack([self.knowledge.defend(activation) for _ in range(self.queries)])
                heard.append(said)
                guesses.append(first.infer(said))
        return torch.cat(heard, 1), torch.cat(guesses)

    def train_dataloader(self) -> "Turns":
        epoch = self.trainer.current_epoch
        parts = []
        for number, (half, other) in enumerate(zip(self._halves, reversed(self._others))):
            heard, guess = self._overheard(other, half, 10, epoch, number)
            of_half = self.knowledge.surrogate[half], guess, heard.transpose(0, 1)
            seed = derived_seed(self.seed, 11, epoch, number)
            parts.append(TensorBatches(*of_half, batch_size=BATCH, shuffle_seed=seed))
        return Turns(*parts)

    def val_dataloader(self) -> TensorBatches:
        return TensorBatches(*self._val, batch_size=256)

    def training_step(self, batch: tuple[int, Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        half, images, start, heard = batch
        found = self._refined(self._others[1 - half], start, heard.transpose(0, 1))
        # As the decoder's: its gradient does not vanish on dark backgrounds.
        losses = [F.binary_cross_entropy_with_logits(better, images) for better in found]
        loss = torch.stack(losses).sum()
        self.log_means(len(images), {"train/loss": loss})
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        images, start, heard = batch
        guess = self._refined(self.first, start, heard.transpose(0, 1))[-1].sigmoid()
        error = F.mse_loss(guess, images)
        self.log_means(len(images), {"val/mse": error})

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.steps.parameters(), RATE, fused=True)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, RATE, total_steps=steps, pct_start=0.1, cycle_momentum=False
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Turns:
    """Batches of both halves in turn, each behind the number of its half."""

    def __init__(self, *halves: TensorBatches) -> None:
        self.halves = halves

    def __len__(self) -> int:
        return sum(len(half) for half in self.halves)

    def __iter__(self) -> Iterator[tuple[int | Tensor, ...]]:
        for both in zip_longest(*self.halves):
            yield from ((number, *each) for number, each in enumerate(both) if each is not None)
