"""The table and the picture of the README, from the rows and checkpoints of the group `headline`."""

import os
from collections.abc import Sequence
from pathlib import Path

from dpsnn.checkpoints import ensure_writable
from dpsnn.evaluation import tables
from dpsnn.experiments.groups import Experiment
from dpsnn.experiments.run import plot_attacks
from dpsnn.experiments.train import Folders
from dpsnn.specs import AttackerSpec, ClassifierSpec

Trained = Sequence[tuple[Experiment, Path, list[Path]]]

HEADINGS = (
    "defence",
    "attacker",
    "test accuracy %",
    "DCorr on the wire",
    "MSE",
    "SSIM",
    "recognised %",
    "ε",
)


def describe(spec: ClassifierSpec) -> str:
    """The defences of a classifier in words."""
    parts = []
    if spec.noise_scale:
        parts.append(f"noise {spec.noise_scale:g}")
    if spec.nopeek_weight:
        parts.append(f"NoPeek {spec.nopeek_weight:g}")
    return " + ".join(parts) or "none"


def kind(spec: AttackerSpec) -> str:
    """The attacker in a word or two."""
    knowledge = "naive" if spec.naive else "adaptive"
    return knowledge if spec.decoder == "conv" else f"{knowledge} {spec.decoder}"


def _stem(path: Path) -> str:
    return path.name.removesuffix(".ckpt")


def markdown(trained: Trained, folders: Folders) -> str:
    """One line per attacker, standard errors over images (or blocks of them) after ±, floor and ceiling at the end."""
    models = {r["Model"]: r for r in tables.read(tables.models_table(folders.results_dir))}
    attackers = {r["Attacker"]: r for r in tables.read(tables.attackers_table(folders.results_dir))}
    lines = [HEADINGS, ("---",) * 2 + ("---:",) * (len(HEADINGS) - 2)]
    for experiment, model_path, paths in trained:
        model = models[_stem(model_path)]
        for spec, path in zip(experiment.attackers, paths):
            row = attackers[_stem(path)]
            lines.append(
                (
                    describe(experiment.classifier),
                    kind(spec),
                    _plus_minus(model, "TestAcc", 2),
                    _plus_minus(model, "MeanValDCorr", 3, "SEValDCorr"),
                    _plus_minus(row, "MSE", 4),
                    _plus_minus(row, "SSIM", 3),
                    _plus_minus(row, "ValAccuracy", 1),
                    "∞" if row["Epsilon"] == "inf" else f"{float(row['Epsilon']):,.0f}",
                )
            )
    floor = (
        "*floor*",
        "mean image",
        f"{float(model['AccFloor']):.2f}",
        f"{float(model['ValDCorrFloor']):.3f}",
        f"{float(row['MSEFloor']):.4f}",
        f"{float(row['SSIMFloor']):.3f}",
        f"{float(row['ValAccuracyFloor']):.1f}",
        "0",
    )
    ceiling = (
        "*ceiling*",
        "true image",
        "",
        "",
        "0",
        "1",
        f"{float(row['ValAccuracyCeiling']):.1f}",
        "",
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in (*lines, floor, ceiling))


def _plus_minus(row: dict[str, str], column: str, digits: int, error: str = "") -> str:
    value, spread = float(row[column]), float(row[error or f"SE{column}"])
    return f"{value:.{digits}f} ± {spread:.{digits}f}"


def headline(trained: Trained, folders: Folders) -> tuple[Path, Path]:
    """Write the markdown table and the picture.

    Args:
        trained: The experiments of the group with their checkpoints.
        folders: Where tables are read and results written.

    Returns:
        The markdown file and the figure.
    """
    dataset = trained[0][0].classifier.dataset
    text = Path(folders.results_dir) / f"headline_{dataset}.md"
    ensure_writable(text.parent)
    temporary = text.with_name(f".{text.name}.{os.getpid()}.tmp")
    temporary.write_text(markdown(trained, folders) + "\n", encoding="utf-8")
    os.replace(temporary, text)
    rows = [
        (f"{describe(experiment.classifier)}\n{kind(spec)} attacker", path)
        for experiment, _, paths in trained
        for spec, path in zip(experiment.attackers, paths)
        if not spec.naive or experiment.classifier.noise_scale
    ]
    figure = Path(folders.results_dir) / "figures" / f"headline_{dataset}.png"
    return text, plot_attacks(
        rows, folders, figure, f"{dataset}: reconstructions of what crossed the wire"
    )
