"""The table and the picture of the README, from the rows and checkpoints of the group `headline`."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dpsnn.evaluation.pictures import plot_attacks
from dpsnn.evaluation.plots import ACCURACY, LEAKAGE, WIRE, Measure, estimate
from dpsnn.evaluation.results import Results
from dpsnn.evaluation.tables import shown_epsilon, write_text
from dpsnn.runner.experiment import Experiment
from dpsnn.runner.train import Folders
from dpsnn.specs import AttackerSpec
from dpsnn.studies.titcombe.figures import describe

Trained = Sequence[tuple[Experiment, Path, list[Path]]]

HEADINGS = (
    "defence",
    "attacker",
    "seeds",
    "test accuracy %",
    "DCorr on the wire",
    "MSE",
    "SSIM",
    "recognised %",
    "ε",
)


def kind(spec: AttackerSpec) -> str:
    """The attacker in a word or two."""
    knowledge = "naive" if spec.naive else "adaptive"
    return knowledge if spec.decoder == "conv" else f"{knowledge} {spec.decoder}"


def markdown(experiments: Sequence[Experiment], results: Results) -> str:
    """One line per defence and attacker with all seeds that the tables have, floor and ceiling at the end.

    After ± stands half the 95 % interval: over seeds where there are several, else over images.
    """
    lines = [HEADINGS, ("---",) * 2 + ("---:",) * (len(HEADINGS) - 2)]
    shown = []
    # The same for every seed, hence each once.
    defences = dict.fromkeys(
        (e.classifier.noise_scale, e.classifier.nopeek_weight) for e in experiments
    )
    for noise, weight in defences:
        classifiers = results.classifiers(NoiseScale=noise, NopeekWeight=weight)
        for name in dict.fromkeys(kind(spec) for e in experiments for spec in e.attackers):
            attacks = results.attacks(TrainNoiseScale=noise, NopeekWeight=weight, Kind=name)
            if attacks.empty:
                continue
            shown.append(attacks)
            lines.append(
                (
                    describe(noise, weight),
                    name,
                    str(len(attacks)),
                    plus_minus(classifiers, ACCURACY, 2),
                    plus_minus(classifiers, WIRE, 3),
                    *(plus_minus(attacks, m, digits) for m, digits in zip(LEAKAGE, (4, 3, 1))),
                    shown_epsilon(attacks.Epsilon.iloc[0]),
                )
            )
    attacks, classifiers = pd.concat(shown), results.models
    lines.append(
        (
            "*floor*",
            "mean image",
            "",
            f"{classifiers.AccFloor.mean():.2f}",
            f"{classifiers.ValDCorrFloor.mean():.3f}",
            f"{attacks.MSEFloor.mean():.4f}",
            f"{attacks.SSIMFloor.mean():.3f}",
            f"{attacks.ValAccuracyFloor.mean():.1f}",
            "0",
        )
    )
    ceiling = f"{attacks.ValAccuracyCeiling.mean():.1f}"
    lines.append(("*ceiling*", "true image", "", "", "", "0", "1", ceiling, ""))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _defence(experiment: Experiment) -> str:
    return describe(experiment.classifier.noise_scale, experiment.classifier.nopeek_weight)


def plus_minus(rows: pd.DataFrame, measure: Measure, digits: int) -> str:
    """Mean ± half its 95 % interval: over seeds where there are several, else over images."""
    value, half = estimate(rows, measure)
    return f"{value:.{digits}f} ± {half:.{digits}f}"


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
        (f"{_defence(experiment)}\n{kind(spec)} attacker", path)
        for experiment, _, paths in trained
        for spec, path in zip(experiment.attackers, paths)
        if spec.seed == first and (not spec.naive or experiment.classifier.noise_scale)
    ]
    figure = Path(folders.results_dir) / "figures" / f"headline_{dataset}.png"
    return text, plot_attacks(
        rows, folders, figure, f"{dataset}: reconstructions of what crossed the wire"
    )
