"""One row per classifier, way of attack and judge: how near the faces that MI-FACE rebuilds come to the person."""

import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from scipy.stats import norm
from torch import Tensor

from dpsnn import target as targets
from dpsnn.attacks import WhiteBox
from dpsnn.attacks.mi_face import Inversion, MIFace
from dpsnn.batches import poisson_lots, to_unit
from dpsnn.checkpoints import Stored, load_classifier
from dpsnn.classifier import SplitClassifier
from dpsnn.data import DATASETS, ImageDataModule
from dpsnn.evaluation.measure import device, mean, require_finite
from dpsnn.evaluation.summary import LEVEL, interval
from dpsnn.metrics import correct, mse, shuffled, ssim
from dpsnn.metrics.privacy import Unaccounted, dp_sgd_epsilon
from dpsnn.networks.faces import unstrided
from dpsnn.specs import ACCOUNTANTS, ClassifierSpec
from dpsnn.tensors import Images, Labels, Number
from dpsnn.training import seeded

SPREAD = 0.2
"""Standard deviation of the pixels of an ordinary photograph, where black is 0 and white 1."""

TOP = 5

Scores = Mapping[str, Float[Tensor, " n"]]
"""Column → its value for each person."""


def contrasted(images: Images, spread: Number = SPREAD) -> Images:
    """Pictures brought to mid-grey on average and to the contrast of a photograph; those of one grey stay that grey.

    MI-FACE ends as soon as the classifier is sure, which it is of hardly visible pictures. Published ones are shown
    with their contrast stretched, so an attacker who wants to know the person will do so too.
    """
    flat = images.flatten(1)
    deviation = flat.std(1).clamp(min=1e-5).view(-1, 1, 1, 1)
    centre = flat.mean(1).view(-1, 1, 1, 1)
    return ((images - centre) / deviation * spread + 0.5).clamp(0, 1)


def likeness(
    guesses: Images,
    people: Labels,
    images: Float[Tensor, "m c h w"],
    labels: Int[Tensor, " m"],
) -> Scores:
    """SSIM and MSE of each guess to the mean of that person's pictures, and to the one that is nearest by MSE."""
    means, nearest = [], []
    for guess, person in zip(guesses, people):
        own = images[labels == person]
        means.append(own.mean(0))
        nearest.append(own[mse(guess.expand_as(own), own).argmin()])
    scores: dict[str, Tensor] = {}
    for name, truth in (("Mean", torch.stack(means)), ("Nearest", torch.stack(nearest))):
        scores[f"SSIM{name}"] = ssim(guesses, truth)
        scores[f"MSE{name}"] = mse(guesses, truth)
    return scores


@torch.inference_mode()
def identified(judge: SplitClassifier, guesses: Images, people: Labels) -> Scores:
    """What a judge makes of the guesses: Confidence (in percent) and Rank (1 is first) of the right person, Top1, Top5.

    Of equal scores the right person's counts as the lowest, so that a judge who cannot tell names nobody.

    Raises:
        UsageError: If the judge gives values that are not finite.
    """
    logits = torch.cat([judge(block.to(device())).cpu() for block in guesses.split(100)])
    # A comparison with NaN is false, and a rank of 0 would be among the first five.
    require_finite(logits, "what the judge answers")
    own = logits.gather(1, people.unsqueeze(1))
    rank = (logits >= own).sum(1).float()
    return {
        "Confidence": 100 * logits.softmax(1).gather(1, people.unsqueeze(1)).squeeze(1),
        "Rank": rank,
        "Top1": 100.0 * (rank == 1),
        f"Top{TOP}": 100.0 * (rank <= TOP),
    }


def wilson(share: Number, count: int) -> tuple[float, float]:
    """95 % interval of a share in percent of `count` independent cases (Wilson 1927); it stays within 0 and 100."""
    if math.isnan(share):
        return math.nan, math.nan  # max and min below would make 0 and 100 of it
    z = float(norm.ppf(0.5 + LEVEL / 2))
    p, weight = share / 100, z**2 / count
    centre = (p + weight / 2) / (1 + weight)
    half = math.sqrt(p * (1 - p) * weight + weight**2 / 4) / (1 + weight)
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


class Judged(NamedTuple):
    """A judge, and what it is trained on."""

    classifier: SplitClassifier
    spec: ClassifierSpec
    stored: Stored


def load_judged(path: Path) -> Judged:
    """A judge from its checkpoint."""
    judged = Judged(*load_classifier(path))
    judged.classifier.to(device())
    return judged


