"""The figures of all studies, drawn from the tables and checkpoints that their groups left."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dpsnn.evaluation.report import plt, save_figure
from dpsnn.evaluation.results import Missing, Results
from dpsnn.folders import Folders
from dpsnn.runner.progress import note
from dpsnn.runner.study import named, studies

Figures = Mapping[str, Callable[[Results], Figure]]
"""Name of the file → how it is drawn."""


def figures() -> Figures:
    """Those of every study."""
    found: dict[str, Callable[[Results], Figure]] = {}
    for study in studies():
        found |= named(study.figures) if study.figures else {}
    return found


def figure_path(folders: Folders, name: str, dataset: str) -> Path:
    """Where a figure is written."""
    return Path(folders.results_dir) / "figures" / f"{name}_{dataset}.png"


def write_texts(folders: Folders, dataset: str) -> list[Path]:
    """Write the tables of text of every study as far as their rows are there.

    Raises:
        UsageError: If there are no results for the data set at all, or the folder cannot be written.
    """
    writers = [named(study.texts) for study in studies() if study.texts]
    return [path for write in writers for path in write(folders, dataset)]


def show(results: Results, name: str) -> Any:
    """A figure for a notebook: drawn anew where its checkpoints are there, else the file that was drawn last.

    Returns:
        An `IPython.display.Image`.

    Raises:
        Missing: If there is neither.
    """
    from IPython.display import Image

    try:
        content = io.BytesIO()
        figure = figures()[name](results)
        figure.savefig(content, dpi=100, bbox_inches="tight")
        plt.close(figure)
        return Image(content.getvalue())
    except Missing as reason:
        path = figure_path(results.folders, name, results.dataset)
        if not path.exists():
            raise
        note(f"{reason}; this is {path.name} as it was drawn last")
        return Image(path.read_bytes())


def draw(folders: Folders, dataset: str, wanted: Figures | None = None) -> list[Path]:
    """Draw these figures, or all, as far as rows and checkpoints are there; the others are named on standard error.

    Returns:
        The files.

    Raises:
        UsageError: If there are no results for the data set at all, or the folder cannot be written.
    """
    results = Results(folders, dataset)
    written = []
    for name, drawn in (figures() if wanted is None else wanted).items():
        path = figure_path(folders, name, dataset)
        try:
            written.append(save_figure(drawn(results), path))
        except Missing as reason:
            note(f"not drawn: {path.name}: {reason}")
    return written
