"""A training goes on from exactly what it left, or says in one line why not."""

import random
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from resealed import change
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dpsnn import progress_file, sealed
from dpsnn.errors import UsageError
from dpsnn.training import fit


class Line(pl.LightningModule):
    """Fits a line to a few points."""

    def __init__(self, width: int = 2, rate: float = 0.1) -> None:
        super().__init__()
        self.layer, self.rate = nn.Linear(width, 1), rate
        nn.init.constant_(self.layer.weight, 0.5)
        nn.init.zeros_(self.layer.bias)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return (self.layer(batch[0]) - batch[1]).square().mean()

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self.log("val/mse", self.training_step(batch, index))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.rate)

    def train_dataloader(self) -> DataLoader[Any]:
        x = torch.linspace(-1, 1, 16).reshape(8, 2)[:, : self.layer.in_features]
        return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=4)

    val_dataloader = train_dataloader


class Counter(Callback):
    """Has a state to be kept."""

    def __init__(self) -> None:
        self.steps = 0

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps = state_dict["steps"]


def trained(
    path: Path | None, *, width: int = 2, stop: int = -1, epochs: int = 3
) -> tuple[Any, ...]:
    """Weights and the counted steps at the end; `stop`: Ctrl-C before an epoch, from 0."""

    class Stop(Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            if trainer.current_epoch == stop:
                raise KeyboardInterrupt

    module, counter = Line(width), Counter()
    fit(
        module,
        monitor="val/mse",
        mode="min",
        max_epochs=epochs,
        seed=0,
        precision="32",
        progress_file=path,
        callbacks=[counter, Stop()],
    )
    return module.state_dict(), counter.steps


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The progress of a training that was stopped in its second epoch."""
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "progress" / "a.ckpt", stop=1)
    return tmp_path / "progress" / "a.ckpt"


def refused(path: Path, **arguments: Any) -> str:
    before = path.read_bytes()
    with pytest.raises(UsageError, match="delete it to train from the start") as raised:
        trained(path, **arguments)
    line = str(raised.value)
    assert line.splitlines() == [line] and str(path) in line and path.read_bytes() == before
    return line


def test_resumed_it_ends_as_if_never_interrupted(path: Path) -> None:
    weights, steps = trained(path)
    wanted, all_steps = trained(None)
    assert steps == all_steps == 6
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted)


def test_nobody_else_may_read_it_at_any_moment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    save = torch.save

    def watched(content: object, file: Path) -> None:
        save(content, file)
        seen.append((Path(file).parent, stat.S_IMODE(Path(file).stat().st_mode)))

    monkeypatch.setattr(torch, "save", watched)
    trained(path)
    assert seen == [(path.parent, 0o600)] * 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_the_systems_temporary_folder_is_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
    trained(tmp_path / "a.ckpt", epochs=1)
    assert sealed.read(tmp_path / "a.ckpt", "", "")[1]


def test_no_damaged_byte_goes_unnoticed(path: Path) -> None:
    content = progress_file.read(path)
    wanted = sealed.fingerprint(content)
    whole, draw = path.read_bytes(), random.Random(2)
    told = 0
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            assert sealed.fingerprint(progress_file.read(path)) == wanted
        except UsageError as error:
            assert progress_file.REMEDY in str(error) and str(path) in str(error)
            told += 1
    assert told > 100


def edit_weight(content: dict[str, Any]) -> None:
    content["state_dict"]["layer.bias"] = content["state_dict"]["layer.bias"].double()


@pytest.mark.parametrize(
    "edit",
    [
        edit_weight,
        lambda content: content["state_dict"].pop("layer.bias"),
        lambda content: content.pop("state_dict"),
        lambda content: content.pop("callbacks"),
        lambda content: content["callbacks"].pop("Counter"),
        lambda content: content["callbacks"]["Counter"].pop("steps"),
        lambda content: content["callbacks"].update(KeepBest=None),
        lambda content: content["callbacks"]["KeepBest"].update(weights={"layer.bias": 1}),
        lambda content: content.pop("optimizer_states"),
        lambda content: content.update(optimizer_states=[]),
        lambda content: content["optimizer_states"][0]["state"][0].update(exp_avg=torch.zeros(5)),
        lambda content: content["optimizer_states"][0]["param_groups"][0].update(params=[0]),
        lambda content: content.pop("loops"),
        lambda content: content.pop("global_step"),
    ],
)
def test_what_does_not_fit_the_training_is_refused(
    path: Path, edit: Callable[[dict[str, Any]], object]
) -> None:
    change(path, edit)
    assert "the progress of another training" in refused(path)


def test_the_progress_of_another_network_is_refused(path: Path) -> None:
    assert "the progress of another training" in refused(path, width=1)


def test_progress_of_an_earlier_version_cannot_be_verified(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    del content["digest"]
    torch.save(content, path)
    assert "of an earlier version" in refused(path)
