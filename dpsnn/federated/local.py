"""A client's own training: a few epochs of the project's classifier on its own images, privately if it wants."""

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpsnn.batches import PoissonBatches, TensorBatches, derived_seed
from dpsnn.classifier import SplitClassifier
from dpsnn.defences.dp_sgd import DPSGD
from dpsnn.errors import Diverged
from dpsnn.tensors import Labels, Pixels
from dpsnn.training import not_finite

Weights = NDArray[np.floating[Any]]
"""All weights of a model, or what a training changed in them, as one vector."""


class OwnImages(pl.LightningDataModule):
    """Batches of one client's images, in another order in every epoch; lots drawn row by row for DP-SGD.

    So they always are where the seed is a secret key, in bytes.
    """

    def __init__(
        self, pixels: Pixels, labels: Labels, batch_size: int, seed: int | bytes, poisson: bool
    ) -> None:
        super().__init__()
        self.rows = (pixels, labels)
        self.batch_size = min(batch_size, len(labels))
        self.seed = seed
        self.poisson = poisson

    def train_dataloader(self) -> TensorBatches | PoissonBatches:
        epoch = self.trainer.current_epoch if self.trainer else 0
        if isinstance(self.seed, bytes):
            key = self.seed + epoch.to_bytes(8, "little")
            return PoissonBatches(*self.rows, batch_size=self.batch_size, seed=key)
        seed = derived_seed(self.seed, epoch)
        if self.poisson:
            return PoissonBatches(*self.rows, batch_size=self.batch_size, seed=seed)
        return TensorBatches(*self.rows, batch_size=self.batch_size, shuffle_seed=seed)


def train_locally(
    classifier: SplitClassifier, images: OwnImages, epochs: int, seed: int, private: DPSGD | None
) -> None:
    """Train in place, on the CPU in float32, with an optimiser of its own.

    Args:
        classifier: Starts with the weights of the round.
        images: What to train on.
        epochs: Passes over them.
        seed: Seed of noise and dropout; the noise of DP-SGD is drawn from a secret of its own, unless it is repeatable.
        private: Trains by DP-SGD and goes on counting from earlier rounds.

    Raises:
        Diverged: If training left the finite numbers.
        UsageError: If DP-SGD refuses the set-up.
    """
    torch.manual_seed(seed)
    trainer = pl.Trainer(
        max_epochs=epochs,
        precision="32-true",
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=[private] if private else [],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
    )
    trainer.fit(classifier, datamodule=images)
    if broken := not_finite(classifier):
        raise Diverged(
            f"training diverged on a client: {broken} is not finite; lower --learning_rate, or the noise"
        )


def _averaged(classifier: SplitClassifier) -> dict[str, Tensor]:
    """What is averaged: every floating-point tensor; counters of normalisation layers stay as they are."""
    return {k: v for k, v in classifier.state_dict().items() if v.is_floating_point()}


def get_weights(classifier: SplitClassifier) -> Weights:
    """All averaged values in one vector, in the order of the state dict.

    One vector, not an array per layer: each would be a message of its own on the wire, and Flower's secure average is
    wrong for arrays without axes.
    """
    return torch.cat([t.detach().cpu().flatten() for t in _averaged(classifier).values()]).numpy()


def set_weights(classifier: SplitClassifier, weights: Weights) -> None:
    """The opposite of `get_weights`.

    Raises:
        ValueError: If there are more or fewer values than the classifier has.
    """
    own = _averaged(classifier)
    if weights.shape != (total := sum(t.numel() for t in own.values()),):
        raise ValueError(f"weights of shape {weights.shape}, not ({total},)")
    parts = torch.from_numpy(weights.astype(np.float32)).split([t.numel() for t in own.values()])
    tensors = {name: part.reshape(own[name].shape) for name, part in zip(own, parts)}
    classifier.load_state_dict({**classifier.state_dict(), **tensors})
