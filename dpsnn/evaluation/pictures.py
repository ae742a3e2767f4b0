"""Reconstructions as pictures, side by side."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from dpsnn.attacks.base import BLOCK
from dpsnn.data import DATASETS
from dpsnn.evaluation.attackers import load_attacked, reconstruct
from dpsnn.evaluation.report import (
    check_suffix,
    mean_row,
    one_per_class,
    reconstruction_figure,
    save_figure,
)
from dpsnn.folders import Folders


def attack_figure(
    attackers: Sequence[tuple[str, Path]], folders: Folders, title: str = ""
) -> Figure:
    """The same picture of each class, originals above what each attacker makes of them, and the floor.

    Args:
        attackers: Label and checkpoint of each row; all targets must be of one data set.
        folders: Where classifiers and data are.
        title: Above the figure.
    """
    rows = []
    for label, path in attackers:
        attacked = load_attacked(path, folders.models_dir)
        pixels, labels = DATASETS[attacked.target_spec.dataset](folders.data_dir).tensors("scoring")
        shown = one_per_class(labels)
        # From the first image on, so that each meets the very noise that the table was made with.
        whole_blocks = -(-(max(shown) + 1) // BLOCK) * BLOCK
        rows.append((label, reconstruct(attacked, pixels[:whole_blocks].float() / 255, shown)))
    rows.append(mean_row(attacked.stored.record["mean_image"], len(shown)))
    return reconstruction_figure(pixels[shown].float() / 255, rows, title)


def plot_attacks(
    attackers: Sequence[tuple[str, Path]], folders: Folders, savepath: Path, title: str = ""
) -> Path:
    """Draw `attack_figure` to a file."""
    check_suffix(savepath)
    return save_figure(attack_figure(attackers, folders, title), savepath)
