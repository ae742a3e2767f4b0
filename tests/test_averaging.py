"""Means over an epoch, against those of Lightning's own bookkeeping."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from dpsnn.averaging import Averaging
from dpsnn.batches import TensorBatches
from dpsnn.defences.rehearsal import untouched
from dpsnn.training import fit

ROWS = torch.randn(11, 3)


class Line(Averaging):
    """Logs everything in both ways; batches of 4, 4 and 3."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 1)
        self.breaks = False

    def train_dataloader(self) -> TensorBatches:
        return TensorBatches(ROWS, batch_size=4)

    def val_dataloader(self) -> TensorBatches:
        return TensorBatches(ROWS[:7], batch_size=4)

    def _note(self, name: str, value: Tensor, size: int) -> None:
        self.log_means(size, {name: value})
        self.log(f"{name}_by_batch", value, on_step=False, on_epoch=True, batch_size=size)

    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> Tensor:
        if self.breaks and batch_idx == 1:
            raise RuntimeError("in between")
        loss: Tensor = self.line(*batch).square().mean()
        self._note("train/loss", loss, len(batch[0]))
        return loss

    def validation_step(self, batch: tuple[Tensor], batch_idx: int) -> None:
        self._note("val/loss", self.line(*batch).square().mean(), len(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


class Kept(Callback):
    def __init__(self) -> None:
        self.found: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.found.append({k: v.item() for k, v in trainer.callback_metrics.items()})


def trained(module: Line, epochs: int = 3, precision: str = "auto") -> list[dict[str, float]]:
    kept = Kept()
    how: dict[str, Any] = {"monitor": "val/loss", "mode": "min", "seed": 0}
    fit(module, max_epochs=epochs, callbacks=[kept], precision=precision, **how)
    return kept.found


def test_means_are_those_of_every_image_and_lightnings() -> None:
    epochs = trained(Line())
    assert len(epochs) == 3
    for found in epochs:
        assert set(found) == {f"{s}/loss{e}" for s in ("train", "val") for e in ("", "_by_batch")}
        for stage in ("train", "val"):
            assert found[f"{stage}/loss"] == pytest.approx(found[f"{stage}/loss_by_batch"])
    assert len({found["train/loss"] for found in epochs}) == 3


class Still(Line):
    """Whose epochs are all as the first."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.0)


def test_a_mean_is_that_of_one_large_batch() -> None:
    module = Still()
    expected = [module.line(rows).square().mean().item() for rows in (ROWS, ROWS[:7])]
    for found in trained(module, 2, "32"):
        assert [found["train/loss"], found["val/loss"]] == pytest.approx(expected)


def test_many_small_values_are_not_lost() -> None:
    module = Still()
    for _ in range(1000):
        module.log_means(1, {"train/loss": torch.tensor(1.0, dtype=torch.bfloat16)})
    assert module._sums["train/loss"] == 1000  # in bfloat16 it ends at 256


def test_what_an_interrupted_epoch_saw_does_not_count() -> None:
    module = Line()
    module.breaks = True
    with pytest.raises(RuntimeError, match="in between"):
        trained(module)
    module.breaks = False
    (found,) = trained(module.train(), 1)
    assert found["train/loss"] == pytest.approx(found["train/loss_by_batch"])


def test_what_another_validation_saw_does_not_count() -> None:
    module = Still()
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    module.log_means(5, {"val/loss": torch.tensor(100.0)})  # and then it broke off
    (found,) = trainer.validate(module, verbose=False)
    assert found["val/loss"] == pytest.approx(found["val/loss_by_batch"])


def test_a_rehearsal_leaves_no_trace() -> None:
    module = Line()
    with untouched(module):
        module.training_step((ROWS,), 0)
    assert not module._sums and not module._sizes
    module.log_means(2, {"train/loss": torch.tensor(1.0)})
    assert module._sums == {"train/loss": torch.tensor(2.0)}


class Stop(Callback):
    """In the middle of an epoch, as where a budget ends."""

    def on_before_optimizer_step(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.should_stop |= trainer.global_step == 3


class StopByValidation(Callback):
    """As early stopping, where validation comes within the epoch."""

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.should_stop |= trainer.global_step == 4


@pytest.mark.parametrize("options", [{"callbacks": [Stop()]}, {"max_steps": 4}])
def test_a_training_that_ends_within_an_epoch_leaves_its_means(options: dict[str, Any]) -> None:
    kept = Kept()
    options["callbacks"] = [kept, *options.get("callbacks", ())]
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "logger": False}
    trainer = pl.Trainer(max_epochs=3, accelerator="cpu", **quiet, **options)
    trainer.fit(module := Line())
    assert trainer.global_step == 4 and len(kept.found) == 2
    for found in kept.found:
        assert found["train/loss"] == pytest.approx(found["train/loss_by_batch"])
    assert not module._sums


def test_a_training_that_a_validation_ends_leaves_its_means() -> None:
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "logger": False}
    options: dict[str, Any] = {"callbacks": [StopByValidation()], "val_check_interval": 1}
    trainer = pl.Trainer(max_epochs=3, accelerator="cpu", **quiet, **options)
    trainer.fit(module := Line())
    found = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert trainer.global_step == 4 and not module._sums
    assert found["train/loss"] == pytest.approx(found["train/loss_by_batch"])
