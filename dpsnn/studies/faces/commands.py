"""`dpsnn faces`: its options, and what of it an engine makes ahead: step sizes, then classifiers, then attacks."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dpsnn.attacks import MIFace
from dpsnn.checkpoints import classifier_name
from dpsnn.errors import Diverged, UsageError, one_of
from dpsnn.folders import Folders
from dpsnn.options import choices
from dpsnn.runner.ahead import ahead, job_logs, own_log, work_off
from dpsnn.runner.engines.base import Engine, Job
from dpsnn.runner.experiment import Experiment
from dpsnn.runner.group import run_study
from dpsnn.runner.progress import note
from dpsnn.runner.run import finished_classifier
from dpsnn.runner.tuning import tried, tuned
from dpsnn.specs import ClassifierSpec, replace
from dpsnn.studies.faces import study
from dpsnn.studies.faces.measures import Judged, load_judged


def run_faces(options: argparse.Namespace) -> Path | None:
    """`dpsnn faces`."""
    epochs = options.max_epochs if options.max_epochs_given else None
    seeds = options.seeds = options.seeds or [options.seed + i for i in range(study.SEEDS)]
    one_of(options.dataset, choices()["dataset"], "dataset")
    if options.iterations is not None and options.iterations < 1:
        raise UsageError(f"iterations is {options.iterations}; it must be 1 or more")
    if options.dry_run:
        note(
            "step sizes of the fair targets are tuned before they are trained, hence stand for others here"
        )
    return run_study(
        options,
        partial(study.faces_experiments, epochs=epochs, first_seed=seeds[0]),
        partial(study.faces, iterations=options.iterations),
        lambda judge: study.judges(judge, options.dataset, epochs)[0],
        partial(faces_ahead, iterations=options.iterations),
    )


def faces_ahead(
    experiments: Sequence[Experiment],
    judge: ClassifierSpec,
    folders: Folders,
    group: str,
    engine: Engine,
    iterations: int | None = None,
) -> None:
    """Tune, train and attack by an engine; what fails or is lost is left to `study.faces`.

    Args:
        experiments: As for `study.faces`, as are the judge and the limit of attacks.
        judge: The first of the judges.
        folders: Where to read and write.
        group: Name of the group.
        engine: Where jobs run.
        iterations: Limit of the attacks.

    Raises:
        UsageError: As `study.faces`, and if the engine cannot be had.
        Diverged: If no step size will do.
    """
    study.check(experiments, judge, folders)
    on = f"{study.dataset_of(judge)}_tuning"
    work_off({job: set() for job in _tuning(experiments, on, folders)}, engine, group)
    ready = study.settled(experiments, judge, folders)
    judges = study.judges(judge, study.dataset_of(judge), judge.max_epochs)
    ahead([*ready, *(Experiment(spec, ()) for spec in judges[1:])], judge, folders, group, engine)
    found = [finished_classifier(spec, folders) for spec in judges]
    if not all(found):
        return  # what failed of these is said where they are trained in order
    paths = [path for path in found if path]
    judged = [load_judged(path) for path in paths]
    specs = study.finished(ready, folders)
    lowest = min((spec.seed for spec in specs), default=0)
    waiting: dict[Job, set[Job]] = {}
    for target, name, chosen, _ in study.unattacked(
        specs, judged, study.limited(iterations), folders
    ):
        told = (target.spec, paths, name, chosen, folders, lowest)
        waiting[Job(f"{target.stored.stem}: {name}", _attack, told)] = set()
    work_off(waiting, engine, group)


def _tuning(experiments: Sequence[Experiment], dataset: str, folders: Folders) -> list[Job]:
    """A job for each fair target, all its seeds together, that has step sizes to try."""
    own = dataset.removesuffix("_tuning")
    specs = [replace(e.classifier, seed=0) for e in experiments if e.classifier.dataset == own]
    return [
        Job(f"step sizes of {classifier_name(spec)}", _tune, (spec, dataset, study.RATES, folders))
        for spec in dict.fromkeys(specs)
        if any(
            not tried(replace(spec, dataset=dataset, learning_rate=float(rate)), folders)
            for rate in study.RATES
        )
    ]


def _tune(spec: ClassifierSpec, dataset: str, rates: Sequence[float], folders: Folders) -> str:
    """Where a job runs: a row for each step size."""
    with own_log(job_logs(folders.results_dir)):
        try:
            return f"{tuned(spec, dataset, rates, folders).learning_rate:g}"
        except Diverged as error:  # said where the study goes through them in order
            return str(error)


def _attack(
    spec: ClassifierSpec,
    judges: Sequence[Path],
    name: str,
    chosen: MIFace,
    folders: Folders,
    lowest: int,
) -> str:
    """Where a job runs: one attack on one classifier, with its rows."""
    with own_log(job_logs(folders.results_dir)):
        judged: list[Judged] = [load_judged(path) for path in judges]
        return str(study.attack([spec], judged, {name: chosen}, folders, lowest))
