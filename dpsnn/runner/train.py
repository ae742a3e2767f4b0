"""Train one classifier or one attacker, unless it is there already."""

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch
from filelock import FileLock

from dpsnn import checkpoints, signals
from dpsnn.atomic import clear_stale
from dpsnn.attacks import Knowledge
from dpsnn.batches import to_unit
from dpsnn.checkpoints import ATTACKER, CLASSIFIER, Stored
from dpsnn.classifier import SplitClassifier
from dpsnn.data import DATASETS, ImageDataModule
from dpsnn.errors import Diverged, UsageError, choose
from dpsnn.evaluation.measure import device
from dpsnn.evaluation.report import reconstruction_figure
from dpsnn.folders import Folders
from dpsnn.runner.beforehand import check_surrogate
from dpsnn.runner.progress import note
from dpsnn.runner.tracking import finish, make_loggers
from dpsnn.specs import AttackerSpec, ClassifierSpec, plain, replace
from dpsnn.tensors import Activation, Images
from dpsnn.training import Fitted, fit, seeded

TRIAL_RATES = {
    "conv": (1e-3, 3e-3, 1e-2),
    "linear": (3e-4, 1e-3, 3e-3),
    "deconv": (3e-4, 1e-3, 3e-3),
}
"""Step sizes that an attacker tries. Deep linear decoders have no normalisation and leave the rails at 1e-2."""


@contextlib.contextmanager
def _alone(folder: Path, name: str, arguments: dict[str, Any]) -> Iterator[Path]:
    """The file for the progress of a training, while no other process trains one of this name."""
    progress = checkpoints.progress_path(folder, name, arguments)
    checkpoints.ensure_writable(progress.parent)
    with FileLock(progress.with_name(f"{name}.lock")):
        # What processes killed in the middle of writing left behind.
        clear_stale(progress.parent)
        yield progress


def finished(folder: Path, name: str, kind: str, arguments: dict[str, Any]) -> Path | None:
    """The finished checkpoint of these arguments, if there is one; progress that a killed process left beside it goes.

    Raises:
        UsageError: If the name is taken by other arguments.
    """
    done = checkpoints.already(folder, name, kind, arguments)
    if done:
        checkpoints.progress_path(folder, name, arguments).unlink(missing_ok=True)
    return done


def _record(fitted: Fitted, **more: Any) -> dict[str, Any]:
    return {
        "epoch": fitted.epoch,
        "best": fitted.value,
        "seconds": round(fitted.seconds, 1),
        "precision": fitted.precision,
        "torch": str(torch.__version__),
        "lightning": str(pytorch_lightning.__version__),
        **more,
    }


def train_classifier(spec: ClassifierSpec, folders: Folders, group: str = "") -> Path:
    """Train a classifier, or return the checkpoint that these very arguments gave before.

    Raises:
        UsageError: If an argument is out of range, data cannot be reached, a folder cannot be written, or the name is
            taken by a classifier with other arguments.
    """
    name = checkpoints.classifier_name(spec)
    data_type = choose(DATASETS, spec.dataset, "dataset")
    if done := finished(folders.classifiers, name, CLASSIFIER, plain(spec)):
        return done
    data = data_type(folders.data_dir, spec.batch_size, spec.seed)
    data.setup()
    checkpoints.ensure_writable(folders.classifiers, Path(folders.results_dir))
    with _alone(folders.classifiers, name, plain(spec)) as progress:
        # Another process may have trained it while this one waited.
        if done := finished(folders.classifiers, name, CLASSIFIER, plain(spec)):
            return done
        classifier = checkpoints.build_classifier(spec)
        data.fixed_order = spec.fixed_order
        changing = checkpoints.callbacks_of(spec, resumable=True)
        for part, callback in changing:
            part.prepare(callback, data)
        loggers = make_loggers(
            Path(folders.results_dir),
            name,
            wandb=folders.wandb,
            group=group,
            tags=["classifier", spec.dataset, *(part.key for part in spec.active)],
            config=plain(spec),
        )
        fitted = fit(
            classifier,
            data,
            monitor="val/accuracy",
            mode="max" if data.chooses_epoch else "last",
            max_epochs=spec.max_epochs,
            seed=spec.seed,
            precision=next(filter(None, (p.precision for p in spec.active)), spec.precision),
            progress_file=progress,
            loggers=loggers,
            callbacks=[callback for _, callback in changing],
            first_epoch=max([part.first_epoch(spec) for part in spec.active], default=0),
            title=f"training classifier {name}",
        )
        path = folders.classifiers / f"{name}_epoch={fitted.epoch:02d}.ckpt"
        record = _record(fitted, data_source=data.source)
        for part, callback in changing:
            record |= part.record(callback)
        with signals.held():
            checkpoints.save(path, CLASSIFIER, plain(spec), record, classifier.state_dict())
            progress.unlink(missing_ok=True)
    finish(loggers, {"checkpoint": path.name, "best_val_accuracy": fitted.value}, {})
    return path


