"""Tables with values out of thin air, for what reads tables: figures, the headline, notebooks."""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from dpsnn import checkpoints
from dpsnn.evaluation import tables
from dpsnn.evaluation.columns import (
    attack_columns,
    defence_columns,
    making_columns,
    trained_columns,
)
from dpsnn.runner.experiment import Experiment
from dpsnn.runner.train import Folders
from dpsnn.specs import AttackerSpec, ClassifierSpec
from dpsnn.studies.suppress.study import MEASURES, suppress_experiments, suppress_table
from dpsnn.studies.titcombe.groups import GROUPS


def invented_rows(
    experiments: list[Experiment], generator: random.Random
) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Rows of both tables with the columns that figures read, and values out of thin air."""
    models: list[dict[str, object]] = []
    attacks: list[dict[str, object]] = []
    for experiment in experiments:
        spec = experiment.classifier
        model = f"{checkpoints.classifier_name(spec)}_epoch=00"
        strength = spec.dp_noise_multiplier
        record = dict(dp_noise_multiplier=strength, dp_epsilon=3 / strength) if strength else {}
        models.append(
            {
                "Model": model,
                "TestAcc": 90 + 9 * generator.random(),
                "SETestAcc": 0.1,
                "MeanTrainAcc": 99.0 * generator.random(),
                "SETrainAcc": 0.1,
                "MeanValAcc": 99.0 * generator.random(),
                "AccFloor": 10.0,
                "MeanValDCorr": generator.random(),
                "SEValDCorr": 0.01,
                "ValDCorrFloor": 0.02,
                **defence_columns(spec, record),
                "Epsilon": 1000 / spec.noise_scale if spec.noise_scale else float("inf"),
                **making_columns(spec),
                "BatchSize": spec.batch_size,
                "Dataset": spec.dataset,
                "Seed": spec.seed,
            }
        )
        for attacker in experiment.attackers:
            attacker = replace(attacker, model=model, surrogate=attacker.surrogate or spec.dataset)
            now = replace(spec, **dict(attacker.changes))
            noise = now.noise_scale
            attacks.append(
                {
                    "Model": model,
                    "Attacker": checkpoints.attacker_name(attacker),
                    "TargetAcc": 90 + 9 * generator.random(),
                    "MSE": generator.random() / 20,
                    "SEMSE": 0.001,
                    "MSEFloor": 0.07,
                    "SSIM": generator.random(),
                    "SESSIM": 0.01,
                    "SSIMFloor": 0.3,
                    "ValAccuracy": 100 * generator.random(),
                    "SEValAccuracy": 1.0,
                    "ValAccuracyFloor": 10.0,
                    "ValAccuracyCeiling": 98.0,
                    "Adaptive": not attacker.naive,
                    "Attack": attacker.attack,
                    **attack_columns(attacker),
                    "Surrogate": attacker.surrogate,
                    "SurrogateSource": "invented",
                    "SurrogateImages": 10 * attacker.data_pct,
                    "DataPct": attacker.data_pct,
                    "Queries": attacker.queries,
                    **trained_columns(spec),
                    **defence_columns(now, record),
                    "Epsilon": 1000 / noise if noise else float("inf"),
                    "Dataset": spec.dataset,
                    "Seed": attacker.seed,
                }
            )
    return models, attacks


def invented_suppression(generator: random.Random) -> list[dict[str, object]]:
    """Rows of the group `suppress` with the columns that figures and its notebook read."""
    rows: list[dict[str, object]] = []
    for experiment in suppress_experiments(ClassifierSpec(), AttackerSpec(surrogate="digits")):
        spec = experiment.classifier
        model = f"{checkpoints.classifier_name(spec)}_epoch=00"
        for attacker in experiment.attackers:
            row: dict[str, object] = {
                "Model": model,
                "Attacker": checkpoints.attacker_name(replace(attacker, model=model)),
                "Attack": attacker.attack,
                "Cut": attacker.cut or None,
                "SuppressSparsity": spec.suppress_sparsity,
                "Sparsity": spec.suppress_sparsity,
                "TestAcc": 97 + 2 * generator.random(),
                "Network": spec.network,
                "ConstantRate": spec.constant_rate or None,
                "Dataset": spec.dataset,
                "Seed": spec.seed,
            }
            for name in MEASURES:
                row |= {name: generator.random(), f"{name}CI": 0.01, f"{name}Floor": 0.5}
                row[f"{name}Shuffled"] = 0.6
            row["ValAccuracyCeiling"] = 0.99
            rows.append({**row, "PublishedRelativeL2": None, "Digest": "", "ValidatorDigest": ""})
    return rows


Group = Callable[[ClassifierSpec, AttackerSpec], list[Experiment]]


def write_tables(folder: Path, *seeds: int, group: str | Group = "all") -> Folders:
    """Both tables of a group with these seeds, and for `all` that of `suppress`, in the results of this folder."""
    folders = Folders(results_dir=str(folder / "results"), models_dir=str(folder / "models"))
    if Path(folders.results_dir).exists():
        return _write(folder, seeds, group)  # rows join those that are there
    for name, content in _written(seeds, group).items():
        path = Path(folders.results_dir) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folders


@cache
def _written(seeds: tuple[int, ...], group: str | Group) -> dict[str, bytes]:
    """Made once: to spell the names of a hundred members takes a second."""
    with TemporaryDirectory() as place:
        results = Path(_write(Path(place), seeds, group).results_dir)
        files = (path for path in results.rglob("*.csv"))
        return {str(path.relative_to(results)): path.read_bytes() for path in files}


def _write(folder: Path, seeds: tuple[int, ...], group: str | Group) -> Folders:
    make = GROUPS[group] if isinstance(group, str) else group
    experiments = [
        experiment
        for seed in seeds
        for experiment in make(ClassifierSpec(seed=seed), AttackerSpec(seed=seed))
    ]
    models, attacks = invented_rows(experiments, random.Random(0))
    folders = Folders(results_dir=str(folder / "results"), models_dir=str(folder / "models"))
    tables.upsert(tables.models_table(folders.results_dir), models, tables.CLASSIFIER_KEY)
    tables.upsert(tables.attackers_table(folders.results_dir), attacks, tables.ATTACKER_KEY)
    if group == "all":
        rows = invented_suppression(random.Random(1))
        tables.upsert(suppress_table(folders.results_dir), rows, tables.ATTACKER_KEY)
    return folders


def write_inversions(folder: Path, dataset: str) -> None:
    """Rows of MI-FACE and of its targets, in the tables of `write_tables`, with values out of thin air."""
    generator = random.Random(1)
    models: list[dict[str, object]] = []
    attacks: list[dict[str, object]] = []
    for kind in (dataset, f"{dataset}_all"):
        for noise in (0.0, 1.0):
            private = {"DPNoiseMultiplier": noise or None, "DPEpsilon": 8.0 if noise else None}
            target = {
                "Model": f"{kind}_{noise}_people",
                "Dataset": kind,
                "Network": "perceptron",
                "Seed": 0,
            }
            models.append(
                {
                    **target,
                    **private,
                    "TestAcc": 90 * generator.random(),
                    "MeanTrainAcc": 99 * generator.random(),
                    "BatchSize": 40,
                    "LearningRate": 0.01,
                }
            )
            scores = ("Top1", "Top1Low", "Top1High", "Top5", "Top1MeanFace", "Top1TrueFace")
            near = ("SSIMMean", "MSEMean")
            floors = [f"{name}{floor}" for name in near for floor in ("MeanFace", "RandomFace")]
            for attack in ("paper", "documented", "smoothed"):
                row: dict[str, object] = {**target, "Attack": attack, "Judge": "judge", **private}
                row |= {name: 100 * generator.random() for name in scores}
                row |= {name: generator.random() for name in (*near, *floors)}
                row |= {f"DPEpsilon_{name}": 8.0 if noise else None for name in ("rdp", "prv")}
                row |= {"People": 40, "Rank": 3.0, "Iterations": 700.0}
                attacks.append({**row, "JudgeDataset": f"{dataset}_others"})
    results = folder / "results"
    tables.upsert(tables.models_table(results), models, tables.CLASSIFIER_KEY)
    tables.upsert(tables.inversions_table(results), attacks, ("Model", "Attack", "Judge"))
