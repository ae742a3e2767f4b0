"""Step sizes of classifiers, chosen by short experiments on images set aside for it, as many for each classifier."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

from dpsnn import building, checkpoints
from dpsnn.data import DATASETS
from dpsnn.errors import Diverged
from dpsnn.evaluation import tables
from dpsnn.metrics import correct
from dpsnn.runner.progress import note
from dpsnn.runner.train import Folders
from dpsnn.specs import ClassifierSpec, replace
from dpsnn.tensors import Number
from dpsnn.training import fit

KEY = (
    "Dataset",
    "Network",
    "DPNoiseMultiplier",
    "DPTargetEpsilon",
    "MaxEpochs",
    "BatchSize",
    "SGDMomentum",
    "ConstantRate",
    "LearningRate",
)


def tuning_table(results_dir: str | Path) -> Path:
    return tables.models_table(results_dir).with_name("learning_rates.csv")


def trial(spec: ClassifierSpec, folders: Folders) -> dict[str, object]:
    """Train once and say how well validation images are classified after the last epoch; no checkpoint is kept.

    Where training diverges, there is nothing to say.
    """
    data = DATASETS[spec.dataset](folders.data_dir, spec.batch_size, spec.seed)
    classifier = building.build_classifier(spec)
    changing = building.callbacks_of(spec)
    for part, callback in changing:
        part.prepare(callback, data)
    accuracy: float | None = None
    loss: float | None = None
    try:
        fit(
            classifier,
            data,
            monitor="val/task_loss",
            mode="last",
            max_epochs=spec.max_epochs,
            seed=spec.seed,
            precision=spec.precision,
            callbacks=[callback for _, callback in changing],
        )
        pixels, labels = data.tensors("validation")
        with torch.inference_mode():
            logits = classifier(pixels.float() / 255)
        accuracy = 100 * correct(logits, labels).double().mean().item()
        loss = F.cross_entropy(logits, labels).item()
    except Diverged:
        pass
    return {
        **_settings(spec),
        "ValAcc": accuracy,
        "ValLoss": loss,
        "Images": len(data.rows("validation")),
    }


def _settings(spec: ClassifierSpec) -> dict[str, object]:
    values = (
        spec.dataset,
        spec.network,
        spec.dp_noise_multiplier,
        spec.dp_target_epsilon,
        spec.max_epochs,
        spec.batch_size,
        spec.sgd_momentum,
        spec.constant_rate,
        spec.learning_rate,
    )
    return dict(zip(KEY, values))


def tried(attempt: ClassifierSpec, folders: Folders) -> tables.ReadRow | None:
    """The row of what was tried before, on whichever seed; None if it was not."""
    key = {name: tables.cell(value) for name, value in _settings(attempt).items()}
    rows = tables.read(tuning_table(folders.results_dir), KEY)
    return next((row for row in rows if all(row[name] == key[name] for name in KEY)), None)


def tuned(
    spec: ClassifierSpec, dataset: str, rates: Sequence[Number], folders: Folders
) -> ClassifierSpec:
    """The spec with that step size of `rates` with which it classifies most images of another data set's validation.

    What was tried before stands in a table and is not tried again. Where the accuracy is equal, the loss decides.

    Args:
        spec: What to train; its seed does not count, all seeds share a step size.
        dataset: Whose images to try on.
        rates: Step sizes to try; the same for all that are to be compared.
        folders: Where the table and data are.

    Raises:
        Diverged: If training leaves the finite numbers with each of them.
    """
    table = tuning_table(folders.results_dir)
    results = {}
    for rate in rates:
        attempt = replace(spec, dataset=dataset, learning_rate=float(rate), seed=0)
        row = tried(attempt, folders)
        if row is None:
            note(
                f"trying learning rate {rate:g} for {checkpoints.classifier_name(replace(spec, seed=0))}"
            )
            tables.upsert(table, [trial(attempt, folders)], KEY)
            row = tried(attempt, folders)
            assert row is not None
        # An infinite loss stood for a trial that diverged.
        loss = tables.number(row, "ValLoss")
        if loss is not None and math.isfinite(loss):
            results[float(rate)] = (tables.numeric(row, "ValAcc"), -loss)
    if not results:
        raise Diverged(
            f"training diverged with each of the step sizes {list(rates)}; name lower ones"
        )
    return replace(spec, learning_rate=max(results, key=lambda rate: results[rate]))
