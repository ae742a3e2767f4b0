"""What each victim lost to each attacker: means in tables cannot say who was chosen on whom."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dpsnn.atomic import staged
from dpsnn.checkpoints import ensure_writable
from dpsnn.evaluation.tables import cell

Scores = dict[str, Float[Tensor, " n"]]
"""Key of a metric → its value for each victim, in their order."""

TORN = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged file raises."""

OF = "of"
"""What a file belongs to, by `mark`."""


def mark(row: Mapping[str, object]) -> str:
    """What tells the scores behind a row from those of another of that name."""
    columns = ("Identity", "Digest", "TargetDigest", "ValidatorDigest", "Measures", "Images")
    return " ".join(cell(row.get(column)) for column in columns)


def _path(results_dir: str | Path, attacker: str) -> Path:
    return Path(results_dir) / "victims" / f"{attacker}.npz"


def save(results_dir: str | Path, attacker: str, of: str, scores: Scores) -> None:
    """Keep the scores of an attacker, under a temporary name first.

    Args:
        results_dir: Folder of results.
        attacker: Its name.
        of: What tells this attacker, its target and its judge from all others of that name.
        scores: A value per victim and metric.
    """
    path = _path(results_dir, attacker)
    ensure_writable(path.parent)
    arrays: dict[str, Any] = {key: values.float().numpy() for key, values in scores.items()}
    with staged(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{OF: np.array(of)}, **arrays)


def there(results_dir: str | Path, attacker: str) -> bool:
    """Whether scores of any attacker of that name are in this folder."""
    return _path(results_dir, attacker).exists()


def load(results_dir: str | Path, attacker: str, of: str) -> Scores | None:
    """The scores of an attacker; None where there are none, or those of another attacker of that name."""
    try:
        with np.load(_path(results_dir, attacker), allow_pickle=False) as arrays:
            if str(arrays[OF]) != of:
                return None
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files if key != OF}
    except (KeyError, *TORN):
        return None
