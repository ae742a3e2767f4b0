"""The learned attack: train a decoder on pairs of own images and what the defended client makes of them."""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from dpsnn.attacks.base import Knowledge, check_finite
from dpsnn.batches import TensorBatches, derived_seed
from dpsnn.errors import UsageError
from dpsnn.networks.decoder import Decoder
from dpsnn.tensors import Activation, Images, Smashed

OWN_VALIDATION = 0.1
"""Share of the attacker's images on which it chooses its best epoch."""

LEAST_STEPS = 32
"""Steps per epoch: an attacker with few images goes through them several times, rather than train less."""

LARGEST_GRADIENT = 1.0
"""Norm to which gradients are clipped: one overshoot must not fill Adam's memory for epochs to come."""


def averaged(
    defend: Callable[[Activation], Smashed], activation: Activation, queries: int
) -> Smashed:
    """The mean of several transmissions of the same images, each with noise of its own."""
    total = defend(activation)
    for _ in range(queries - 1):
        total = total + defend(activation)
    return total / queries if queries > 1 else total


class DecoderAttack(pl.LightningModule):
    """Train a decoder on the attacker's own images and judge it by its squared error on some of them held out.

    The client is asked once for every own image; noise is drawn anew for every batch of every epoch, so that the
    decoder learns the mean image given the smashed tensor and not one draw of the noise.

    Args:
        decoder: Network from smashed `(N, *cut)` to pictures `(N, C, H, W)`.
        knowledge: What the threat model grants; needed to train, not to reconstruct.
        naive: Train (and validate) on clean activations, as the published attackers did.
        queries: Transmissions of every image that the attacker averages; the spread of the noise falls with the root.
        learning_rate: Adam's largest step size; it is reached after a tenth of the steps and decays along a cosine.
        batch_size: Images per step.
        seed: Seed of the split into training and own validation part and of the order of images.
    """

    def __init__(
        self,
        decoder: Decoder,
        knowledge: Knowledge | None = None,
        naive: bool = False,
        queries: int = 1,
        learning_rate: float = 3e-3,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.knowledge = knowledge
        self.naive = naive
        self.queries = queries
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.seed = seed

    @property
    def channels_last(self) -> bool:
        return self.decoder.channels_last

    def forward(self, smashed: Smashed) -> Images:
        return self.decoder(smashed)

    @torch.no_grad()
    def reconstruct(self, smashed: Smashed) -> Images:
        """Pictures in [0, 1]; clipping an unbounded decoder there can only bring it closer to the truth.

        Raises:
            NotFinite: If the decoder gives infinity or NaN, of which clipping would make white or nothing.
        """
        pictures = self(smashed)
        cause = "the smashed tensor may hold such values, else train the attacker again"
        check_finite(pictures, what="reconstruction", cause=cause)
        return pictures.clamp(0, 1)

    @torch.no_grad()
    def setup(self, stage: str) -> None:
        assert self.knowledge is not None, "an attack is trained on a Knowledge"
        device = self.trainer.strategy.root_device
        pixels = self.knowledge.surrogate.to(device)
        if len(pixels) < 2:
            raise UsageError(
                f"an attacker with {len(pixels)} images of its own cannot learn; it needs 2 or more, one of them to"
                " choose its best epoch by"
            )
        activations = self.knowledge.activations.to(device)
        generator = torch.Generator().manual_seed(derived_seed(self.seed, 0))
        order = torch.randperm(len(pixels), generator=generator)
        held_out = max(1, round(OWN_VALIDATION * len(pixels)))
        rows = (order[held_out:], order[:held_out])
        self._train, self._val = ((activations[r.to(device)], pixels[r.to(device)]) for r in rows)

    def train_dataloader(self) -> TensorBatches:
        seed = derived_seed(self.seed, 1, self.trainer.current_epoch)
        passes = -(-LEAST_STEPS * self.batch_size // len(self._train[0]))
        return TensorBatches(
            *self._train, batch_size=self.batch_size, shuffle_seed=seed, passes=passes
        )

    def val_dataloader(self) -> TensorBatches:
        return TensorBatches(*self._val, batch_size=256)

    def _seen(self, activation: Activation) -> Smashed:
        """What this attacker takes the wire to carry."""
        assert self.knowledge is not None
        if self.naive:
            return activation
        return averaged(self.knowledge.defend, activation, self.queries)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        activation, images = batch
        loss = self.decoder.loss(self._seen(activation), images)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(images))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        activation, images = batch
        error = F.mse_loss(self(self._seen(activation)), images)
        self.log("val/mse", error, on_step=False, on_epoch=True, batch_size=len(images))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # Lightning's own clipping refuses fused optimisers, and torch's multiplies even where the norm is small enough.
        total = torch.nn.utils.get_total_norm(
            [p.grad for p in self.parameters() if p.grad is not None]
        )
        if total > LARGEST_GRADIENT:
            torch.nn.utils.clip_grads_with_norm_(self.parameters(), LARGEST_GRADIENT, total)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), self.learning_rate, fused=True)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=steps, pct_start=0.1, cycle_momentum=False
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]
