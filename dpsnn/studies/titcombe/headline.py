"""The table and the picture of the README, from the rows and checkpoints of the group `headline`."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dpsnn.evaluation.legends import legend
from dpsnn.evaluation.measures import ACCURACY, WIRE, Measure, leakage
from dpsnn.evaluation.pictures import plot_attacks
from dpsnn.evaluation.results import Missing, Results
from dpsnn.evaluation.tables import shown_epsilon, write_text
from dpsnn.evaluation.words import plus_minus, reference
from dpsnn.runner.experiment import Experiment
from dpsnn.runner.train import Folders
from dpsnn.specs import AttackerSpec, ClassifierSpec, replace

Trained = Sequence[tuple[Experiment, Path, list[Path]]]


def kind(spec: AttackerSpec) -> str:
    """The attacker in a word or two."""
    knowledge = "naive" if spec.naive else "adaptive"
    return knowledge if spec.decoder == "conv" else f"{knowledge} {spec.decoder}"


def markdown(experiments: Sequence[Experiment], results: Results) -> str:
    """One line per defence and attacker with all seeds that the tables have, floor and ceiling at the end.

    After ± stands half the 95 % interval: over seeds where there are several, else over images.
    """
    measures = leakage([*map(str, results.rows[1])])
    wire = [ACCURACY.heading, WIRE.heading]
    headings = ["defence", "attacker", "seeds", *wire, *(m.heading for m in measures), "ε"]
    lines = [headings, ["---"] * 2 + ["---:"] * (len(headings) - 2)]
    classifiers, attacks = [], []
    # The same for every seed, hence each once.
    for spec, attackers in _seedless(experiments).items():
        models, *found = results.of(spec, attackers)
        classifiers.append(models)
        for attacker, rows in zip(attackers, found):
            if rows.empty:
                continue
            attacks.append(rows)
            lines.append(
                [
                    legend(spec.active),
                    kind(attacker),
                    str(len(rows)),
                    *(plus_minus(models, m) for m in (ACCURACY, WIRE)),
                    *(plus_minus(rows, m) for m in measures),
                    shown_epsilon(float(rows.Epsilon.iloc[0])),
                ]
            )
        lines += _strongest(spec, models, results, measures)
    if not attacks:
        raise Missing("the tables have no rows of these experiments")
    alike, shown = results.alike(pd.concat(classifiers)), pd.concat(attacks)
    floors = [
        *(reference(alike, m, m.floor) for m in (ACCURACY, WIRE)),
        *(reference(shown, m, m.floor) for m in measures),
    ]
    ceilings = [m.perfect or reference(shown, m, m.ceiling) for m in measures]
    lines.append(["*floor*", "mean image", "", *floors, "0"])
    lines.append(["*ceiling*", "true image", "", "", "", *ceilings, ""])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _strongest(
    spec: ClassifierSpec, models: pd.DataFrame, results: Results, measures: Sequence[Measure]
) -> list[list[str]]:
    """The line of the strongest attacker by each measure, chosen on other victims than it is scored on."""
    rows = results.strongest(models)
    if rows.empty:
        return []
    tried = f"{rows.Tried.min():.0f}"
    return [
        [
            legend(spec.active),
            f"strongest of {tried}",
            str(len(rows)),
            *(plus_minus(models, m) for m in (ACCURACY, WIRE)),
            *(plus_minus(rows, m) if m.column in rows else "" for m in measures),
            shown_epsilon(float(rows.Epsilon.iloc[0])),
        ]
    ]


def _seedless(
    experiments: Sequence[Experiment],
) -> dict[ClassifierSpec, dict[AttackerSpec, None]]:
    """Classifiers and their attackers, each once whatever its seed."""
    found: dict[ClassifierSpec, dict[AttackerSpec, None]] = {}
    for experiment in experiments:
        own = found.setdefault(replace(experiment.classifier, seed=0), {})
        own |= dict.fromkeys(replace(attacker, seed=0) for attacker in experiment.attackers)
    return found


def _is_noisy(spec: ClassifierSpec) -> bool:
    """Whether transmissions differ, without which a naive attacker is the adaptive one."""
    return any(part.noisy for part in spec.active)


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
        if spec.seed == first and (not spec.naive or _is_noisy(experiment.classifier))
    ]
    figure = Path(folders.results_dir) / "figures" / f"headline_{dataset}.png"
    return text, plot_attacks(
        rows, folders, figure, f"{dataset}: reconstructions of what crossed the wire"
    )
