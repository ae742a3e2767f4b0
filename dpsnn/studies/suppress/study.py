"""Suppress-privacy against white-box inversion (MindSpore Armour): does a sparse network remember less of its input?

Published: LeNet-5 with and without it, attacked from the 120 values behind its first linear layer by a hundred steps of
sign descent, 30 training images. Here: every cut, that attack and two strong ones, where it was published one more,
and images nobody trained on.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from dpsnn import checkpoints
from dpsnn.attacks.sign_descent import STEPS, PublishedInversion
from dpsnn.checkpoints import ATTACKER
from dpsnn.data import DATASETS
from dpsnn.evaluation import tables
from dpsnn.evaluation.attackers import attacker_row, judge, load_attacked, reconstruct
from dpsnn.evaluation.measure import mean, standard_error
from dpsnn.networks.lenet5 import CUTS
from dpsnn.runner import run
from dpsnn.runner.beforehand import check_places
from dpsnn.runner.experiment import Experiment
from dpsnn.runner.figures import draw
from dpsnn.runner.group import run_study
from dpsnn.runner.progress import note
from dpsnn.runner.train import Folders, train_classifier
from dpsnn.specs import AttackerSpec, ClassifierSpec, default_of, replace
from dpsnn.tensors import Number

SPARSITIES = (0.5, 0.8, 0.9, 0.95)

RATE, PUBLISHED_RATE, MOMENTUM = 0.2, 0.1, 0.0
"""LeNet-5 is trained by SGD without momentum, as published. The step size decays, and the mask rounds end at 0.7 of the
training, so that the rest makes up for them; two control rows have both as published, a constant one and rounds to the
end, with which the network without silent weights stops half a point short."""


class Published(NamedTuple):
    """A network of the tutorial, as it was attacked from `fc1` by sign descent."""

    sparsity: Number
    accuracy: Number
    relative_l2: Number
    ssim: Number
    """With a data range of 2."""
    confidence: Number
    """In the true label, in percent."""


PUBLISHED = (
    Published(0.0, 99.0, 0.829, 0.243, 95.5),
    Published(0.95, 97.45, 0.863, 0.264, 55.8),
)

PUBLISHED_CUT = "fc1"

MEASURES = ("RelativeL2", "SSIM", "SSIM2", "ValConfidence", "ValAccuracy", "MSE")
"""Each has a floor by the mean image, one by shuffled pairs but for MSE, and an interval over images."""

DIGESTS = ("Digest", "TargetDigest", "ValidatorDigest")
"""Of whom a row is; an inversion has no weights of its own, and is another with another target."""

JUDGE_SEED = 1000
"""Added to the seed of a second judge: LeNet-5 itself, trained without silent weights, as the tutorial's judge may have
been. It is surer of what attacks on its own kind give than the validator, another architecture."""

INVERTED = PublishedInversion.scored
"""Images on which all attackers are compared: as many as inversions are scored on."""

Z = 1.96
"""Standard errors in half a 95 % interval."""


def suppress_experiments(
    base: ClassifierSpec,
    attacker: AttackerSpec,
    steps: int | None = None,
    restarts: int | None = None,
) -> list[Experiment]:
    """LeNet-5 at five sparsities, attacked at every cut in three ways, two as published, and the paper's network.

    The fourth, a refiner, takes the cut that was published and the paper's.

    Args:
        base: Its data set, seed, epochs and precision count.
        attacker: Base of the attackers: a decoder.
        steps: Limit of all inversions; None leaves them theirs.
        restarts: Starts of the strong inversion.
    """
    experiments = []
    lenet = replace(
        base, network="lenet5", batch_size=32, learning_rate=RATE, sgd_momentum=MOMENTUM
    )
    for sparsity in (0.0, *SPARSITIES):
        target = replace(lenet, suppress_sparsity=sparsity)
        attackers = [
            made
            for cut in CUTS
            for made in three_attacks(replace(attacker, cut=cut), steps, restarts)
        ]
        refined = _refined(replace(attacker, cut=PUBLISHED_CUT))
        experiments.append(Experiment(target, (*attackers, refined)))
    control = replace(lenet, learning_rate=PUBLISHED_RATE, constant_rate=True)
    for sparsity in (0.0, SPARSITIES[-1]):
        target = replace(control, suppress_sparsity=sparsity)
        attackers = list(three_attacks(replace(attacker, cut=PUBLISHED_CUT), steps, restarts))
        experiments.append(Experiment(target, tuple(attackers)))
    experiments.append(Experiment(second_judge(control), ()))
    for sparsity in (0.0, SPARSITIES[-1]):
        target = replace(base, suppress_sparsity=sparsity)
        attackers = [*three_attacks(attacker, steps, restarts), _refined(attacker)]
        experiments.append(Experiment(target, tuple(attackers)))
    return experiments


def _refined(attacker: AttackerSpec) -> AttackerSpec:
    """The refiner with the same knowledge, from the best linear map's guess, no longer than the decoder is trained."""
    refiner = replace(attacker, attack="refiner", own=())
    epochs = min(refiner.refiner_epochs, attacker.max_epochs)
    return replace(refiner, refiner_epochs=epochs)


