"""Repeated trainings in one line: mean and 95 % interval over seeds."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from scipy.stats import t

from dpsnn.evaluation import tables
from dpsnn.names import seedless

MODEL_SETTINGS = (
    "Dataset",
    "Network",
    "Cut",
    "NoiseScale",
    "GaussianStd",
    "NopeekWeight",
    "NopeekExponent",
    "NopeekClean",
    "Epsilon",
    "EpsilonDelta",
    "DPNoiseMultiplier",
    "DPRepeatable",
    "DPMaxGradNorm",
    "SuppressSparsity",
    "MaxEpochs",
    "BatchSize",
    "LearningRate",
    "SGDMomentum",
    "ConstantRate",
    "FixedOrder",
    "Precision",
)
MODEL_VALUES = ("MeanTrainAcc", "MeanValAcc", "TestAcc", "MeanTrainDCorr", "MeanValDCorr")

ATTACKER_SETTINGS = (
    "Dataset",
    "Network",
    "DPNoiseMultiplier",
    "DPRepeatable",
    "SuppressSparsity",
    "Attack",
    "Cut",
    "Steps",
    "Restarts",
    "TrainNoiseScale",
    "NoiseScale",
    "GaussianStd",
    "NopeekWeight",
    "Decoder",
    "Adaptive",
    "Surrogate",
    "SurrogateSource",
    "DataPct",
    "Queries",
    "Epsilon",
    "EpsilonDelta",
    "MaxEpochs",
    "Precision",
)
ATTACKER_VALUES = (
    "MSE",
    "PSNR",
    "SSIM",
    "MeanValDCorr",
    "ValAccuracy",
    "ValConfidence",
    "RelativeL2",
    "TargetAcc",
)

INVERSION_SETTINGS = (
    "Dataset",
    "Network",
    "Attack",
    "JudgeDataset",
    "JudgeSharesImages",
    "DPNoiseMultiplier",
    "DPRepeatable",
    "DPTargetEpsilon",
    "DPEpsilon",
    "MaxIterations",
    "MaxEpochs",
    "BatchSize",
    "LearningRate",
    "SGDMomentum",
)
INVERSION_VALUES = (
    "Top1",
    "Top5",
    "Rank",
    "Confidence",
    "SSIMMean",
    "MSEMean",
    "SSIMNearest",
    "MSENearest",
    "TargetConfidence",
    "Iterations",
)

LEVEL = 0.95


def interval(values: Sequence[float]) -> float:
    """Half the width of Student's 95 % interval of the mean; not a number for a single value."""
    if len(values) < 2:
        return math.nan
    return float(t.ppf(0.5 + LEVEL / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


def over_seeds(
    rows: Sequence[dict[str, str]],
    settings: Sequence[str],
    values: Sequence[str],
    names: Sequence[str] = (),
) -> list[dict[str, object]]:
    """One row for all rows that differ in nothing but their seed.

    Args:
        rows: Rows of a table, as read.
        settings: Columns that must agree.
        names: Columns of names, which must agree but for seeds and epochs: they say what no other column does.
        values: Columns of numbers.

    Returns:
        The settings, the number of `Seeds`, for every value its mean and, as `<value>CI`, half its 95 % interval, and
        what the names have in common.
    """
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        agreed = [row.get(name, "") for name in settings]
        # Not of a name that says neither.
        agreed += [seedless(n) if "_epoch=" in (n := row.get(name, "")) else "" for name in names]
        groups.setdefault(tuple(agreed), []).append(row)
    summary = []
    for key, members in groups.items():
        line: dict[str, object] = {**dict(zip(settings, key)), "Seeds": len(members)}
        for name in values:
            cells = [tables.number(member, name) for member in members]
            numbers = [value for value in cells if value is not None]
            line[name] = mean(numbers) if numbers else None
            line[f"{name}CI"] = interval(numbers)
        line |= zip(names, key[len(settings) :])
        summary.append(line)
    return summary


def write_summaries(results_dir: str | Path) -> list[Path]:
    """Write the summaries of the tables beside them.

    Returns:
        The files written: only those whose table exists.
    """
    written = []
    for table, settings, values, names in (
        (tables.models_table(results_dir), MODEL_SETTINGS, MODEL_VALUES, ["Model"]),
        (tables.attackers_table(results_dir), ATTACKER_SETTINGS, ATTACKER_VALUES, ["Attacker"]),
        (
            tables.inversions_table(results_dir),
            INVERSION_SETTINGS,
            INVERSION_VALUES,
            ["Model", "Judge"],
        ),
    ):
        if rows := tables.read(table):
            path = table.with_name(f"{table.stem}_by_seed.csv")
            tables.write(path, over_seeds(rows, settings, values, names))
            written.append(path)
    return written
