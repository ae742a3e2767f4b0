"""One row per classifier, measured as Titcombe et al. 2021 did: clean activations, squared distances, small batches.

Every choice here flatters or blurs (see `published.py`); the honest rows are `classifiers` and `attackers`.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from dpsnn.attacks.base import BLOCK
from dpsnn.data import DATASETS
from dpsnn.errors import UsageError
from dpsnn.evaluation.attackers import judge, load_attacked, load_judge
from dpsnn.evaluation.measure import device, mean, require_finite, standard_error
from dpsnn.metrics import distance_correlation, majority_share, mse, shuffled
from dpsnn.training import seeded

BATCH = 32
"""Images per distance correlation: the published batch with NoPeek."""

FROM_HONEST_ROW = (
    "NoiseScale",
    "NopeekWeight",
    "MeanTrainAcc",
    "SETrainAcc",
    "MeanValAcc",
    "SEValAcc",
    "TestAcc",
    "SETestAcc",
    "AccFloor",
)
SETTINGS = (
    "Dataset",
    "Network",
    "NopeekExponent",
    "Seed",
    "Epoch",
    "MaxEpochs",
    "BatchSize",
    "LearningRate",
    "Precision",
    "Digest",
)


def batch_dcorr(
    x: Float[Tensor, "n ..."], y: Float[Tensor, "n ..."], size: int = BATCH
) -> tuple[Float[Tensor, " batches"], Float[Tensor, " batches"]]:
    """Biased distance correlation with exponent 2 of consecutive batches, and of shuffled pairs in each.

    The published statistic: sqrt(linear CKA), which sees linear dependence only. Its bias depends on the number of
    samples, hence a last batch that is not full is left out.

    Args:
        x: Samples, for instance images.
        y: The same samples seen elsewhere.
        size: Samples per batch.

    Returns:
        Values in [0, 1] and their floors, one of each per batch.

    Raises:
        UsageError: If there is not a single full batch.
    """
    if len(x) < size:
        raise UsageError(f"{len(x)} samples make no batch of {size}; give more images")
    values, floors = [], []
    for start in range(0, len(x) - size + 1, size):
        a, b = x[start : start + size], y[start : start + size]
        values.append(distance_correlation(a, b, exponent=2))
        floors.append(distance_correlation(a, shuffled(b, start), exponent=2))
    return torch.stack(values), torch.stack(floors)


def _columns(name: str, x: Tensor, y: Tensor) -> dict[str, object]:
    values, floors = batch_dcorr(x, y)
    return {
        f"{name}DCorr": mean(values),
        f"SE{name}DCorr": standard_error(values),
        f"{name}DCorrFloor": mean(floors),
    }


@torch.inference_mode()
def published_row(
    path: Path,
    models_dir: str | Path,
    data_dir: str | Path,
    validator_path: Path,
    honest: Mapping[str, str],
) -> dict[str, object]:
    """The published statistics of a classifier and of its attacker.

    Args:
        path: The attacker's checkpoint; it names its classifier.
        models_dir: Where that classifier lies.
        data_dir: Where data sets lie.
        validator_path: The judge.
        honest: The classifier's row in the honest table; accuracies and settings are taken from it.

    Returns:
        Column → value. Distance correlations are over batches of `DCorrN` images: `Activation` and `Smashed` of
        validation images, `Reconstruction` of scoring images. The decoder sees clean activations, and its output is
        not confined to [0, 1], as published.

    Raises:
        UsageError: If a checkpoint is damaged, the validator judges another data set, or data cannot be reached.
    """
    attacked = load_attacked(path, models_dir)
    target, spec = attacked.target, attacked.target_spec
    validator, validator_stored = load_judge(validator_path, spec.dataset)
    data = DATASETS[spec.dataset](data_dir)

    images = data.tensors("validation", device())[0].float() / 255
    activation = target.encode(images).to(device())
    with seeded(spec.seed, 13):
        smashed = target.mechanism(activation)
    row: dict[str, object] = {
        "Model": attacked.spec.model,
        **{column: honest.get(column) for column in FROM_HONEST_ROW},
        "ConstantRate": spec.constant_rate,
        "FixedOrder": spec.fixed_order,
        "NopeekClean": spec.nopeek_clean,
        **_columns("Activation", images, activation),
        **_columns("Smashed", images, smashed),
    }

    images = data.tensors("scoring", device())[0].float() / 255
    labels = data.tensors("scoring")[1]
    clean = target.encode(images).to(device())
    guesses = torch.cat([attacked.attack(block.unsqueeze(0)) for block in clean.split(BLOCK)])
    require_finite(guesses, f"{attacked.stored.stem}: a reconstruction")
    squared = mse(guesses, images)
    floor = attacked.stored.record["mean_image"].to(device()).expand_as(images)
    right, _ = judge(validator, guesses, labels)
    ceiling, _ = judge(validator, images, labels)
    return row | {
        "Attacker": attacked.stored.stem,
        **_columns("Reconstruction", images, guesses),
        "MSE": mean(squared),
        "SEMSE": standard_error(squared),
        "MSEFloor": mean(mse(floor, images)),
        "ValAccuracy": mean(right),
        "SEValAccuracy": standard_error(right),
        "ValAccuracyFloor": majority_share(labels),
        "ValAccuracyCeiling": mean(ceiling),
        "DCorrN": BATCH,
        **{column: honest.get(column) for column in SETTINGS},
        "AttackerMaxEpochs": attacked.spec.max_epochs,
        "Validator": validator_stored.stem,
        "AttackerDigest": attacked.stored.digest,
        "ValidatorDigest": validator_stored.digest,
    }
