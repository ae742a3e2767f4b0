"""The table and the picture of the README, from the rows and checkpoints of the group `headline`."""

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from dpsnn.checkpoints import ensure_writable
from dpsnn.evaluation import tables
from dpsnn.evaluation.summary import interval
from dpsnn.experiments.groups import Experiment
from dpsnn.experiments.run import plot_attacks
from dpsnn.experiments.train import Folders
from dpsnn.specs import AttackerSpec, ClassifierSpec

Trained = Sequence[tuple[Experiment, Path, list[Path]]]
Row = dict[str, str]

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
    """One line per defence and attacker, floor and ceiling at the end.

    After ± stands half the 95 % interval over seeds; of a single seed, the standard error over images (or blocks of
    them).
    """
    models = {r["Model"]: r for r in tables.read(tables.models_table(folders.results_dir))}
    attackers = {r["Attacker"]: r for r in tables.read(tables.attackers_table(folders.results_dir))}
    # Seeds of one defence and attacker come together, in the order of the first seed.
    members: dict[tuple[str, str], list[tuple[Row, Row]]] = {}
    for experiment, model_path, paths in trained:
        for spec, path in zip(experiment.attackers, paths):
            key = (describe(experiment.classifier), kind(spec))
            pair = (models[_stem(model_path)], attackers[_stem(path)])
            members.setdefault(key, []).append(pair)
    lines = [HEADINGS, ("---",) * 2 + ("---:",) * (len(HEADINGS) - 2)]
    for key, pairs in members.items():
        classifiers, attacks = zip(*pairs)
        epsilon = attacks[0]["Epsilon"]
        lines.append(
            (
                *key,
                _plus_minus(classifiers, "TestAcc", 2),
                _plus_minus(classifiers, "MeanValDCorr", 3, "SEValDCorr"),
                _plus_minus(attacks, "MSE", 4),
                _plus_minus(attacks, "SSIM", 3),
                _plus_minus(attacks, "ValAccuracy", 1),
                "∞" if epsilon == "inf" else f"{float(epsilon):,.0f}",
            )
        )
    classifiers, attacks = zip(*(pair for pairs in members.values() for pair in pairs))

    def floor(rows: Sequence[Row], column: str, digits: int) -> str:
        return f"{mean(float(row[column]) for row in rows):.{digits}f}"

    lines.append(
        (
            "*floor*",
            "mean image",
            floor(classifiers, "AccFloor", 2),
            floor(classifiers, "ValDCorrFloor", 3),
            floor(attacks, "MSEFloor", 4),
            floor(attacks, "SSIMFloor", 3),
            floor(attacks, "ValAccuracyFloor", 1),
            "0",
        )
    )
    ceiling = floor(attacks, "ValAccuracyCeiling", 1)
    lines.append(("*ceiling*", "true image", "", "", "0", "1", ceiling, ""))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plus_minus(rows: Sequence[Row], column: str, digits: int, error: str = "") -> str:
    values = [float(row[column]) for row in rows]
    spread = interval(values) if len(values) > 1 else float(rows[0][error or f"SE{column}"])
    return f"{mean(values):.{digits}f} ± {spread:.{digits}f}"


def headline(trained: Trained, folders: Folders) -> tuple[Path, Path]:
    """Write the markdown table and the picture.

    Args:
        trained: The experiments of the group with their checkpoints.
        folders: Where tables are read and results written.

    Returns:
        The markdown file and the figure.
    """
    dataset, first = trained[0][0].classifier.dataset, trained[0][0].classifier.seed
    text = Path(folders.results_dir) / f"headline_{dataset}.md"
    ensure_writable(text.parent)
    temporary = text.with_name(f".{text.name}.{os.getpid()}.tmp")
    temporary.write_text(markdown(trained, folders) + "\n", encoding="utf-8")
    os.replace(temporary, text)
    rows = [
        (f"{describe(experiment.classifier)}\n{kind(spec)} attacker", path)
        for experiment, _, paths in trained
        for spec, path in zip(experiment.attackers, paths)
        if spec.seed == first and (not spec.naive or experiment.classifier.noise_scale)
    ]
    figure = Path(folders.results_dir) / "figures" / f"headline_{dataset}.png"
    return text, plot_attacks(
        rows, folders, figure, f"{dataset}: reconstructions of what crossed the wire"
    )
