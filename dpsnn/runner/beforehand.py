"""What would fail late is said before anything is trained."""

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from dpsnn import building, checkpoints
from dpsnn.data import DATASETS, ImageDataModule
from dpsnn.errors import UsageError, choose
from dpsnn.evaluation import tables
from dpsnn.folders import Folders
from dpsnn.runner.experiment import Experiment
from dpsnn.specs import AttackerSpec, ClassifierSpec, replace
from dpsnn.target import Target

Table = tuple[Path, Sequence[str]]
"""A table and the columns that make its key."""


def check(
    experiments: Iterable[Experiment],
    judge: ClassifierSpec,
    folders: Folders,
    own: Sequence[Table] = (),
) -> None:
    """Reach the data, build the networks, read the tables and try the folders of a group.

    Args:
        experiments: What is to be trained and attacked.
        judge: The validator that scores the attackers.
        folders: Where to read and write.
        own: Tables of the group beside those of all.

    Raises:
        UsageError: For the first thing that could not work.
    """
    check_places(folders, own)
    experiments = list(experiments)
    data: dict[str, ImageDataModule] = {}

    def reach(name: str, kind: str = "dataset") -> ImageDataModule:
        if name not in data:
            data[name] = choose(DATASETS, name, kind)(folders.data_dir)
            data[name].setup()
        return data[name]

    # A judge is needed where an attack is scored by one.
    judged = [judge] if reach(judge.dataset).judged else []
    for spec in (*judged, *(e.classifier for e in experiments)):
        for role in ("train", "validation", "test"):
            reach(spec.dataset).rows(role)
    for experiment in experiments:
        own_set = reach(experiment.classifier.dataset)
        for attacker in experiment.attackers:
            name = attacker.surrogate or experiment.classifier.dataset
            if own_set is reach(name, "surrogate"):
                own_set.rows("surrogate")
            check_surrogate(reach(name), name, own_set, experiment.classifier.dataset)
            own_set.rows("scoring")
    _build([*judged], [])
    for experiment in experiments:
        _build([experiment.classifier], experiment.attackers)


def _build(classifiers: Sequence[ClassifierSpec], attackers: Sequence[AttackerSpec]) -> None:
    """Whether the networks fit the images and one another."""
    for spec in classifiers:
        target = building.build_classifier(replace(spec, seed=0))
        own = target.network
        alike = [
            replace(a, model="", surrogate="", changes=(), data_pct=100, queries=1, seed=0)
            for a in attackers
        ]
        for attacker in dict.fromkeys(alike):
            target.network = own
            building.recut(target, attacker.cut)
            building.build_attack(attacker, Target.of(target))


def check_surrogate(
    surrogate: ImageDataModule, name: str, target: ImageDataModule, target_name: str
) -> None:
    """Raise UsageError unless an attacker's images are of the shape of those that it is to rebuild."""
    if surrogate.image_shape != target.image_shape:
        raise UsageError(
            f"surrogate {name} has images of shape {surrogate.image_shape}, but {target_name} has"
            f" {target.image_shape}; choose a surrogate of the same shape"
        )


def check_places(folders: Folders, own: Sequence[Table] = ()) -> None:
    """Whether checkpoints, progress, logs and tables can be written, and the tables that are there be read.

    Raises:
        UsageError: If not; the line names the folder or file.
    """
    results = Path(folders.results_dir)
    measures = tables.models_table(results)
    places = [folders.classifiers, folders.attackers]
    progress = [place / checkpoints.PROGRESS for place in places]
    checkpoints.check_writable(
        *places, *progress, results, measures.parent, results / "logs", *(p.parent for p, _ in own)
    )
    for path, key in (
        (measures, tables.CLASSIFIER_KEY),
        (tables.attackers_table(results), tables.ATTACKER_KEY),
        *own,
    ):
        check_file(path)
        check_file(path.with_name(f".{path.name}.lock"))
        tables.read(path, key)


def check_file(path: Path) -> None:
    """Raise UsageError where a file cannot be written, as a folder is in its place or it was made read-only."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder; move it away: a file is to be written there")
    if path.exists() and not (
        os.access(path, os.W_OK)
        and path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    ):
        raise UsageError(f"{path} is read-only; change its permissions, or name another folder")
