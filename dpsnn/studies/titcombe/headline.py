"""The table and the picture of the README, from the rows and checkpoints of the group `headline`."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from dpsnn.attacks.base import DIVERGED
from dpsnn.evaluation.legends import attacker, legend
from dpsnn.evaluation.measures import ACCURACY, WIRE, named
from dpsnn.evaluation.pictures import plot_attacks
from dpsnn.evaluation.plots import over, shared_leakage
from dpsnn.evaluation.results import Missing, Results
from dpsnn.evaluation.tables import shown_epsilon, write_text
from dpsnn.evaluation.words import OVER, plus_minus, reachable, reference, repeated
from dpsnn.runner.experiment import Experiment
from dpsnn.runner.train import Folders
from dpsnn.specs import AttackerSpec, ClassifierSpec, replace

BOUND = named("bound")

DOUBLED = "last doubling of the epochs took off, %"
"""Of the squared error on own images, in the row already: whether training on would have paid."""

Trained = Sequence[tuple[Experiment, Path, list[Path]]]


def kind(spec: AttackerSpec) -> str:
    """The attacker in a word or two."""
    return attacker(spec.attack, spec.naive, spec.decoder)


def markdown(experiments: Sequence[Experiment], results: Results) -> str:
    """One line per defence and attacker with all seeds that the tables have, floor and ceiling at the end.

    After ± stands half the 95 % interval: over seeds if all were repeated, else over images.
    """
    measures = shared_leakage([results.rows[1]])
    wire = [ACCURACY.heading, WIRE.heading]
    headings = ["defence", "attacker", OVER, *wire, *(m.heading for m in measures)]
    targets = [_rows(spec, known, results) for spec, known in _seedless(experiments).items()]
    shown = [(spec, models, found) for spec, models, found in targets if found]
    if not shown:
        raise Missing("the tables have no rows of these experiments")
    last = [("least MSE anybody reaches", _least)]
    if any(_doubling(rows) for *_, found in shown for rows in found.values()):
        last.insert(0, (DOUBLED, _doubling))
    headings += [*(heading for heading, _ in last), "ε"]
    lines = [headings, ["---"] * 2 + ["---:"] * (len(headings) - 2)]
    about = over(rows for _, models, found in shown for rows in (models, *found.values()))
    for spec, models, found in shown:
        for name, rows in found.items():
            numbers = (plus_minus(models, m, about) for m in (ACCURACY, WIRE))
            leaks = (plus_minus(rows, m, about) if m.column in rows else "" for m in measures)
            said = [legend(spec.active), name, repeated(rows, about), *numbers, *leaks]
            said += [cell(rows) for _, cell in last]
            lines.append([*said, shown_epsilon(float(rows.Epsilon.iloc[0]))])
    alike = results.alike(pd.concat(models for _, models, _ in shown))
    every = pd.concat(rows for *_, found in shown for rows in found.values())
    floors = [
        *(reference(alike, m, m.floor) for m in (ACCURACY, WIRE)),
        *(reference(every, m, m.floor) for m in measures),
    ]
    empty = [""] * len(last)
    ceilings = [m.perfect or reference(every, m, m.ceiling) for m in measures]
    lines.append(["*floor*", "mean image", "", *floors, *empty, "0"])
    if any(m.class_floor in every for m in measures if m.class_floor):
        classes = [reference(every, m, m.class_floor) for m in measures]
        lines.append(["*floor*", "mean image of the true class", "", "", "", *classes, *empty, ""])
    lines.append(["*ceiling*", "true image", "", "", "", *ceilings, *empty, ""])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rows(
    spec: ClassifierSpec, attackers: Iterable[AttackerSpec], results: Results
) -> tuple[ClassifierSpec, pd.DataFrame, dict[str, pd.DataFrame]]:
    """A defence: its classifiers, and by the kind of attacker its attackers, the strongest last."""
    known = [*attackers]
    models, *found = results.of(spec, known)
    rows = {kind(each): own for each, own in zip(known, found) if not own.empty}
    strongest = results.strongest(models)
    if not strongest.empty:
        rows[f"strongest of {strongest.Tried.min():.0f}"] = strongest
    return spec, models, rows


def _doubling(rows: pd.DataFrame) -> str:
    """The most over the seeds."""
    most = rows.Doubling.max() if "Doubling" in rows else math.nan
    if most == DIVERGED:
        return "diverged"
    return "" if math.isnan(most) else f"{100 * most:.1f}"


def _least(rows: pd.DataFrame) -> str:
    if "MSEBound" not in rows or "MSE" not in rows:
        return ""
    return reachable(rows.MSEBound.mean(), rows.MSE.mean(), BOUND.digits)


def _seedless(
    experiments: Sequence[Experiment],
) -> dict[ClassifierSpec, dict[AttackerSpec, None]]:
    """Classifiers and their attackers, each once whatever its seed."""
    found: dict[ClassifierSpec, dict[AttackerSpec, None]] = {}
    for experiment in experiments:
        own = found.setdefault(replace(experiment.classifier, seed=0), {})
        own |= dict.fromkeys(replace(attacker, seed=0) for attacker in experiment.attackers)
    return found


def headline(trained: Trained, folders: Folders) -> tuple[Path, Path]:
    """Write the markdown table and the picture.

    Args:
        trained: The experiments of the group with their checkpoints.
        folders: Where tables are read and results written.

    Returns:
        The markdown file and the figure.
    """
    dataset, first = trained[0][0].classifier.dataset, trained[0][0].classifier.seed
    table = markdown([experiment for experiment, _, _ in trained], Results(folders, dataset))
    text = write_text(Path(folders.results_dir) / f"headline_{dataset}.md", table + "\n")
    rows = [
        (f"{legend(experiment.classifier.active)}\n{kind(spec)} attacker", path)
        for experiment, _, paths in trained
        for spec, path in zip(experiment.attackers, paths)
        if spec.seed == first
    ]
    figure = Path(folders.results_dir) / "figures" / f"headline_{dataset}.png"
    return text, plot_attacks(
        rows, folders, figure, f"{dataset}: reconstructions of what crossed the wire"
    )
