"""What dead processes left behind goes when a command starts to work in the same folders."""

import contextlib
from pathlib import Path

from dpsnn.atomic import clear_scratch, clear_stale

SCRATCH = ("dpsnn-secure", "dpsnn-federated")
"""Folders for the time of a run, in the system's folder for temporary files."""
DOWNLOAD = ".download"
"""The folder in the data folder into which a data set is downloaded."""


def tidy(models_dir: str = "", results_dir: str = "", data_dir: str = "") -> list[Path]:
    """Clear temporary files and folders of processes that are gone; what cannot be removed stays.

    Args:
        models_dir: Where checkpoints and unfinished trainings are; none where empty, as for the others.
        results_dir: Where tables and figures are.
        data_dir: Where data sets are downloaded to.

    Returns:
        What was removed.
    """
    cleared = []
    for folder in (models_dir, results_dir):
        # A folder, those in it and in these: models/classifiers/.progress.
        for place in _below(Path(folder), 2) if folder else []:
            with contextlib.suppress(OSError):
                cleared += clear_stale(place)
    for name in SCRATCH:
        cleared += clear_scratch(name)
    return cleared + (clear_scratch(DOWNLOAD, data_dir) if data_dir else [])


def _below(folder: Path, depth: int) -> list[Path]:
    """A folder and those up to `depth` below it."""
    found = [folder]
    with contextlib.suppress(OSError):
        for path in folder.iterdir() if depth else []:
            if path.is_dir() and not path.is_symlink():
                found += _below(path, depth - 1)
    return found
