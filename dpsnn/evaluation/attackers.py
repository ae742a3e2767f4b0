"""One row per attacker: how close its reconstructions come, and whether a judge recognises them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dpsnn.attacks import AttackModule
from dpsnn.attacks.base import BLOCK
from dpsnn.building import recut, set_afterwards
from dpsnn.checkpoints import (
    ATTACKER,
    CLASSIFIER,
    Stored,
    classifiers_dir,
    digest,
    find,
    load_attacker,
    load_classifier,
    read,
)
from dpsnn.classifier import SplitClassifier
from dpsnn.data import DATASETS, ImageDataModule
from dpsnn.errors import UsageError
from dpsnn.evaluation.bounds import BOUNDS, Bounds, bounds_of
from dpsnn.evaluation.columns import attack_columns, defence_columns, in_order, trained_columns
from dpsnn.evaluation.identity import identity, versions
from dpsnn.evaluation.measure import device, mean, require_finite
from dpsnn.evaluation.victims import Scores
from dpsnn.metrics import correct
from dpsnn.metrics.base import Cells, Metric, Scored, known, marks
from dpsnn.metrics.floors import class_means
from dpsnn.specs import AttackerSpec, ClassifierSpec, afterwards, replace
from dpsnn.target import Target
from dpsnn.tensors import Activation, Images, Labels, Logits
from dpsnn.training import seeded


class Attacked(NamedTuple):
    """A target as it stands at the attack, with the attacker trained on it."""

    target: Target
    target_spec: ClassifierSpec
    attack: AttackModule
    spec: AttackerSpec
    stored: Stored
    target_stored: Stored

    @property
    def spec_now(self) -> ClassifierSpec:
        """The target's, with what was changed after its training."""
        return replace(self.target_spec, **dict(self.spec.changes))

    @property
    def marks(self) -> Cells:
        """What tells its row from those of all others, and from its own when it or its target were others."""
        target = identity(ClassifierSpec, self.target_stored)
        return {
            "Digest": self.stored.digest,
            "TargetDigest": self.target_stored.digest,
            "Identity": identity(AttackerSpec, self.stored, target),
            "Versions": versions([self.spec.method, *self.spec_now.active]),
        }


def load_attacked(path: Path, models_dir: str | Path) -> Attacked:
    """An attacker and its target, the noise set as the attacker met it.

    Raises:
        UsageError: If either is missing or damaged, or the target is no longer the one that was attacked.
    """
    arguments = read(path, ATTACKER).arguments
    model = str(arguments.get("model"))
    target_path = find(classifiers_dir(models_dir), model, CLASSIFIER)
    classifier, target_spec, target_stored = load_classifier(target_path)
    if arguments.get("target") != target_stored.digest:
        raise UsageError(
            f"{path.name} attacked another model called {model}; move the attacker away and train it again"
        )
    recut(classifier, str(arguments.get("cut") or ""))
    changes = {
        made.name: value
        for name, made in afterwards().items()
        if (value := arguments.get(name)) is not None
    }
    set_afterwards(classifier, **changes)
    target = Target.of(classifier, model)
    attack, spec, stored = load_attacker(path, target)
    attack.to(device())
    return Attacked(target, target_spec, attack, spec, stored, target_stored)


@torch.inference_mode()
def reconstruct(
    attacked: Attacked, images: Images, shown: Sequence[int] | None = None
) -> Float[Tensor, "shown c h w"]:
    """Send `images` through the defended client as users would, and let the attacker guess them.

    An attacker of several queries hears each image so many times.

    Args:
        attacked: Attacker and target.
        images: What users send.
        shown: Rows to return; all by default.
    """
    rows = list(range(len(images))) if shown is None else list(shown)
    guesses: dict[int, Tensor] = {}
    start = 0
    with seeded(attacked.spec.seed, 11):
        for heard in _heard(attacked, attacked.target.encode(images)):
            own = [row for row in rows if start <= row < start + heard.shape[1]]
            if own:
                found = attacked.attack.infer(heard[:, [row - start for row in own]]).cpu()
                guesses |= zip(own, found)
            start += heard.shape[1]
    return torch.stack([guesses[row] for row in rows])


def _heard(
    attacked: Attacked, activations: Activation
) -> Iterator[Float[Tensor, "queries n *cut"]]:
    """All that crosses the wire when each image is sent as often as it is heard, in parts that the attack takes."""
    for part in activations.split(attacked.attack.at_once or max(1, len(activations))):
        yield attacked.target.transmit(part, attacked.spec.queries)


