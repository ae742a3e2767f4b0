"""The state of an unfinished training, in a file that is whole, sealed, and for its owner's eyes only."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.io import CheckpointIO
from torch import Tensor

from dpsnn import sealed
from dpsnn.errors import UsageError

REMEDY = "delete it to train from the start"


def read(path: Path) -> dict[str, Any]:
    """What `ProgressIO` wrote.

    Raises:
        UsageError: If the file is damaged, or not sealed, as those of earlier versions are not.
    """
    content, is_sealed = sealed.read(path, "the progress of a training", REMEDY)
    if not is_sealed:
        raise UsageError(
            f"{path} is damaged or of an earlier version, which nobody can tell; {REMEDY}"
        )
    return content


class ProgressIO(CheckpointIO):
    """How Lightning keeps a training: beside its place first, never in the system's temporary folder, with a digest.

    What random numbers a private training draws from may be among it; hence nobody else may read it.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        sealed.write(Path(path), checkpoint, mode=0o600)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


PARTS = {"state_dict", "callbacks", "optimizer_states", "lr_schedulers", "loops", "global_step"}
"""What Lightning goes on from; it would silently do without most of them."""


class Resumed(Callback):
    """Whether a training can go on from a file, seen before anything is changed.

    Args:
        path: The file.
        module: What is trained.
        callbacks: Those of the training; whoever has a state must find it.

    Raises:
        UsageError: If the file is damaged, or of another training.
    """

    def __init__(self, path: Path, module: LightningModule, callbacks: Iterable[Callback]) -> None:
        self.path = path
        content = read(path)
        self._assert(content.keys() >= PARTS and sealed.fits(module, content["state_dict"]))
        kept = content["callbacks"]
        self._assert(isinstance(kept, dict))
        for callback in callbacks:
            own, state = callback.state_dict(), kept.get(callback.state_key, {})
            self._assert(isinstance(state, dict) and state.keys() == own.keys())
            # Of the best epoch.
            self._assert(not state.get("weights") or sealed.fits(module, state["weights"]))
        self.optimizers, self.schedulers = content["optimizer_states"], content["lr_schedulers"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Optimisers are there now, and not yet restored."""
        for own, kept in (
            ([each.state_dict() for each in trainer.optimizers], self.optimizers),
            (
                [each.scheduler.state_dict() for each in trainer.lr_scheduler_configs],
                self.schedulers,
            ),
        ):
            self._assert([each.keys() for each in own] == [each.keys() for each in kept])
        for optimizer, kept in zip(trainer.optimizers, self.optimizers):
            groups = [group["params"] for group in optimizer.state_dict()["param_groups"]]
            self._assert(groups == [group["params"] for group in kept["param_groups"]])
            held = [weight for group in optimizer.param_groups for weight in group["params"]]
            for number, state in kept["state"].items():
                shapes = {value.shape for value in state.values() if isinstance(value, Tensor)}
                self._assert(shapes <= {torch.Size(), held[number].shape})

    def _assert(self, fitting: bool) -> None:
        if not fitting:
            raise UsageError(f"{self.path} is the progress of another training; {REMEDY}")
