"""Model inversion on Omniglot with and without DP-SGD (RStudio AI blog, May 2020): as published, and fairly.

As published, batch normalisation mixes the images of a batch, which voids the guarantee; targets with and without
privacy differ in dropout, epochs and step size; and the attacker owns two of the alphabets that it is scored on.
"""

import argparse
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from dpsnn.data import DATASETS, Omniglot
from dpsnn.errors import one_of
from dpsnn.evaluation import tables
from dpsnn.evaluation.attackers import load_attacked, reconstruct
from dpsnn.evaluation.measure import mean, standard_error
from dpsnn.metrics import mse, psnr, ssim
from dpsnn.runner import run
from dpsnn.runner.beforehand import check_places
from dpsnn.runner.experiment import Experiment
from dpsnn.runner.figures import draw
from dpsnn.runner.group import run_study
from dpsnn.runner.progress import note
from dpsnn.runner.train import Folders
from dpsnn.specs import AttackerSpec, ClassifierSpec, replace
from dpsnn.studies.omniglot.figures import FIGURES
from dpsnn.tensors import Number

AS_PUBLISHED, FAIR = PROTOCOLS = ("published", "fair")
"""With its flaws, and without them."""

EPOCHS = 20
"""Of all targets in the fair protocol, and of those with DP-SGD as published."""

PRIVATE_RATE = 0.005
"""Step size of targets with DP-SGD, in both protocols, as published: gradients are clipped and noisy, so that with that
of the others they would not be done after as many epochs."""


class Published(NamedTuple):
    """A target of the blog."""

    noise_multiplier: Number
    epsilon: Number
    accuracy: Number
    """On training images, in percent."""


PUBLISHED = (
    Published(0.0, math.inf, 84.0),
    Published(0.7, 4.0, 37.0),
    Published(0.5, 12.5, 45.0),
    Published(0.3, 84.7, 56.0),
)

NOISES = tuple(row.noise_multiplier for row in PUBLISHED if row.noise_multiplier)
"""Multipliers of the targets with DP-SGD."""


def omniglot_experiments(
    base: ClassifierSpec, attacker: AttackerSpec, epochs: int | None = None, protocol: str = ""
) -> list[Experiment]:
    """Targets without DP-SGD and with three noises, by both protocols, each attacked by two decoders and a linear map.

    Args:
        base: Its data set, seed and precision count; another data set than Omniglot is for trying things out.
        attacker: Base of the attackers.
        epochs: Limit of all trainings; None leaves the protocols theirs.
        protocol: One of `PROTOCOLS` alone; empty stands for both.
    """
    limit = epochs or 10**6
    attackers = (
        replace(attacker, decoder="deconv", max_epochs=min(100, limit)),
        replace(attacker, max_epochs=min(attacker.max_epochs, limit)),
        replace(attacker, attack="ridge", own=()),
    )
    targets = []
    if protocol != FAIR and issubclass(DATASETS[base.dataset], Omniglot):
        targets += as_published(base, limit)
    if protocol != AS_PUBLISHED:
        targets += fair(base, min(EPOCHS, limit))
    return [Experiment(target, attackers) for target in targets]


def as_published(base: ClassifierSpec, limit: int) -> list[ClassifierSpec]:
    """The blog's targets: ten epochs with dropout, or twenty with DP-SGD and none."""
    plain = replace(
        base, dataset="omniglot_overlap", network="mobile", batch_size=32, max_epochs=min(10, limit)
    )
    private = replace(
        plain,
        dropout=0.0,
        learning_rate=PRIVATE_RATE,
        max_epochs=min(EPOCHS, limit),
        dp_coupled=True,
    )
    return [plain, *(with_noise(private, noise) for noise in NOISES)]


def fair(base: ClassifierSpec, epochs: int) -> list[ClassifierSpec]:
    """All targets alike but for the noise and the step size: group normalisation, no dropout, the same epochs."""
    alike = replace(base, batch_size=32, max_epochs=epochs)
    if issubclass(DATASETS[base.dataset], Omniglot):
        alike = replace(alike, dataset="omniglot", network="mobile", norm="group", dropout=0.0)
    private = replace(alike, learning_rate=PRIVATE_RATE)
    return [alike, *(with_noise(private, noise) for noise in NOISES)]


def with_noise(spec: ClassifierSpec, noise: Number) -> ClassifierSpec:
    """By DP-SGD; from the public seed, so that a study on public data can be repeated."""
    return replace(spec, dp_noise_multiplier=noise, repeatable_noise=True)


def alphabets_table(results_dir: str | Path) -> Path:
    return tables.models_table(results_dir).with_name("omniglot_by_alphabet.csv")


@torch.no_grad()  # no inference mode: an attacker may differentiate the client that is loaded in here
def alphabet_rows(path: Path, folders: Folders) -> list[dict[str, object]]:
    """Leakage of one attacker by the alphabet of the pictures, each beside what the mean image scores."""
    attacked = load_attacked(path, folders.models_dir)
    data = DATASETS[attacked.target_spec.dataset](folders.data_dir)
    pixels, labels = data.tensors("scoring")
    names = data.alphabets if isinstance(data, Omniglot) else None
    images = pixels.float() / 255
    guesses = reconstruct(attacked, images)
    floor = attacked.stored.record["mean_image"].expand_as(images)
    rows: list[dict[str, object]] = []
    for label in labels.unique().tolist():
        own = labels == label
        row: dict[str, object] = {
            "Model": attacked.spec.model,
            "Attacker": attacked.stored.stem,
            "Alphabet": names[label] if names else str(label),
            "Images": int(own.sum()),
        }
        for name, measure in (("MSE", mse), ("PSNR", psnr), ("SSIM", ssim)):
            values = measure(guesses[own], images[own])
            row |= {name: mean(values), f"SE{name}": standard_error(values)}
            row[f"{name}Floor"] = mean(measure(floor[own], images[own]))
        rows.append({**row, "Digest": attacked.stored.digest})
    return rows


def omniglot(experiments: Sequence[Experiment], judge: ClassifierSpec, folders: Folders) -> Path:
    """Train and evaluate what is missing, then bring the table by alphabet and the figures up to date.

    Raises:
        UsageError: If data cannot be reached, or a name is taken by other arguments.
        GroupFailed: If a member failed.
    """
    table = alphabets_table(folders.results_dir)
    key = ("Model", "Attacker", "Alphabet")
    check_places(folders, [(table, key)])
    trained = run.run(experiments, judge, folders, "omniglot")
    known = {(row["Attacker"], row.get("Digest")) for row in tables.read(table, key)}
    for _, _, attackers in trained:
        for path in attackers:
            stored = load_attacked(path, folders.models_dir).stored
            if (stored.stem, stored.digest) not in known:
                note(f"evaluating {stored.stem} by alphabet")
                tables.upsert(table, alphabet_rows(path, folders), key)
    for dataset in sorted({experiment.classifier.dataset for experiment, _, _ in trained}):
        draw(folders, dataset, FIGURES)
    return table


def run_omniglot(options: argparse.Namespace) -> Path | None:
    """`dpsnn omniglot`."""
    epochs = options.max_epochs if options.max_epochs_given else None
    if options.protocol:
        one_of(options.protocol, PROTOCOLS, "protocol")
    experiments = partial(omniglot_experiments, epochs=epochs, protocol=options.protocol)
    return run_study(options, experiments, omniglot)
