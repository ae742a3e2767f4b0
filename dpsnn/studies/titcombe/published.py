"""The experiments of Titcombe et al. 2021 (arXiv 2104.05743) by their own protocol, flaws included, and their figures.

The rerun has models and tables of its own, so that it never mixes with honest ones. Where it departs from the protocol:
the attacker's step size is tuned and decays, its images are shuffled and its gradients clipped, layers may compute in
bfloat16, and the judge of reconstructions never saw an image of the target's test.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dpsnn import checkpoints
from dpsnn.checkpoints import ATTACKER, CLASSIFIER
from dpsnn.evaluation import tables
from dpsnn.runner import run
from dpsnn.runner.beforehand import check_places
from dpsnn.runner.experiment import Experiment
from dpsnn.runner.progress import note
from dpsnn.runner.train import Folders, complete
from dpsnn.specs import AttackerSpec, ClassifierSpec, plain, replace
from dpsnn.studies.titcombe.measures import BATCH, published_row
from dpsnn.tensors import Number


class Published(NamedTuple):
    """A row of the paper: a classifier and what was reported of it; None where nothing was."""

    noise_scale: Number
    nopeek_weight: Number
    train_accuracy: Number | None = None
    val_accuracy: Number | None = None
    dcorr: Number | None = None
    """Distance correlation (theirs) of validation images and what the client gave."""
    se_dcorr: Number | None = None
    reconstruction_dcorr: Number | None = None
    """The same of images and reconstructions."""
    se_reconstruction_dcorr: Number | None = None
    recognised: Number | None = None
    """Percentage of reconstructions in which a validator saw the true class."""


PUBLISHED = (
    Published(0, 0, None, None, None, None, 0.946, 0.001, 95.62),
    Published(0, 0.1, None, None, None, None, 0.828, 0.003, 95.20),
    Published(0, 0.5, None, None, None, None, 0.748, 0.006, 96.66),
    Published(0, 1.0, None, None, None, None, 0.717, 0.007, 97.20),
    Published(0.1, 0, None, None, None, None, 0.945, 0.001, 95.78),
    Published(0.5, 0, None, None, None, None, 0.939, 0.001, 95.74),
    Published(1.0, 0, None, None, None, None, 0.928, 0.001, 95.14),
    Published(0.1, 0.1, 99.61, 97.84, 0.474, 0.003, 0.841, 0.003, 94.88),
    Published(0.1, 0.25, 99.59, 98.02, 0.437, 0.004, 0.780, 0.005, 95.94),
    Published(0.1, 0.5, 99.74, 98.00, 0.411, 0.004, 0.742, 0.006, 97.10),
    Published(0.2, 0.1, 99.61, 97.98, 0.491, 0.003, 0.835, 0.003, 93.94),
    Published(0.2, 0.25, 99.67, 98.20, 0.450, 0.004, 0.774, 0.006, 96.94),
    Published(0.2, 0.5, 99.32, 97.46, 0.411, 0.004, 0.761, 0.005, 96.48),
    Published(0.5, 0.05, 99.19, 97.86, 0.674, 0.003, 0.912, 0.002, 94.70),
    Published(0.5, 0.1, 99.45, 97.52, 0.525, 0.003, 0.854, 0.002, 93.28),
    Published(0.5, 0.25, 99.46, 97.76, 0.442, 0.004, 0.781, 0.005, 96.62),
    Published(0.5, 0.5, 99.22, 97.38, 0.437, 0.003, 0.773, 0.005, 96.72),
    Published(1.0, 0.1, 99.11, 97.54, 0.575, 0.003),
    Published(1.0, 0.25, 99.02, 97.42, 0.500, 0.003),
    Published(1.0, 0.5, 98.60, 96.78, 0.452, 0.003),
)
"""Accuracies in percent; standard errors over batches. Titcombe, Hall, Papadopoulos & Romanini 2021."""

EPOCHS = 10

CONTROL = (0.1, 0.1)
"""Noise and NoPeek weight of the row that is also trained otherwise, to see what the training itself does to it."""

CLEAN_CONTROL_NOISE = 1.0
"""Noise of the rows whose NoPeek also looks at the activation before the noise: the paper does not say where it did."""


def published_experiments(base: ClassifierSpec, attacker: AttackerSpec) -> list[Experiment]:
    """The paper's own protocol, flaws included: softmax before cross-entropy, naive linear attackers.

    One row is trained twice more: with shuffled images, and with a decaying step size as well. Those with much noise
    are trained once more: with NoPeek before the noise.
    """
    base = replace(
        base,
        network="titcombe_softmax",
        learning_rate=1e-4,
        batch_size=128,
        constant_rate=True,
        fixed_order=True,
    )
    attackers = (replace(attacker, decoder="linear", naive=True, batch_size=128),)
    experiments, controls = [], []
    for row in PUBLISHED:
        spec = replace(base, noise_scale=row.noise_scale, nopeek_weight=row.nopeek_weight)
        if row.nopeek_weight:
            spec = replace(spec, nopeek_exponent=2.0, batch_size=BATCH)
        experiments.append(Experiment(spec, attackers))
        if row[:2] == CONTROL:
            for constant in (True, False):
                otherwise = replace(spec, constant_rate=constant, fixed_order=False)
                controls.append(Experiment(otherwise, attackers))
        if row.nopeek_weight and row.noise_scale == CLEAN_CONTROL_NOISE:
            controls.append(Experiment(replace(spec, nopeek_clean=True), attackers))
    return experiments + controls


def published(experiments: Sequence[Experiment], judge: ClassifierSpec, folders: Folders) -> Path:
    """Train and evaluate honestly what is missing, then write the published statistics of all that is finished.

    Args:
        experiments: Of `published_experiments`, also for several seeds.
        judge: The validator that scores the attackers.
        folders: Where to read and write.

    Returns:
        The table of published statistics.

    Raises:
        UsageError: If data cannot be reached, or a name is taken by other arguments.
        GroupFailed: If a member failed; the rows of all others are written.
    """
    check_places(folders, [(tables.published_table(folders.results_dir), tables.CLASSIFIER_KEY)])
    return run.run_and_measure(
        experiments, judge, folders, "published", lambda: measure(experiments, judge, folders)
    )


def measure(experiments: Sequence[Experiment], judge: ClassifierSpec, folders: Folders) -> Path:
    """Bring the table of published statistics up to date with the finished classifiers and their attackers."""
    table = tables.published_table(folders.results_dir)
    digests = ("Digest", "AttackerDigest", "ValidatorDigest")
    known = {
        (row["Model"], *(row.get(name) for name in digests))
        for row in tables.read(table, tables.CLASSIFIER_KEY)
    }
    honest = {row["Model"]: row for row in tables.read(tables.models_table(folders.results_dir))}
    validator = _finished(judge, folders)
    for experiment in run.merge(experiments):
        model = _finished(experiment.classifier, folders)
        stem = model.name.removesuffix(".ckpt") if model else ""
        if model is None or validator is None or stem not in honest:
            continue
        (spec,) = (complete(replace(a, model=stem), folders) for a in experiment.attackers)
        attacker = checkpoints.attacker_file(folders.attackers, spec)
        if attacker is None:
            continue
        files = ((model, CLASSIFIER), (attacker, ATTACKER), (validator, CLASSIFIER))
        if (stem, *(checkpoints.read(*file).digest for file in files)) in known:
            continue
        note(f"measuring {stem} as published")
        row = published_row(attacker, folders.models_dir, folders.data_dir, validator, honest[stem])
        tables.upsert(table, [row], tables.CLASSIFIER_KEY)
    return table


def _finished(spec: ClassifierSpec, folders: Folders) -> Path | None:
    name = checkpoints.classifier_name(spec)
    return checkpoints.already(folders.classifiers, name, CLASSIFIER, plain(spec))