class Target(NamedTuple):
    """A classifier under attack with the pictures that it was trained on."""

    classifier: SplitClassifier
    spec: ClassifierSpec
    stored: Stored
    data: ImageDataModule
    images: Images
    labels: Labels

    @property
    def people(self) -> Labels:
        """Classes to rebuild: all that there are pictures of."""
        return self.labels.unique()


@lru_cache
def _read(name: str, data_dir: str) -> ImageDataModule:
    """A data set, read once for all targets and judges."""
    return DATASETS[name](data_dir)


def load_target(path: Path, data_dir: str | Path) -> Target:
    """A classifier from its checkpoint, and its training pictures in [0, 1].

    Raises:
        UsageError: If the checkpoint is damaged or the data cannot be reached.
    """
    classifier, spec, stored = load_classifier(path)
    data = _read(spec.dataset, str(data_dir))
    pixels, labels = data.tensors("train")
    return Target(classifier, spec, stored, data, to_unit(pixels), labels)


def invert(target: Target, attack: MIFace, people: Labels | None = None) -> Inversion:
    """Rebuild these people, by default all; pictures come in [0, 1], as the attack left them."""
    people = target.people if people is None else people
    # Sides of these pictures are even; of others the copy would not do.
    even = not any(side % 2 for side in target.data.image_shape[1:])
    classifier = unstrided(target.classifier) if even else target.classifier
    none = torch.zeros(0, *target.data.image_shape, dtype=torch.uint8)
    known = targets.Target.of(classifier).knowledge(none, attack.needs)
    assert isinstance(known, WhiteBox)
    with seeded(target.spec.seed, 13):  # noise on the wire, where there is any
        found = attack.rebuild(known, people.to(device()))
    return Inversion(*(part.cpu() for part in found))


def mean_faces(target: Target) -> Images:
    """The floor of who knows faces but nobody in particular: the mean of all training pictures, for each person."""
    return target.images.mean(0).expand(len(target.people), -1, -1, -1)


def random_faces(target: Target, draw: int) -> Images:
    """The floor of a real face: for each person a training picture of another one, drawn at random."""
    generator = torch.Generator().manual_seed(draw)
    chosen = []
    for person in target.people:
        own = target.images[target.labels == person]
        chosen.append(own[int(torch.randint(len(own), (), generator=generator))])
    return shuffled(torch.stack(chosen), draw)


DRAWS = 5
"""Random faces for each person, so that the floor is not one draw's."""


_KNOWN_REFERENCES: dict[tuple[object, ...], dict[str, object]] = {}
"""By data set, its folder and the judge: many targets share a few."""


def references(target: Target, judged: Judged) -> dict[str, object]:
    """What is the same for all targets with these training pictures: floors, ceilings, and how good the judge is."""
    folder = str(target.data.data_dir)
    key = (type(target.data), folder, judged.stored.digest)
    if key not in _KNOWN_REFERENCES:
        others = _read(judged.spec.dataset, folder)
        _KNOWN_REFERENCES[key] = {
            **floors(target, judged.classifier),
            "JudgeDataset": judged.spec.dataset,
            # Of the judge on the very pictures that the target learnt from.
            "JudgeAcc": mean(_right(judged.classifier, target.images, target.labels)),
            "JudgeSharesImages": shares_images(target.data, others),
        }
    return _KNOWN_REFERENCES[key]


def floors(target: Target, judge: SplitClassifier) -> dict[str, float]:
    """Every score's mean for the mean face, for random faces, and, as a ceiling, for a true picture of the person."""
    true = torch.stack([target.images[target.labels == p][0] for p in target.people])
    kinds = {
        "MeanFace": [mean_faces(target)],
        "RandomFace": [random_faces(target, draw) for draw in range(DRAWS)],
        "TrueFace": [true],
    }
    found: dict[str, float] = {}
    for kind, draws in kinds.items():
        scores = [_scores(target, guesses, judge) for guesses in draws]
        for name in scores[0]:
            found[f"{name}{kind}"] = mean(torch.cat([s[name] for s in scores]))
    return found


def _scores(target: Target, guesses: Images, judge: SplitClassifier) -> Scores:
    return {
        **likeness(guesses, target.people, target.images, target.labels),
        **identified(judge, guesses, target.people),
    }