def knowledge_of(target: SplitClassifier, surrogate: torch.Tensor) -> Knowledge:
    """What an attacker with query access may use: the frozen client, its mechanism, and images of its own."""
    # Images last in memory: convolutions of float32 are about twice as fast.
    target.eval().requires_grad_(False).to(device(), memory_format=torch.channels_last)

    def client(images: Images) -> Activation:
        return target.encode(images.to(device()))

    return Knowledge(client, target.defences, surrogate)


def _surrogate(
    spec: AttackerSpec, dataset: str, data_dir: str
) -> tuple[torch.Tensor, ImageDataModule]:
    """The attacker's images, in a seeded order, and where they are from."""
    data = choose(DATASETS, spec.surrogate, "surrogate")(data_dir)
    own = DATASETS[dataset]
    check_surrogate(data, spec.surrogate, own(data_dir), dataset)
    pixels = data.tensors("surrogate")[0] if spec.surrogate == dataset else data.foreign_surrogate()
    return pixels[: max(2, round(len(pixels) * spec.data_pct / 100))], data


def complete(spec: AttackerSpec, folders: Folders) -> AttackerSpec:
    """The spec with the classifier's full name and the surrogate filled in; noise and cut that change nothing left out.

    Raises:
        UsageError: If the classifier is unknown or ambiguous, or cannot be attacked at the cut.
    """
    if not spec.model:
        raise UsageError("no model named; give --model NAME, a classifier's file name")
    path = checkpoints.find(folders.classifiers, spec.model, CLASSIFIER)
    target = checkpoints.read(path, CLASSIFIER).arguments
    if spec.cut:
        classifier, _, _ = checkpoints.load_classifier(path)
        own = classifier.network.cut
        checkpoints.recut(classifier, spec.cut)
        spec = replace(spec, cut="" if spec.cut == own else spec.cut)
    return replace(
        spec,
        model=path.name.removesuffix(".ckpt"),
        surrogate=spec.surrogate or str(target["dataset"]),
        changes=tuple((name, value) for name, value in spec.changes if target.get(name) != value),
    )


