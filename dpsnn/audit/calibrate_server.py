"""What noise costs: the accuracy of a server that hears it, as it is and after a short training with it."""

import copy

import pytorch_lightning as pl
import torch
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.nn import functional as F

from dpsnn.attacks.base import Learn, average, held_out
from dpsnn.batches import TensorBatches, derived_seed
from dpsnn.errors import UsageError
from dpsnn.metrics import correct
from dpsnn.target import Target
from dpsnn.tensors import Activation, Labels
from dpsnn.training import device, seeded

RATE = 1e-3
"""Adam's step size."""

BATCH, LEAST_STEPS = 64, 32
"""Images per step, and steps per epoch: few images are gone through several times."""

Estimate = dict[str, float | str | None]
"""`value`, `low` and `high` of its 95 % interval, and `over` what that is."""


def accuracy(
    target: Target, codes: Activation, labels: Labels, queries: int, seed: int
) -> Estimate:
    """Per cent that the server classifies rightly from the mean of all transmissions; the interval is exact.

    All noises are drawn from the same numbers.
    """
    with seeded(seed, 42):
        answers = target.answer(target.transmit(codes, queries))
    right = int(correct(answers.cpu(), labels).nansum())
    ends = binomtest(right, len(labels)).proportion_ci()
    value = 100 * right / len(labels)
    return {"value": value, "low": 100 * ends.low, "high": 100 * ends.high, "over": "victims"}


class NoisyServer(pl.LightningModule):
    """Train a server on what crosses the wire, with fresh noise in every batch; the client stays as it is.

    Args:
        server: A copy is trained.
        target: With the noise.
        codes: Activations to learn from.
        labels: Their classes.
        queries: Transmissions that it averages.
        seed: Of the split into training and validation part, and of the order.
    """

    def __init__(
        self,
        server: nn.Module,
        target: Target,
        codes: Activation,
        labels: Labels,
        queries: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.server = copy.deepcopy(server).requires_grad_(True).train()
        self.wire, self.queries, self.seed = target.mechanism, queries, seed
        self.rows = held_out(len(codes), seed)
        self.codes, self.labels = codes, labels

    def train_dataloader(self) -> TensorBatches:
        rows = self.rows[0]
        seed = derived_seed(self.seed, 1, self.trainer.current_epoch)
        passes = -(-LEAST_STEPS * BATCH // len(rows))
        shown = self.codes[rows], self.labels[rows]
        return TensorBatches(*shown, batch_size=BATCH, shuffle_seed=seed, passes=passes)

    def val_dataloader(self) -> TensorBatches:
        rows = self.rows[1]
        return TensorBatches(self.codes[rows], self.labels[rows], batch_size=256)

    def _answer(self, codes: Tensor) -> Tensor:
        with torch.no_grad():
            heard = average(self.wire(codes) for _ in range(self.queries))
        return self.server(heard)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        codes, labels = batch
        return F.cross_entropy(self._answer(codes), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        codes, labels = batch
        loss = F.cross_entropy(self._answer(codes), labels)
        self.log("val/loss", loss, on_step=False, on_epoch=True, batch_size=len(labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.server.parameters(), RATE)


def finetuned(
    server: object,
    target: Target,
    codes: Activation,
    labels: Labels,
    queries: int,
    epochs: int,
    learn: Learn,
    seed: int,
) -> nn.Module:
    """The server after a short training with the noise on; in evaluation, and where computations are made.

    Raises:
        UsageError: If the server is a function, which has no weights to train.
    """
    if not isinstance(server, nn.Module) or not any(True for _ in server.parameters()):
        raise UsageError("the server has no weights to train; leave --finetune_epochs out")
    module = NoisyServer(server, target, codes.to(device()), labels.to(device()), queries, seed)
    learn(module, monitor="val/loss", mode="min", max_epochs=epochs, trial="  server, noise on")
    return module.server.to(device()).eval().requires_grad_(False)
