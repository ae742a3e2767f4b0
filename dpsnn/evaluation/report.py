"""Figures, in one style: labelled, colour-blind safe, readable in black and white."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch
from PIL import Image, ImageChops

from dpsnn.checkpoints import ensure_writable
from dpsnn.errors import UsageError
from dpsnn.manifest import staged
from dpsnn.tensors import Images, Labels

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402  (the backend must be chosen first)
from matplotlib.figure import Figure  # noqa: E402

SUFFIXES = (".png", ".pdf", ".svg")


def one_per_class(labels: Labels, count: int = 10) -> list[int]:
    """Index of the first image of each of the first `count` classes: the same pictures in every figure."""
    return [int((labels == c).nonzero()[0]) for c in labels.unique()[:count]]


def check_suffix(path: Path) -> None:
    """Raise UsageError unless figures can be written as `path`."""
    if path.suffix not in SUFFIXES:
        raise UsageError(
            f"cannot save a figure as {path.name!r}; end the name in one of {', '.join(SUFFIXES)}"
        )


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure under a temporary name, then rename it.

    Raises:
        UsageError: If the suffix is not one of SUFFIXES or the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(plt.close, figure)
        check_suffix(path)
        ensure_writable(path.parent)
        temporary = stack.enter_context(staged(path))
        # Without the date two runs give the same bytes.
        metadata = {"Software": None} if path.suffix == ".png" else {}
        kind = path.suffix.removeprefix(".")
        figure.savefig(temporary, format=kind, dpi=150, bbox_inches="tight", metadata=metadata)
        if path.suffix == ".png":
            _drop_colours(temporary)
    return path


def _drop_colours(path: Path) -> None:
    """Keep one channel of a picture without colours: a third of the bytes, which tell where it is committed."""
    with Image.open(path) as picture:
        shown = picture.convert("RGB")
    grey = shown.convert("L")
    if ImageChops.difference(shown, grey.convert("RGB")).getbbox() is None:
        grey.save(path, format="png", optimize=True)


def reconstruction_figure(
    originals: Images,
    rows: Sequence[tuple[str, Images]],
    title: str = "",
    first: str = "originals",
    beside: Sequence[str] = (),
) -> Figure:
    """Originals in the first row, one attacker's reconstructions of the same pictures in each further row.

    Args:
        originals: `(N, C, H, W)` in [0, 1], one column each.
        rows: Label and reconstructions; the label stands at the left and may have several lines.
        title: Above the figure.
        first: What stands at the left of the first row.
        beside: What stands at the right of each row, that of the originals first.
    """
    lines = [(first, originals), *rows]
    columns = len(originals)
    _, channels, height, width = originals.shape
    cell, head = 0.62, 0.35 if title else 0.0
    size = (cell * columns * width / height, cell * len(lines) + head)
    figure, axes = plt.subplots(
        len(lines),
        columns,
        figsize=size,
        squeeze=False,
        gridspec_kw=dict(
            wspace=0.06, hspace=0.06, left=0, right=1, bottom=0, top=1 - head / size[1]
        ),
    )
    for row, (label, images), right in zip(axes, lines, beside or [""] * len(lines)):
        for axis, image in zip(row, images):
            picture = image.clamp(0, 1).permute(1, 2, 0)
            shown = picture.squeeze(2) if channels == 1 else picture
            axis.imshow(shown.float().numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_axis_off()
        for axis, x, text, side in (
            (row[0], -0.25, label, "right"),
            (row[-1], 1.25, right, "left"),
        ):
            axis.text(x, 0.5, text, transform=axis.transAxes, ha=side, va="center", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=10, y=1.0, va="top")
    return figure


def mean_row(mean: torch.Tensor, count: int) -> tuple[str, Images]:
    """The floor as a row of a figure: the attacker's mean image in every column."""
    return "floor: mean image", mean.expand(count, -1, -1, -1)
