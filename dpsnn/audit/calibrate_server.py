"""What noise costs: the accuracy of a server that hears it, as it is and after a short training with it."""

import copy

import torch
from jaxtyping import Int
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.nn import functional as F

from dpsnn.attacks.base import Learn, average, held_out
from dpsnn.averaging import Averaging
from dpsnn.batches import TensorBatches, derived_seed
from dpsnn.errors import UsageError
from dpsnn.metrics import correct
from dpsnn.target import Target
from dpsnn.tensors import Activation, Labels, Logits
from dpsnn.training import device, seeded

RATE = 1e-3
"""Adam's step size."""

BATCH, LEAST_STEPS = 64, 32
"""Images per step, and steps per epoch: few images are gone through several times."""

Estimate = dict[str, float | str | None]
"""`value`, `low` and `high` of its 95 % interval, and `over` what that is."""


def scores(answers: Tensor) -> Logits:
    """A score for each class: one alone is that of class 1, and class 0 has 0 beside it, as an audit takes it."""
    return F.pad(answers, (1, 0)) if answers.shape[1] == 1 else answers


def unscored(
    target: Target,
    codes: Activation,
    labels: Labels | None,
    own_labels: Int[Tensor, " own"] | None = None,
) -> str:
    """Why there is no accuracy to speak of; empty where there is.

    Args:
        target: Whose server is asked twice.
        codes: Activations.
        labels: Classes of the victims.
        own_labels: Those to learn from.

    Raises:
        UsageError: If there are classes that the server has no score for.
    """
    if target.server is None:
        return "there is no server"
    if labels is None:
        return "the pictures have no classes"
    with torch.inference_mode():
        given = target.server(target.transmit(codes[:2])[0])
    if given.dim() != 2 or len(given) != len(codes[:2]):
        shape = tuple(given.shape[1:])
        return f"the model's answers of shape {shape} are no row of scores of classes"
    known = scores(given).shape[1]
    last = max(int(each.max()) for each in (labels, own_labels) if each is not None)
    if last >= known:
        raise UsageError(
            f"the pictures have classes up to number {last}, and the model has scores for 0 to {known - 1} alone; count"
            " classes from 0, in the order of its scores"
        )
    return ""


def accuracy(
    target: Target, codes: Activation, labels: Labels, queries: int, seed: int
) -> Estimate:
    """Per cent that the server classifies rightly from the mean of all transmissions; the interval is exact.

    All noises are drawn from the same numbers.
    """
    with seeded(seed, 42):
        answers = target.answer(target.transmit(codes, queries))
    right = int(correct(scores(answers.cpu()), labels).nansum())
    ends = binomtest(right, len(labels)).proportion_ci()
    value = 100 * right / len(labels)
    return {"value": value, "low": 100 * ends.low, "high": 100 * ends.high, "over": "victims"}


class NoisyServer(Averaging):
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
        return scores(self.server(heard))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        codes, labels = batch
        return F.cross_entropy(self._answer(codes), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        codes, labels = batch
        loss = F.cross_entropy(self._answer(codes), labels)
        self.log_means(len(labels), {"val/loss": loss})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.server.parameters(), RATE)


def trainable(server: object) -> nn.Module:
    """The server, if it can be trained.

    Raises:
        UsageError: If it is a function, which has no weights.
    """
    if not isinstance(server, nn.Module) or not any(True for _ in server.parameters()):
        raise UsageError("the server has no weights to train; leave --finetune_epochs out")
    return server


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
        UsageError: As `trainable`.
    """
    part = trainable(server)
    module = NoisyServer(part, target, codes.to(device()), labels.to(device()), queries, seed)
    learn(module, monitor="val/loss", mode="min", max_epochs=epochs, trial="  server, noise on")
    return module.server.to(device()).eval().requires_grad_(False)
