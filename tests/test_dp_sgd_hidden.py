"""DP-SGD finds what mixes examples only now and then, before the training step, or beside the gradients."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from test_dp_sgd_refusals import CLASSES, OTHERS, Images, N, images, train
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, default_collate

from dpsnn.batches import PoissonBatches
from dpsnn.defences.dp_sgd import poisson
from dpsnn.errors import UsageError


class NowAndThen(Images):
    """Mixup for some batches, by whichever generator."""

    def __init__(self, mixes: Callable[[], bool]) -> None:
        super().__init__()
        self.mixes = mixes

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return super().loss(images + images.roll(1, 0) * self.mixes(), labels)


class WritesWeights(Images):
    """Keeps the mean of what it saw in a weight that is not trained."""

    def __init__(self, of: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.of = of
        self.centre = nn.Parameter(torch.zeros(CLASSES), requires_grad=False)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            self.centre.lerp_(self.of(self, images), 0.5)
        return super().loss(images, labels)


class MixesOnTransfer(Images):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0] // 2 + batch[0].roll(1, 0) // 2, batch[1]


class RawStep(Images):
    def optimizer_step(self, epoch: Any, index: Any, optimizer: Any, closure: Any = None) -> None:
        closure()
        optimizer.optimizer.step()


class Typed(Images):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.to(dtype)

    def logits(self, images: Tensor) -> Tensor:
        return super().logits(images.to(self.head.weight.dtype))


class Autocast(Images):
    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().loss(images, labels)


class Penalty(Images):
    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        images = images.clone().requires_grad_()
        (slope,) = torch.autograd.grad(self.logits(images).sum(), images, create_graph=True)
        return super().loss(images, labels) + slope.flatten(1).square().sum(1).mean()


@pytest.mark.parametrize(
    "module, message",
    [
        (lambda: NowAndThen(lambda: random.random() < 0.5), OTHERS),
        (lambda: NowAndThen(lambda: np.random.rand() < 0.5), OTHERS),
        (lambda: NowAndThen(lambda: bool(torch.rand(1) < 0.4)), OTHERS),
        (lambda: WritesWeights(lambda m, x: m.logits(x).mean(0)), "writes centre, a weight, from"),
        (MixesOnTransfer, "changed by the others of its batch before the training step"),
        (RawStep, r"optimizer.step\(closure\) for every batch"),
        (lambda: Typed(torch.bfloat16), "is of type bfloat16"),
        (lambda: Typed(torch.complex64), "is of type complex64"),
        (Autocast, "autocast"),
        (Penalty, 'differentiated again.*gradients="single"'),
    ],
)
def test_what_is_hidden_is_found(module: Callable[[], pl.LightningModule], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train(module(), images())


def test_a_collate_function_that_mixes_is_refused() -> None:
    def mixed(rows: Any) -> Any:
        pixels, labels = default_collate(rows)
        return pixels // 2 + pixels.roll(1, 0) // 2, labels

    loader = poisson(DataLoader(images(), batch_size=24, collate_fn=mixed), seed=0)
    with pytest.raises(UsageError, match="collate_fn"):
        train(Images(), loader)


class Diffusion(Images):
    """Draws a number for every example, by other functions than `rand`."""

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        moments = torch.randint(1, 10, (len(images), 1, 1, 1))
        shares = torch.distributions.Beta(1.0, 1.0).sample((len(images), 1, 1, 1))
        return super().loss(images * shares / moments, labels)


class WeightNorm(Images):
    def __init__(self) -> None:
        super().__init__()
        self.head: Any = nn.utils.weight_norm(self.head)


class Double(Images):
    def __init__(self) -> None:
        super().__init__()
        self.double()

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(images.double()), labels)


@pytest.mark.parametrize(
    "module", [Diffusion, WeightNorm, Double, lambda: WritesWeights(lambda m, _: m.head.bias)]
)
def test_what_only_looks_like_it_is_trained(module: Callable[[], pl.LightningModule]) -> None:
    assert train(module(), images()).steps == N // 24


def test_a_trial_leaves_weights_that_the_step_writes() -> None:
    module = WritesWeights(lambda m, _: torch.ones(CLASSES))
    train(module, images())
    assert module.centre.tolist() == [1 - 0.5**4] * CLASSES


def test_lots_of_a_second_pass_are_others() -> None:
    values = torch.arange(200.0)
    loader = PoissonBatches(values, batch_size=20, seed=1)
    first, second = (torch.cat([rows for (rows,) in loader]).tolist() for _ in range(2))
    again = torch.cat([r for (r,) in PoissonBatches(values, batch_size=20, seed=1)]).tolist()
    assert first == again != second