def three_attacks(
    attacker: AttackerSpec, steps: int | None, restarts: int | None
) -> tuple[AttackerSpec, ...]:
    """As published, strong, and learned."""
    few = None if steps is None else min(STEPS, steps)
    # Only a decoder learns.
    inversion = replace(
        attacker, attack="inversion", max_epochs=default_of(AttackerSpec, "max_epochs")
    )
    return (
        replace(inversion, attack="sign", steps=few),
        replace(inversion, steps=steps, restarts=restarts),
        attacker,
    )


def suppress_table(results_dir: str | Path) -> Path:
    return tables.models_table(results_dir).with_name("suppress.csv")


def suppress_row(
    path: Path,
    attacks: Mapping[str, Mapping[str, str]],
    models: Mapping[str, Mapping[str, str]],
    folders: Folders,
) -> dict[str, object]:
    """One attacker on the images on which inversions are scored, beside the floors and what was published.

    Args:
        path: The attacker's checkpoint.
        attacks: The attackers' table, by attacker.
        models: The classifiers' table, by model.
        folders: Where data and checkpoints are.
    """
    stem = path.name.removesuffix(".ckpt")
    known = attacks[stem]
    row: Mapping[str, object] = known
    # Rows of an earlier version do not say how many images they are of.
    if not 0 < (tables.number(known, "Images") or 0) <= INVERTED:
        validator = folders.classifiers / f"{known['Validator']}.ckpt"
        row, _ = attacker_row(path, folders.models_dir, folders.data_dir, validator, INVERTED)
    model = models[str(row["Model"])]
    shown = {
        name: row[name] for name in ("Model", "Attacker", "Attack", "Cut", "Steps", "Restarts")
    }
    shown |= {"SuppressSparsity": tables.number(model, "SuppressSparsity") or 0.0}
    columns = ("Sparsity", "TestAcc", "Network", "Dataset", "LearningRate", "ConstantRate")
    shown |= {name: model.get(name) for name in columns}
    shown |= {"Images": row["Images"], "Seed": row["Seed"]}
    for name in MEASURES:
        shown[name] = row[name]
        # Numbers are read as text and measured as such.
        error = tables.number(known, f"SE{name}") if row is known else row[f"SE{name}"]
        shown[f"{name}CI"] = None if error is None else Z * float(str(error))
        shown[f"{name}Floor"] = row[f"{name}Floor"]
        if name != "MSE":
            shown[f"{name}Shuffled"] = row[f"{name}Shuffled"]
    shown["ValAccuracyCeiling"] = row["ValAccuracyCeiling"]
    published = _published(shown)
    shown |= published
    if published["PublishedRelativeL2"] is not None:
        shown |= _second_opinion(path, folders)
    shown |= {name: known.get(name, "") for name in DIGESTS}
    return shown


