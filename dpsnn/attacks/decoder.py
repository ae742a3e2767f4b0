"""The learned attack: train a decoder on pairs of own images and what the defended client makes of them."""

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dpsnn.attacks.base import OWN_VALIDATION  # noqa: F401  known here as well
from dpsnn.attacks.base import (
    BLOCK,
    Attack,
    AttackModule,
    Knowledge,
    Learn,
    Need,
    average,
    check_finite,
    held_out,
)
from dpsnn.batches import TensorBatches, derived_seed, to_unit
from dpsnn.errors import Diverged, one_of
from dpsnn.networks.decoder import DECODERS, Decoder
from dpsnn.networks.front import Front
from dpsnn.parts import option
from dpsnn.tensors import Activation, Images, Number, Smashed
from dpsnn.training import Fitted

LEAST_STEPS = 32
"""Steps per epoch: an attacker with few images goes through them several times, rather than train less."""

LARGEST_GRADIENT = 1.0
"""Norm to which gradients are clipped: one overshoot must not fill Adam's memory for epochs to come."""


@dataclass(frozen=True, kw_only=True)
class LearnedDecoder(Attack):
    """Learn from own images to turn what crosses the wire back into pictures."""

    key = "decoder"
    version = 2  # since the default decoder looks at the wire before it learns
    earlier = (1,)
    order = 10
    since = 1
    needs = frozenset({Need.QUERIES, Need.TRANSMISSIONS})
    learns = True

    naive: bool = option(
        False, "train on clean activations, ignoring the noise on the wire", name="naive"
    )
    decoder: str = option(
        "conv",
        "conv (with ReLUs), linear (Titcombe et al.) or deconv (published for Omniglot)",
        name="decoder",
        column="Decoder",
    )
    max_epochs: int = option(
        20,
        "passes over the attacker's images; the best on its own part is kept",
        name="max_epochs",
        least=1,
    )
    batch_size: int = option(64, "images per step", name="batch_size", least=1)
    learning_rate: Number | None = option(
        None,
        "largest step size (default: tuned on own images)",
        name="learning_rate",
        check="positive",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.decoder, DECODERS, "decoder")

    def build(self, knowledge: Knowledge, queries: int, seed: int) -> AttackModule:
        channels, height, width = knowledge.image_shape
        decoder = DECODERS[self.decoder](knowledge.cut_shape, (channels, height, width))
        looks = decoder.looks and self.present > 1
        return DecoderAttack(
            decoder,
            knowledge,
            self.naive,
            queries,
            self.learning_rate,
            self.batch_size,
            self.max_epochs,
            seed,
            Front(knowledge.cut_shape) if looks else None,
        )

    @property
    def unaware(self) -> bool:
        return self.naive

    def aware(self) -> Attack:
        return replace(self, naive=False)


def transmissions(
    defend: Callable[[Activation], Smashed], activation: Activation, queries: int
) -> Iterator[Smashed]:
    """Several transmissions of the same images, each with noise of its own."""
    return (defend(activation) for _ in range(queries))


def averaged(
    defend: Callable[[Activation], Smashed], activation: Activation, queries: int
) -> Smashed:
    """The mean of several transmissions of the same images."""
    return average(transmissions(defend, activation, queries))


