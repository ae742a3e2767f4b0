"""The front page of the project: four defences, one honest attacker each, a table and a picture."""

from pathlib import Path
from typing import Any

from dpsnn.evaluation import tables
from dpsnn.evaluation.pictures import plot_attacks
from dpsnn.evaluation.tables import numeric
from dpsnn.runner.beforehand import check_file, check_places
from dpsnn.runner.experiment import Experiment
from dpsnn.runner.run import run
from dpsnn.runner.train import Folders
from dpsnn.specs import AttackerSpec, ClassifierSpec, replace

DEFENCES: dict[str, dict[str, Any]] = {
    "none (plain)": {},
    "noise 1.0": {"noise_scale": 1.0},
    "NoPeek 0.5": {"nopeek_weight": 0.5},
    "noise 1.0 + NoPeek 0.5": {"noise_scale": 1.0, "nopeek_weight": 0.5},
}

COLUMNS = {
    "Defence": "defence",
    "TestAcc": "test acc %",
    "MSE": "MSE",
    "SSIM": "SSIM",
    "ValAccuracy": "recognised %",
    "Epsilon": "epsilon",
}


def demo_experiments(base: ClassifierSpec, attacker: AttackerSpec) -> list[Experiment]:
    """The four defences, each with its adaptive attacker."""
    return [Experiment(replace(base, **defence), (attacker,)) for defence in DEFENCES.values()]


def check_demo(folders: Folders) -> None:
    """Raise UsageError where its table or picture cannot be written."""
    folder = Path(folders.results_dir)
    check_places(folders, [(folder / "demo.csv", ("Defence",))])
    check_file(folder / "demo.png")


def demo(
    base: ClassifierSpec, attacker: AttackerSpec, judge: ClassifierSpec, folders: Folders
) -> tuple[str, Path]:
    """Train, attack, measure and draw.

    Returns:
        What to print, and the table's path; the picture lies beside it.
    """
    folder = Path(folders.results_dir)
    table = folder / "demo.csv"
    trained = run(demo_experiments(base, attacker), judge, folders, "demo")
    models = {r["Model"]: r for r in tables.read(tables.models_table(folders.results_dir))}
    attackers = {r["Attacker"]: r for r in tables.read(tables.attackers_table(folders.results_dir))}
    rows: list[dict[str, object]] = []
    labelled = []
    for label, (_, model, (attack,)) in zip(DEFENCES, trained):
        scores = attackers[attack.name.removesuffix(".ckpt")]
        accuracy = numeric(models[model.name.removesuffix(".ckpt")], "TestAcc")
        numbers = {column: numeric(scores, column) for column in scores if column in COLUMNS}
        rows.append({"Defence": label, "TestAcc": accuracy, **numbers})
        labelled.append((f"{label}\nSSIM {numbers['SSIM']:.2f}", attack))
    floor = {
        "Defence": "floor: no information",
        "TestAcc": numeric(models[model.name.removesuffix(".ckpt")], "AccFloor"),
        "MSE": numeric(scores, "MSEFloor"),
        "SSIM": numeric(scores, "SSIMFloor"),
        "ValAccuracy": numeric(scores, "ValAccuracyFloor"),
        "Epsilon": 0.0,
    }
    ceiling = {
        "Defence": "ceiling: the true image",
        "MSE": 0.0,
        "SSIM": 1.0,
        "ValAccuracy": numeric(scores, "ValAccuracyCeiling"),
    }
    rows += [floor, ceiling]
    tables.upsert(table, rows, ("Defence",))
    picture = plot_attacks(
        labelled, folders, folder / "demo.png", f"{base.dataset}: what an attacker on the wire sees"
    )
    first, both = rows[0], rows[len(DEFENCES) - 1]
    story = (
        f"Without a defence, a decoder trained on other people's images turns what crosses the wire back into pictures"
        f" with SSIM {first['SSIM']:.2f} (a perfect copy 1, the mean image {floor['SSIM']:.2f})"
        f" while the classifier is right {first['TestAcc']:.1f} % of the time.\n"
        f"With noise and NoPeek together SSIM is {both['SSIM']:.2f} at {both['TestAcc']:.1f} % accuracy,"
        f" but {both['ValAccuracy']:.0f} % of the reconstructions are still recognised by an independent judge"
        f" (guessing: {floor['ValAccuracy']:.0f} %), and ε = {both['Epsilon']:.0f} promises next to nothing."
    )
    return f"{tables.as_text(rows, COLUMNS)}\n\n{story}\n\npicture: {picture}", table
