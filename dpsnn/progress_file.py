"""The state of an unfinished training, in a file that is whole, sealed, and for its owner's eyes only."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.io import CheckpointIO

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


def check(path: Path, module: LightningModule, callbacks: Iterable[Callback]) -> None:
    """See, before anything is changed, whether a training can go on from this file.

    Raises:
        UsageError: If the file is damaged, or holds another module's state, or not that of each callback.
    """
    content = read(path)
    kept = content.get("callbacks")
    stateful = [callback for callback in callbacks if callback.state_dict()]
    if (
        not sealed.fits(module, content.get("state_dict"))
        or not isinstance(kept, dict)
        or any(callback.state_key not in kept for callback in stateful)
        or any(
            type(kept[c.state_key]) is not dict or kept[c.state_key].keys() != c.state_dict().keys()
            for c in stateful
        )
    ):
        raise UsageError(f"{path} is the progress of another training; {REMEDY}")
