"""Train one classifier or one attacker, unless it is there already."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger

from dpsnn import building, checkpoints
from dpsnn.batches import Share, to_unit
from dpsnn.checkpoints import ATTACKER, CLASSIFIER, Stored
from dpsnn.claims import claim
from dpsnn.classifier import SplitClassifier
from dpsnn.data import DATASETS, ImageDataModule
from dpsnn.defences import Defence
from dpsnn.devices import Devices, recorded
from dpsnn.errors import UsageError, choose
from dpsnn.evaluation.report import reconstruction_figure
from dpsnn.folders import Folders
from dpsnn.runner.beforehand import check_surrogate
from dpsnn.runner.beside import beside, check_there, refuse_coupled, refuse_unshared
from dpsnn.runner.progress import note
from dpsnn.runner.tracking import finish, make_loggers
from dpsnn.specs import AttackerSpec, ClassifierSpec, plain, replace
from dpsnn.target import Target
from dpsnn.training import Fitted, device, fit, seeded


def _record(fitted: Fitted, **more: Any) -> dict[str, Any]:
    return {
        "epoch": fitted.epoch,
        "best": fitted.value,
        "seconds": round(fitted.seconds, 1),
        "threads": torch.get_num_threads(),  # bits depend on them
        "precision": fitted.precision,
        "torch": str(torch.__version__),
        "lightning": str(pytorch_lightning.__version__),
        **more,
    }


class _Lesson:
    """A classifier that is to be trained, with its data and what changes its training; nothing is read or built yet."""

    def __init__(self, spec: ClassifierSpec, data_dir: str) -> None:
        self.spec = spec
        data_type = choose(DATASETS, spec.dataset, "dataset")
        self.data: ImageDataModule = data_type(data_dir, spec.batch_size, spec.seed)
        self.changing: list[tuple[Defence, Callback]] = []
        self.classifier: SplitClassifier

    def build(self) -> None:
        self.classifier = building.build_classifier(self.spec)
        self.data.fixed_order = self.spec.fixed_order
        self.changing = building.callbacks_of(self.spec, resumable=True)
        for part, callback in self.changing:
            part.prepare(callback, self.data)

    def learn(
        self, progress: Path, share: Share, loggers: Sequence[Logger] = (), title: str = ""
    ) -> Fitted:
        spec = self.spec
        return fit(
            self.classifier,
            self.data,
            monitor="val/accuracy",
            mode="max" if self.data.chooses_epoch else "last",
            max_epochs=spec.max_epochs,
            seed=spec.seed,
            precision=next(filter(None, (p.precision for p in spec.active)), spec.precision),
            progress_file=progress,
            loggers=loggers,
            callbacks=[callback for _, callback in self.changing],
            first_epoch=max([part.first_epoch(spec) for part in spec.active], default=0),
            title=title,
            share=share,
        )


def _learn_beside(spec: ClassifierSpec, data_dir: str, progress: Path, share: Share) -> None:
    """The share of another device in a training; the first one keeps what comes of it."""
    lesson = _Lesson(spec, data_dir)
    lesson.build()
    lesson.learn(progress, share)


def train_classifier(
    spec: ClassifierSpec, folders: Folders, group: str = "", devices: Devices = Devices()
) -> Path:
    """Train a classifier, or return the checkpoint that these very arguments gave before, on however many devices.

    Raises:
        UsageError: If an argument is out of range, data cannot be reached, a folder cannot be written, the name is
            taken by a classifier with other arguments, or the devices are not there or cannot share this training.
        WorkFailed: If one of several devices failed; the training goes on after its last epoch when called again.
    """
    devices.check(spec)
    check_there(devices.devices)
    name = checkpoints.classifier_name(spec)
    lesson = _Lesson(spec, folders.data_dir)
    wanted = folders.classifiers, name, CLASSIFIER, plain(spec)
    with claim(*wanted, lesson.data.setup, [Path(folders.results_dir)]) as mine:
        if mine.done:
            return mine.done
        lesson.build()
        if devices.devices > 1:
            refuse_unshared(lesson.classifier)
            refuse_coupled(lesson.classifier)
        loggers = make_loggers(
            Path(folders.results_dir),
            name,
            wandb=folders.wandb,
            group=group,
            tags=["classifier", spec.dataset, *(part.key for part in spec.active)],
            config=plain(spec),
        )
        others = _learn_beside, spec, folders.data_dir, mine.progress
        with beside(devices.devices, *others) as share:
            fitted = lesson.learn(mine.progress, share, loggers, f"training classifier {name}")
            record = _record(fitted, data_source=lesson.data.source, **recorded(fitted.devices))
        for part, callback in lesson.changing:
            record |= part.record(callback)
        path = mine.save(record, lesson.classifier.state_dict(), fitted.epoch)
    finish(loggers, {"checkpoint": path.name, "best_val_accuracy": fitted.value}, {})
    return path


def _surrogate(
    spec: AttackerSpec, dataset: str, data_dir: str
) -> tuple[torch.Tensor, ImageDataModule]:
    """The attacker's images, in a seeded order, and where they are from."""
    data = choose(DATASETS, spec.surrogate, "surrogate")(data_dir)
    own = DATASETS[dataset]
    check_surrogate(data, spec.surrogate, own(data_dir), dataset)
    pixels = data.tensors("surrogate")[0] if spec.surrogate == dataset else data.foreign_surrogate()
    return pixels[: spec.own_images(len(pixels))], data


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
        building.recut(classifier, spec.cut)
        spec = replace(spec, cut="" if spec.cut == own else spec.cut)
    return replace(
        spec,
        model=path.name.removesuffix(".ckpt"),
        surrogate=spec.surrogate or str(target["dataset"]),
        changes=tuple((name, value) for name, value in spec.changes if target.get(name) != value),
    )