class DecoderAttack(AttackModule, pl.LightningModule):
    """Train a decoder on the attacker's own images and judge it by its squared error on some of them held out.

    The client is asked once for every own image; noise is drawn anew for every batch of every epoch, so that the
    decoder learns the mean image given the smashed tensor and not one draw of the noise.

    Args:
        decoder: Network from smashed `(N, *cut)` to pictures `(N, C, H, W)`.
        knowledge: What the threat model grants; needed to train, not to reconstruct.
        naive: Train (and validate) on clean activations, as the published attackers did.
        queries: Transmissions of every image that the attacker averages; the spread of the noise falls with the root.
        learning_rate: Adam's largest step size; it is reached after a tenth of the steps and decays along a cosine.
            None: the one of the decoder's `rates` that serves best on own validation images, in a short training.
        batch_size: Images per step.
        max_epochs: Passes over the own images.
        seed: Seed of the split into training and own validation part and of the order of images.
        front: What looks at the wire before the decoder does; None: it gets the mean of what is heard, as it is.
    """

    at_once = BLOCK

    def __init__(
        self,
        decoder: Decoder,
        knowledge: Knowledge | None = None,
        naive: bool = False,
        queries: int = 1,
        learning_rate: Number | None = 3e-3,
        batch_size: int = 64,
        max_epochs: int = 20,
        seed: int = 0,
        front: Front | None = None,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.front = front
        self.knowledge = knowledge
        self.naive = naive
        self.queries = queries
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.seed = seed

    @property
    def channels_last(self) -> bool:
        return self.decoder.channels_last

    def chosen(self) -> dict[str, Any]:
        return {"learning_rate": self.learning_rate}

    def prepare(self, learn: Learn) -> Fitted:
        """Look at the wire, find a step size where none is named, then train."""
        self._look()
        self.learning_rate = self.learning_rate or self._best_rate(learn)
        return learn(self, monitor="val/mse", mode="min", max_epochs=self.max_epochs)

    def _look(self) -> None:
        """Let the front see own images that the decoder is not chosen by."""
        assert self.knowledge is not None
        if self.front:
            rows, _ = held_out(len(self.knowledge.surrogate), self.seed)
            own = self.knowledge.activations[rows], to_unit(self.knowledge.surrogate[rows])
            hear = (lambda activation: activation) if self.naive else self.knowledge.defend
            self.front.look(own[0], hear, 1 if self.naive else self.queries, own[1])

    def _best_rate(self, learn: Learn) -> float:
        """The step size that serves best in a twentieth of the training.

        Raises:
            Diverged: If training leaves the finite numbers with each of them.
        """
        results = {}
        epochs = max(1, self.max_epochs // 20)
        for rate in self.decoder.rates:
            trial = DecoderAttack(
                copy.deepcopy(self.decoder),
                self.knowledge,
                self.naive,
                self.queries,
                rate,
                self.batch_size,
                epochs,
                self.seed,
                self.front,
            )
            with contextlib.suppress(Diverged):
                fitted = learn(
                    trial,
                    monitor="val/mse",
                    mode="min",
                    max_epochs=epochs,
                    trial=f"  trying learning rate {rate:g}",
                )
                results[rate] = fitted.value
        if not results:
            raise Diverged(
                f"training the attacker diverged with each of the step sizes {self.decoder.rates}; name a lower one"
                " with --learning_rate"
            )
        return min(results, key=lambda rate: results[rate])

    def forward(self, heard: Iterable[Smashed]) -> Images:
        """Pictures from all transmissions of each image."""
        return self.decoder(self._seen(heard))

    def _seen(self, heard: Iterable[Smashed]) -> Smashed:
        return self.front(heard) if self.front else average(heard)

    @torch.no_grad()
    def infer(self, heard: Float[Tensor, "queries n *cut"]) -> Images:
        """Pictures in [0, 1]; clipping an unbounded decoder there can only bring it closer to the truth.

        Raises:
            NotFinite: If the decoder gives infinity or NaN, of which clipping would make white or nothing.
        """
        pictures = self(heard)
        cause = "the smashed tensor may hold such values, else train the attacker again"
        check_finite(pictures, what="reconstruction", cause=cause)
        return pictures.clamp(0, 1)

    @torch.no_grad()
    def setup(self, stage: str) -> None:
        assert self.knowledge is not None, "an attack is trained on a Knowledge"
        device = self.trainer.strategy.root_device
        pixels = self.knowledge.surrogate.to(device)
        rows = [each.to(device) for each in held_out(len(pixels), self.seed)]
        activations = self.knowledge.activations.to(device)
        self._train, self._val = ((activations[each], pixels[each]) for each in rows)

    def train_dataloader(self) -> TensorBatches:
        seed = derived_seed(self.seed, 1, self.trainer.current_epoch)
        passes = -(-LEAST_STEPS * self.batch_size // len(self._train[0]))
        return TensorBatches(
            *self._train, batch_size=self.batch_size, shuffle_seed=seed, passes=passes
        )

    def val_dataloader(self) -> TensorBatches:
        return TensorBatches(*self._val, batch_size=256)

    def _sent(self, activation: Activation) -> Iterator[Smashed]:
        """What this attacker takes the wire to carry."""
        assert self.knowledge is not None
        if self.naive:
            return iter([activation])
        return transmissions(self.knowledge.defend, activation, self.queries)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        activation, images = batch
        loss = self.decoder.loss(self._seen(self._sent(activation)), images)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(images))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        activation, images = batch
        error = F.mse_loss(self(self._sent(activation)), images)
        self.log("val/mse", error, on_step=False, on_epoch=True, batch_size=len(images))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # Lightning's own clipping refuses fused optimisers, and torch's multiplies even where the norm is small enough.
        total = torch.nn.utils.get_total_norm(
            [p.grad for p in self.parameters() if p.grad is not None]
        )
        if total > LARGEST_GRADIENT:
            torch.nn.utils.clip_grads_with_norm_(self.parameters(), LARGEST_GRADIENT, total)

    def configure_optimizers(self) -> Any:
        assert self.learning_rate, "a step size is found before training"
        optimizer = torch.optim.Adam(self.parameters(), self.learning_rate, fused=True)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=steps, pct_start=0.1, cycle_momentum=False
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]