@torch.inference_mode()
def overheard(
    attacked: Attacked, activations: Activation, bounds: Bounds | None = None
) -> tuple[Images, Labels | None]:
    """What the attacker makes of transmissions of images, and the class that the server reads out of the same.

    Args:
        attacked: Attacker and target.
        activations: What the client gave for the images.
        bounds: What is to hear and watch the same.

    Returns:
        Images, and classes; None where there is no server.

    Raises:
        UsageError: If one of them gives values that are not finite.
    """
    guesses, classes = [], []
    with seeded(attacked.spec.seed, 11):
        for heard in _heard(attacked, activations):
            guesses.append(attacked.attack.infer(heard).cpu())
            if bounds:
                bounds.hear(heard, guesses[-1])
            if attacked.target.server is not None:
                logits = attacked.target.answer(heard)
                require_finite(logits, f"{attacked.spec.model}: what the server answers")
                classes.append(logits.argmax(1).cpu())
    images = torch.cat(guesses)
    require_finite(images, f"{attacked.stored.stem}: a reconstruction")
    return images, torch.cat(classes) if classes else None


def load_judge(path: Path, dataset: str) -> tuple[SplitClassifier, Stored]:
    """A validator for a data set.

    Raises:
        UsageError: If the file is damaged, no validator, or one that judges another data set.
    """
    validator, spec, stored = load_classifier(path)
    if not spec.validator:
        raise UsageError(
            f"{path.name} is not a validator but may be attacked itself; train one with --validator"
        )
    if spec.dataset != dataset:
        raise UsageError(
            f"validator {path.name} judges {spec.dataset}, but the model under attack is for {dataset};"
            f" name a validator for {dataset}"
        )
    return validator, stored


@torch.inference_mode()
def answers(validator: SplitClassifier | None, images: Images) -> Logits | None:
    """What the judge sees in images; None where there is none.

    Raises:
        UsageError: If the validator gives values that are not finite.
    """
    if validator is None:
        return None
    validator.to(device(), memory_format=torch.channels_last)  # twice as fast
    logits = torch.cat([validator(block).cpu() for block in images.to(device()).split(BLOCK)])
    require_finite(logits, "what the validator answers")
    return logits