def tuned_learning_rate(spec: AttackerSpec, target: SplitClassifier, knowledge: Knowledge) -> float:
    """The one of its decoder's TRIAL_RATES that serves best, on own validation images, in a short training.

    Raises:
        Diverged: If training leaves the finite numbers with each of them.
    """
    results = {}
    tried = TRIAL_RATES.get(spec.decoder, TRIAL_RATES["conv"])
    for rate in tried:
        trial = replace(spec, learning_rate=rate, max_epochs=max(1, spec.max_epochs // 20))
        with contextlib.suppress(Diverged):
            fitted = fit(
                checkpoints.build_attack(trial, target, knowledge),
                monitor="val/mse",
                mode="min",
                max_epochs=trial.max_epochs,
                seed=spec.seed,
                precision=spec.precision,
                title=f"  trying learning rate {rate:g}",
            )
            results[rate] = fitted.value
    if not results:
        raise Diverged(
            f"training the attacker diverged with each of the step sizes {tried}; name a lower one"
            " with --learning_rate"
        )
    return min(results, key=lambda rate: results[rate])


def _twin(
    spec: AttackerSpec, target_spec: ClassifierSpec, target: Stored, folders: Folders
) -> Path | None:
    """A finished attacker that this naive one would equal bit for bit.

    A naive attacker never sees noise. To its training it does not matter how much there is or over how many
    transmissions it could be averaged; and without noise the adaptive attacker is the same.
    """
    if not spec.naive or spec.attack != "decoder":
        return None
    unset = replace(spec, changes=(), queries=1)
    twins = [unset]
    if not any(part.noisy for part in target_spec.active):
        twins.append(replace(unset, naive=False))
    now = replace(target_spec, **dict(spec.changes))
    if spec.changes and not any(part.noisy for part in now.active):
        twins.append(replace(unset, naive=False, changes=spec.changes))
    for twin in twins:
        arguments = checkpoints.attacker_arguments(twin, target)
        name = checkpoints.attacker_name(twin)
        # Refused where its name is taken by an attacker with other arguments.
        with contextlib.suppress(UsageError):
            if path := checkpoints.already(folders.attackers, name, ATTACKER, arguments):
                return path
    return None


def _prepare_inversion(
    spec: AttackerSpec,
    target: SplitClassifier,
    surrogate: torch.Tensor,
    source: str,
    path: Path,
    arguments: dict[str, Any],
) -> Path:
    """Choose on own images what an inversion leaves open, and keep that: it has nothing else to learn."""
    start = time.monotonic()
    note(f"preparing attacker {path.stem}")
    target.to(device(), memory_format=torch.channels_last)
    attack = checkpoints.build_inversion(spec, target, surrogate).to(device())
    with seeded(spec.seed, 13):
        attack.fit()
    fitted = Fitted(0, math.nan, time.monotonic() - start, "32-true")
    record = _record(
        fitted,
        surrogate_source=source,
        surrogate_images=len(surrogate),
        mean_image=to_unit(surrogate).mean(0),
    )
    checkpoints.save(path, ATTACKER, arguments, record, attack.cpu().state_dict())
    return path


def train_attacker(spec: AttackerSpec, folders: Folders, group: str = "") -> Path:
    """Train an attacker of a classifier, or return the checkpoint that these very arguments gave before.

    Raises:
        UsageError: As `train_classifier`, and if the classifier is unknown, ambiguous, or was replaced since.
    """
    spec = complete(spec, folders)
    target_path = checkpoints.find(folders.classifiers, spec.model, CLASSIFIER)
    target, target_spec, target_stored = checkpoints.load_classifier(target_path)
    if target_spec.validator:
        raise UsageError(
            f"{spec.model} is a validator: it judges reconstructions and is not attacked"
        )
    checkpoints.recut(target, spec.cut)
    checkpoints.set_afterwards(target, **dict(spec.changes))
    surrogate, data = _surrogate(spec, target_spec.dataset, folders.data_dir)
    name = checkpoints.attacker_name(spec)
    arguments = checkpoints.attacker_arguments(spec, target_stored)
    if done := finished(folders.attackers, name, ATTACKER, arguments):
        return done
    checkpoints.ensure_writable(folders.attackers, Path(folders.results_dir))
    with _alone(folders.attackers, name, arguments) as progress:
        if done := finished(folders.attackers, name, ATTACKER, arguments):
            return done
        path = folders.attackers / f"{name}.ckpt"
        if twin := _twin(spec, target_spec, target_stored, folders):
            stored = checkpoints.read(twin, ATTACKER)
            checkpoints.save(path, ATTACKER, arguments, stored.record, stored.weights)
            return path
        if spec.attack != "decoder":
            return _prepare_inversion(spec, target, surrogate, data.source, path, arguments)
        knowledge = knowledge_of(target, surrogate)
        rate = spec.learning_rate or tuned_learning_rate(spec, target, knowledge)
        attack = checkpoints.build_attack(replace(spec, learning_rate=rate), target, knowledge)
        loggers = make_loggers(
            Path(folders.results_dir),
            name,
            wandb=folders.wandb,
            group=group,
            tags=[
                "attacker",
                spec.decoder,
                "naive" if spec.naive else "adaptive",
                target_spec.dataset,
            ],
            config={**plain(spec), "target": plain(target_spec)},
        )
        fitted = fit(
            attack,
            monitor="val/mse",
            mode="min",
            max_epochs=spec.max_epochs,
            seed=spec.seed,
            precision=spec.precision,
            progress_file=progress,
            loggers=loggers,
            title=f"training attacker {name}",
        )
        record = _record(
            fitted,
            surrogate_source=data.source,
            surrogate_images=len(surrogate),
            learning_rate=rate,
            mean_image=to_unit(surrogate).mean(0),
        )
        with signals.held():
            checkpoints.save(path, ATTACKER, arguments, record, attack.state_dict())
            progress.unlink(missing_ok=True)
    pictures = {}
    if folders.wandb:
        with torch.no_grad(), seeded(spec.seed, 12):
            own = to_unit(surrogate[-10:])
            guesses = attack.reconstruct(target.to("cpu").transmit(own))
        pictures["reconstructions"] = reconstruction_figure(own, [("attacker", guesses)])
    finish(loggers, {"checkpoint": path.name, "best_val_mse": fitted.value}, pictures)
    return path