def _published(row: dict[str, object]) -> dict[str, object]:
    """The tutorial's figures, in the rows that repeat it."""
    same = [
        published
        for published in PUBLISHED
        if (row["Attack"], row["Cut"], row["Network"]) == ("sign", PUBLISHED_CUT, "lenet5")
        and row["ConstantRate"]
        and row["SuppressSparsity"] == published.sparsity
    ]
    values = same[0] if same else None
    return {
        "PublishedTestAcc": values and values.accuracy,
        "PublishedRelativeL2": values and values.relative_l2,
        "PublishedSSIM2": values and values.ssim,
        "PublishedValConfidence": values and values.confidence,
    }


def second_judge(target: ClassifierSpec) -> ClassifierSpec:
    """The same network trained in the same way, but without silent weights and from another seed."""
    return replace(target, suppress_sparsity=0.0, seed=target.seed + JUDGE_SEED)


@torch.no_grad()
def _second_opinion(path: Path, folders: Folders) -> dict[str, object]:
    """How sure the second judge is of the true label, of reconstructions and of the mean image."""
    attacked = load_attacked(path, folders.models_dir)
    spec = second_judge(attacked.target_spec)
    judging = checkpoints.load_classifier(train_classifier(spec, folders, "suppress"))[0]
    data = DATASETS[spec.dataset](folders.data_dir)
    pixels, labels = (part[:INVERTED] for part in data.tensors("scoring"))
    guesses = reconstruct(attacked, pixels.float() / 255)
    sure = judge(judging, guesses, labels)[1]
    mean_image = attacked.stored.record["mean_image"].expand_as(guesses)
    return {
        "LenetConfidence": mean(sure),
        "LenetConfidenceCI": Z * standard_error(sure),
        "LenetConfidenceFloor": mean(judge(judging, mean_image, labels)[1]),
    }


def suppress(experiments: Sequence[Experiment], judge: ClassifierSpec, folders: Folders) -> Path:
    """Train and evaluate what is missing, then bring the group's own table up to date.

    Raises:
        UsageError: If data cannot be reached, or a name is taken by other arguments.
        GroupFailed: If a member failed; the rows of all others are written.
    """
    check_places(folders, [(suppress_table(folders.results_dir), tables.ATTACKER_KEY)])
    return run.run_and_measure(
        experiments, judge, folders, "suppress", lambda: measure(experiments, folders)
    )


def measure(experiments: Sequence[Experiment], folders: Folders) -> Path:
    """Bring the table up to date with the attackers of the group that have been scored."""
    table = suppress_table(folders.results_dir)
    known = {
        (row["Attacker"], *(row.get(name, "") for name in DIGESTS))
        for row in tables.read(table, tables.ATTACKER_KEY)
    }
    scored = tables.read(tables.attackers_table(folders.results_dir))
    attacks = {row["Attacker"]: row for row in scored}
    measured = tables.read(tables.models_table(folders.results_dir))
    models = {row["Model"]: row for row in measured}
    for experiment in run.merge(experiments):
        for path in run.finished_attackers(experiment, folders):
            stem = path.name.removesuffix(".ckpt")
            row = attacks.get(stem)
            if row is None or (stem, *(row.get(name, "") for name in DIGESTS)) in known:
                continue
            if checkpoints.read(path, ATTACKER).digest != row["Digest"]:
                continue
            note(f"comparing {stem}")
            made = suppress_row(path, attacks, models, folders)
            tables.upsert(table, [made], tables.ATTACKER_KEY)
    return table


def run_suppress(options: argparse.Namespace) -> Path | None:
    """`dpsnn suppress`."""
    # Imported here, as the figures read the table of this file.
    from dpsnn.studies.suppress.figures import FIGURES

    def perform(experiments: list[Experiment], judge: ClassifierSpec, folders: Folders) -> Path:
        table = suppress(experiments, judge, folders)
        print(*draw(folders, judge.dataset, FIGURES), sep="\n")
        return table

    group = partial(suppress_experiments, steps=options.steps, restarts=options.restarts)
    return run_study(options, group, perform)