def _twin(
    spec: AttackerSpec, was_clean: bool, is_clean: bool, target: Stored, folders: Folders
) -> Path | None:
    """A finished attacker that one which never asks for the mechanism would equal bit for bit.

    To its training it does not matter what the mechanism does, or over how many transmissions it could be averaged; and
    where the mechanism does nothing the adaptive attacker is the same.

    Args:
        spec: The attacker that is to be.
        was_clean: Whether the mechanism did nothing when the target was trained.
        is_clean: Whether it does nothing at the attack.
        target: What is attacked.
        folders: Where attackers are.
    """
    unset = replace(spec, changes=(), queries=1)
    twins = [unset]
    aware = spec.method.aware().flattened()
    if was_clean:
        twins.append(replace(unset, **aware))
    if is_clean:
        twins.append(replace(unset, **aware, changes=spec.changes))
    for twin in twins:
        arguments = checkpoints.attacker_arguments(twin, target)
        name = checkpoints.attacker_name(twin)
        # Refused where its name is taken by an attacker with other arguments.
        with contextlib.suppress(UsageError):
            if path := checkpoints.already(folders.attackers, name, ATTACKER, arguments):
                return path
    return None


class _Lessons:
    """How an attack is trained here: logged, and with its progress kept, a file for each of its trainings.

    Whoever goes on does all again that comes between them, takes what was finished as it was left, and hence comes to
    the same trainings in the same order. Rows of what is only tried, such as twice the epochs, follow in the same log.
    """

    def __init__(
        self,
        spec: AttackerSpec,
        target: ClassifierSpec,
        folders: Folders,
        name: str,
        group: str,
        progress: Path,
    ) -> None:
        self.spec, self.target, self.folders = spec, target, folders
        self.name, self.group, self.progress = name, group, progress
        self.loggers: list[Logger] = []
        self.trials = 0

    def __call__(
        self, module: LightningModule, *, monitor: str, mode: str, max_epochs: int, trial: str = ""
    ) -> Fitted:
        spec, target = self.spec, self.target
        progress = self.progress
        if trial:
            progress = checkpoints.trial_progress(progress, self.trials)
            self.trials += 1
        else:
            self.loggers = make_loggers(
                Path(self.folders.results_dir),
                self.name,
                wandb=self.folders.wandb,
                group=self.group,
                tags=[
                    "attacker",
                    spec.attack,
                    "naive" if spec.naive else "adaptive",
                    target.dataset,
                ],
                config={**plain(spec), "target": plain(target)},
            )
        return fit(
            module,
            monitor=monitor,
            mode=mode,
            max_epochs=max_epochs,
            seed=spec.seed,
            precision=spec.precision,
            progress_file=progress,
            loggers=self.loggers,
            title=trial or f"training attacker {self.name}",
        )


def train_attacker(spec: AttackerSpec, folders: Folders, group: str = "") -> Path:
    """Prepare an attacker of a classifier, or return the checkpoint that these very arguments gave before.

    Raises:
        UsageError: As `train_classifier`, and if the classifier is unknown, ambiguous, or was replaced since.
    """
    spec = complete(spec, folders)
    target_path = checkpoints.find(folders.classifiers, spec.model, CLASSIFIER)
    classifier, target_spec, target_stored = checkpoints.load_classifier(target_path)
    if target_spec.validator:
        raise UsageError(
            f"{spec.model} is a validator: it judges reconstructions and is not attacked"
        )
    building.recut(classifier, spec.cut)
    was_clean = Target.of(classifier).sends_as_is
    building.set_afterwards(classifier, **dict(spec.changes))
    target = Target.of(classifier, spec.model)
    surrogate, data = _surrogate(spec, target_spec.dataset, folders.data_dir)
    name = checkpoints.attacker_name(spec)
    arguments = checkpoints.attacker_arguments(spec, target_stored)
    wanted = folders.attackers, name, ATTACKER, arguments
    with claim(*wanted, also=[Path(folders.results_dir)]) as mine:
        if mine.done:
            return mine.done
        attack = building.build_attack(spec, target, surrogate)
        if spec.method.unaware:
            clean = was_clean, target.sends_as_is
            if twin := _twin(spec, *clean, target_stored, folders):
                stored = checkpoints.read(twin, ATTACKER)
                return mine.save(stored.record, stored.weights)
        learn = _Lessons(spec, target_spec, folders, name, group, mine.progress)
        note(f"preparing attacker {name}")
        with seeded(spec.seed, 13):
            fitted = attack.to(device()).prepare(learn)
        record = _record(
            fitted,
            surrogate_source=data.source,
            surrogate_images=len(surrogate),
            **attack.chosen(),
            mean_image=to_unit(surrogate).mean(0),
            own_floor=to_unit(surrogate).var(0, correction=0).mean().item(),
        )
        path = mine.save(record, attack.cpu().state_dict())
    pictures = {}
    if folders.wandb and learn.loggers:
        own = to_unit(surrogate[-10:])
        with torch.no_grad(), seeded(spec.seed, 12):
            heard = target.transmit(target.encode(own))
            guesses = attack.to(device()).infer(heard).cpu()
        pictures["reconstructions"] = reconstruction_figure(own, [("attacker", guesses)])
    finish(learn.loggers, {"checkpoint": path.name, "best_val_mse": fitted.value}, pictures)
    return path