def judge(
    validator: SplitClassifier, images: Images, labels: Labels
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Per image: recognised as its true class (0 or 100), and the validator's probability of that class in percent.

    Raises:
        UsageError: If the validator gives values that are not finite.
    """
    logits = answers(validator, images)
    assert logits is not None
    probability = logits.softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1)
    return 100.0 * correct(logits, labels), 100.0 * probability


# ---------------------------------------------------------------- measures


def score(
    reconstructions: Images,
    images: Images,
    labels: Labels,
    mean_guess: Images,
    validator: SplitClassifier | None = None,
) -> Cells:
    """Every measure of leakage with its floor: what the attacker's mean image would score.

    Args:
        reconstructions: The attacker's guesses, in [0, 1].
        images: The truth.
        labels: Classes of the truth.
        mean_guess: The mean of the attacker's own images, once per image: the best guess without any leakage.
        validator: The judge; its columns stay empty without one.

    Returns:
        Column → value; accuracies and confidences in percent, PSNR in dB. Distance correlation is bias-corrected. Of
        few or tiny images some measures are undefined, and None or NaN here: distance correlation of fewer than 4,
        shuffled pairs and standard errors of one, SSIM of sides below 6 pixels.
    """
    cells, _ = _measured(known(), reconstructions, images, labels, validator)
    return in_order(cells | _references(known(), images, labels, mean_guess, None, validator))


def _measured(
    metrics: Sequence[Metric],
    reconstructions: Images,
    images: Images,
    labels: Labels,
    validator: SplitClassifier | None,
) -> tuple[Cells, Scores]:
    """The part of a score that depends on the reconstructions, and what each image adds to it."""
    seen = Scored(reconstructions, images, labels, answers(validator, reconstructions))
    cells: Cells = {"Images": len(images)}
    scores: Scores = {}
    for metric in metrics:
        values = metric.defined(seen)
        cells |= metric.cells(seen, values)
        if values is not None and len(values) == len(images):
            scores[metric.key] = values
    return cells, scores


def _references(
    metrics: Sequence[Metric],
    images: Images,
    labels: Labels,
    mean_guess: Images,
    class_guess: Images | None,
    validator: SplitClassifier | None,
) -> Cells:
    """The part of a score that is the same for every attacker with the same own images: floors and ceilings."""

    def scored(guess: Images) -> Scored:
        return Scored(guess, images, labels, answers(validator, guess))

    nothing, perfect = scored(mean_guess), scored(images)
    classes = None if class_guess is None else scored(class_guess)
    cells: Cells = {}
    for metric in metrics:
        cells |= metric.references(nothing, perfect, classes)
    return cells


_KNOWN_REFERENCES: dict[tuple[str, ...], Cells] = {}
"""By data set, its folder, the attacker's mean image, the judge and the metrics: a hundred attackers share a few."""


_KNOWN_ACTIVATIONS: dict[tuple[str, ...], Activation] = {}
"""What the client last evaluated gives for the images that are scored: its attackers come one after another."""


def attacker_row(
    path: Path,
    models_dir: str | Path,
    data_dir: str | Path,
    validator_path: Path | None,
    limit: int | None = None,
) -> tuple[Cells, Scores]:
    """Score an attacker on the images set aside for it, through the wire as it is.

    Args:
        path: The attacker's checkpoint.
        models_dir: Where its target is.
        data_dir: Where data sets lie.
        validator_path: The judge's checkpoint; None where there can be none, and its columns stay empty.
        limit: Score only so many images, the first; by default as many as the attack is scored on.

    Returns:
        Its row, and what each image adds to the metrics in it.

    Raises:
        UsageError: If a checkpoint is damaged, the validator judges another data set, data cannot be reached, or a
            metric has a column of something else.
        Beaten: If it is better than anybody can be.
    """
    attacked = load_attacked(path, models_dir)
    dataset = attacked.target_spec.dataset
    validator, validator_stored = (
        load_judge(validator_path, dataset) if validator_path else (None, None)
    )
    data = DATASETS[dataset](data_dir)
    limit = limit or attacked.spec.method.scored
    pixels, labels = (part[:limit] for part in data.tensors("scoring"))
    images = pixels.float() / 255
    own = attacked.stored.record["mean_image"]
    judge_digest = validator_stored.digest if validator_stored else ""
    metrics = known()
    mean_digest, count = digest({"mean": own}), str(len(images))
    shared = (dataset, str(data_dir), mean_digest, judge_digest, count, marks(metrics))
    if shared not in _KNOWN_REFERENCES:
        guess = own.expand(len(images), -1, -1, -1)
        classes = _class_guess(attacked, data, labels)
        _KNOWN_REFERENCES[shared] = _references(metrics, images, labels, guess, classes, validator)
    wire, target = attacked.target, str(attacked.stored.arguments["target"])
    client = (target, wire.cut, dataset, str(data_dir), count)
    if client not in _KNOWN_ACTIVATIONS:
        _KNOWN_ACTIVATIONS.clear()
        _KNOWN_ACTIVATIONS[client] = wire.encode(images)
    bounds = bounds_of(wire, _KNOWN_ACTIVATIONS[client], images, attacked.spec.queries)
    guesses, classes = overheard(attacked, _KNOWN_ACTIVATIONS[client], bounds)
    cells, scores = _measured(metrics, guesses, images, labels, validator)
    cells |= _KNOWN_REFERENCES[shared]
    right = 100.0 * (classes == labels) if data.judged and classes is not None else None
    others = {
        # Of the classifier on the very tensors that were attacked: what its users got for this leakage.
        "TargetAcc": None if right is None else mean(right),
        **(bounds.cells() if bounds else dict.fromkeys(BOUNDS)),
        **_settings(attacked),
        "Validator": validator_stored.stem if validator_stored else None,
        "Digest": attacked.stored.digest,
        "ValidatorDigest": judge_digest,
        **attacked.marks,
        "Measures": marks(metrics),
    }
    named: Cells = {"Model": attacked.spec.model, "Attacker": attacked.stored.stem}
    if taken := sorted(cells.keys() & {**named, **others}.keys()):
        raise UsageError(
            f"a metric has the column {taken[0]}, which says something else; give it another"
        )
    return {**named, **in_order(cells), **others}, scores


def _class_guess(attacked: Attacked, data: ImageDataModule, labels: Labels) -> Images | None:
    """For each victim the mean of the own images of its class, where these are of the same classes."""
    spec = attacked.spec
    if spec.surrogate != attacked.target_spec.dataset:
        return None
    pixels, own = (part[: spec.own_images(len(part))] for part in data.tensors("surrogate"))
    return class_means(pixels, own, labels)


def _settings(attacked: Attacked) -> Cells:
    """How attacker and target were made, and what the mechanism guarantees."""
    spec, target_spec, record = attacked.spec, attacked.target_spec, attacked.stored.record
    epsilon, delta = attacked.target.guarantee(spec.queries)
    return {
        "Adaptive": not spec.naive,
        "Attack": spec.attack,
        "Cut": attacked.target.cut or None,
        **attack_columns(spec),
        "Surrogate": spec.surrogate,
        "SurrogateSource": record["surrogate_source"],
        "SurrogateImages": record["surrogate_images"],
        "DataPct": spec.data_pct,
        "Queries": spec.queries,
        **trained_columns(target_spec),
        **defence_columns(attacked.spec_now, attacked.target_stored.record),
        "Epsilon": epsilon,
        "EpsilonDelta": delta,
        "Dataset": target_spec.dataset,
        "Network": target_spec.network,
        "Seed": spec.seed,
        "Epoch": record["epoch"],
        "MaxEpochs": spec.max_epochs,
        "Precision": record["precision"],
        # On images of the attacker's own: what it could know of itself.
        "OwnMSE": record.get("best"),
        "OwnMSEFloor": record.get("own_floor"),
        "Doubling": record.get("doubling"),
    }