@lru_cache
def accounted(
    noise_multiplier: float, rate: float, steps: int, delta: float
) -> dict[str, float | None]:
    """ε of a training by every accountant; None where one has no value that holds."""
    found: dict[str, float | None] = {}
    for name in (*ACCOUNTANTS, "classic"):
        try:
            epsilon = dp_sgd_epsilon([(noise_multiplier, rate, steps)], delta, name)
        except Unaccounted:
            found[f"DPEpsilon_{name}"] = None
        else:
            found[f"DPEpsilon_{name}"] = epsilon
    return found


def inversion_row(
    target: Target, found: Inversion, name: str, attack: MIFace, judged: Judged
) -> tuple[dict[str, object], list[dict[str, object]]]:
    """Score what an attack rebuilt of all people.

    Args:
        target: The classifier.
        found: Of `invert`.
        name: What the way of attack is called.
        attack: Its settings.
        judged: Who says which person it is.

    Returns:
        Column → value, and the same for each person. Shares and confidences are in percent; `CI` is half of a 95 %
        interval over people, `Low` and `High` its ends. SSIM and MSE are of pictures with a photograph's contrast, with
        `Raw` as the attack left them; to judges contrast makes no difference.
    """
    people, record = target.people, target.stored.record
    scores = _scores(target, contrasted(found.images), judged.classifier)
    raw = likeness(found.images, people, target.images, target.labels)
    key = {"Model": target.stored.stem, "Attack": name, "Judge": judged.stored.stem}
    row: dict[str, object] = {**key, "People": len(people)}
    for column, values in scores.items():
        row[column] = mean(values)
        if column.startswith("Top"):
            row[f"{column}Low"], row[f"{column}High"] = wilson(mean(values), len(people))
        else:
            row[f"{column}CI"] = interval(values.tolist())
    row |= {f"{column}Raw": mean(values) for column, values in raw.items()}
    row |= references(target, judged)
    epsilons: Mapping[str, float | None] = {}
    if target.spec.private:
        rate, _ = poisson_lots(len(target.labels), target.spec.batch_size)
        epsilons = accounted(
            record["dp_noise_multiplier"], rate, record["dp_steps"], target.spec.dp_delta
        )
    steps = found.iterations
    row |= {
        "TargetConfidence": 100 * mean(found.confidence),
        "Sure": 100 * mean((found.confidence >= attack.confidence).float()),
        "Iterations": mean(steps.float()),
        "IterationsMin": int(steps.min()),
        "IterationsMedian": int(steps.median()),
        "IterationsMax": int(steps.max()),
        "StepSize": attack.step_size,
        "MaxIterations": attack.iterations,
        "Smoothing": attack.smoothing,
        "TVWeight": attack.tv_weight,
        "DPNoiseMultiplier": record.get("dp_noise_multiplier"),
        "DPTargetEpsilon": target.spec.dp_target_epsilon or None,
        "DPEpsilon": record.get("dp_epsilon"),
        "DPRepeatable": target.spec.repeatable_noise or None,
        **epsilons,
        "DPDelta": target.spec.dp_delta if target.spec.private else None,
        "Dataset": target.spec.dataset,
        "DataSource": target.data.source,
        "Network": target.spec.network,
        "Seed": target.spec.seed,
        "MaxEpochs": target.spec.max_epochs,
        "BatchSize": target.spec.batch_size,
        "LearningRate": target.spec.learning_rate,
        "SGDMomentum": target.spec.sgd_momentum,
        "Digest": target.stored.digest,
        "JudgeDigest": judged.stored.digest,
    }
    by_person = [
        {
            **key,
            "Person": int(person),
            "Iterations": int(steps[i]),
            "TargetConfidence": 100 * float(found.confidence[i]),
            **{column: float(values[i]) for column, values in scores.items()},
            "Dataset": target.spec.dataset,
            "Seed": target.spec.seed,
        }
        for i, person in enumerate(people)
    ]
    return row, by_person


@torch.inference_mode()
def _right(judge: SplitClassifier, images: Images, labels: Labels) -> Tensor:
    logits = torch.cat([judge(block.to(device())).cpu() for block in images.split(100)])
    require_finite(logits, "what the judge answers")
    return 100.0 * correct(logits, labels)


def shares_images(data: ImageDataModule, others: ImageDataModule) -> bool:
    """Whether a picture of one's training is among those of the other's."""
    first, second = (
        {pixels.numpy().tobytes() for pixels in each.tensors("train")[0]} for each in (data, others)
    )
    return bool(first & second)
