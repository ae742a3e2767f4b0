"""Run a group: train what is missing, evaluate what has no row yet, leave the rest alone."""

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path

from dpsnn import checkpoints
from dpsnn.checkpoints import ATTACKER, CLASSIFIER
from dpsnn.claims import finished
from dpsnn.data import DATASETS
from dpsnn.errors import UsageError, choose
from dpsnn.evaluation import tables, victims
from dpsnn.evaluation.attackers import attacker_row, load_attacked, load_judge
from dpsnn.evaluation.classifiers import classifier_row
from dpsnn.evaluation.identity import identity, stands
from dpsnn.folders import Folders
from dpsnn.metrics.base import known, marks
from dpsnn.parts import plugin_words
from dpsnn.runner import beforehand
from dpsnn.runner.experiment import Experiment
from dpsnn.runner.leaving import Leaving, LeftOut, arguments_of
from dpsnn.runner.progress import GroupFailed, Progress, note
from dpsnn.runner.rows import retire, retire_attacker, unconditioned
from dpsnn.runner.train import complete, train_attacker, train_classifier
from dpsnn.specs import AttackerSpec, ClassifierSpec, plain, replace, settings

# ---------------------------------------------------------------- evaluation


def evaluate_models(paths: Sequence[Path], folders: Folders, again: bool = False) -> Path:
    """Bring the table of classifiers up to date with these checkpoints.

    Args:
        paths: Classifiers.
        folders: Where the table and data are.
        again: Evaluate also those whose row matches their weights.

    Returns:
        The table.

    Raises:
        LeftOut: At the end, if a file needs a part that is not here; Lacking if each does.
    """
    table = tables.models_table(folders.results_dir)
    rows = {row["Model"]: row for row in tables.read(table, tables.CLASSIFIER_KEY)}
    unmarked = unconditioned(rows.values())
    due, leaving = {}, Leaving()
    for path in paths:
        if not (loaded := leaving.loaded(path, lambda: checkpoints.load_classifier(path))):
            continue
        _, spec, stored = loaded
        if spec.validator:
            raise UsageError(
                f"{path.name} is a validator: it judges and is not measured; name others"
            )
        old = spec.repeatable_noise and stored.stem in unmarked
        own = {"Digest": stored.digest, "Identity": identity(ClassifierSpec, stored)}
        if not stands(rows.get(stored.stem), own, table) or again or old:
            due[path] = spec.dataset
    leaving.check_any()
    if not due and not table.exists():
        raise UsageError(f"{folders.classifiers} holds no classifier to measure; train one first")
    _prepare(table, due.values(), folders)
    for path in due:
        note(f"evaluating {path.name.removesuffix('.ckpt')}")
        tables.upsert(table, [classifier_row(path, folders.data_dir)], tables.CLASSIFIER_KEY)
        retire(path, folders)
    leaving.close()
    return table


def _prepare(table: Path, datasets: Iterable[str], folders: Folders) -> None:
    """Reach the data and the folder of the table before anything is measured: bad input costs no work."""
    for dataset in sorted(set(datasets)):
        DATASETS[dataset](folders.data_dir).setup()
    checkpoints.ensure_writable(table.parent)


def evaluate_attackers(
    paths: Sequence[Path], folders: Folders, validation_model: str = "", again: bool = False
) -> Path:
    """Bring the table of attackers up to date with these checkpoints.

    Args:
        paths: Attackers.
        folders: Where the table, the classifiers and data are.
        validation_model: Name of the judge; by default the one trained on the target's data set.
        again: Evaluate also those whose row matches their weights and their judge's.

    Returns:
        The table.

    Raises:
        UsageError: If there is no validator.
        LeftOut: As for classifiers.
    """
    table = tables.attackers_table(folders.results_dir)
    rows = {(row["Model"], row["Attacker"]): row for row in tables.read(table, tables.ATTACKER_KEY)}
    wanted = {*marks(known()).split()}
    unmarked = unconditioned(rows.values())
    due, leaving = {}, Leaving()
    for path in paths:
        attacked = leaving.loaded(path, lambda: load_attacked(path, folders.models_dir))
        if not attacked:
            continue
        dataset = attacked.target_spec.dataset
        judge, judge_digest = None, ""
        if DATASETS[dataset].judged:
            judge = _validator(folders, attacked.spec.model, validation_model)
            judge_digest = load_judge(judge, dataset)[1].digest
        there = rows.get((attacked.spec.model, attacked.stored.stem))
        old = attacked.target_spec.repeatable_noise and attacked.spec.model in unmarked
        fits = stands(there, {**attacked.marks, "ValidatorDigest": judge_digest}, table)
        lacks = wanted - {*(there.get("Measures", "").split() if there else ())}
        if again or old or lacks or not fits:
            due[path] = (judge, dataset)
    leaving.check_any()
    _prepare(table, [dataset for _, dataset in due.values()], folders)
    for path, (judge, _) in due.items():
        note(f"evaluating {path.name.removesuffix('.ckpt')}")
        row, scores = attacker_row(path, folders.models_dir, folders.data_dir, judge)
        victims.save(folders.results_dir, path.stem, victims.mark(row), scores)
        tables.upsert(table, [row], tables.ATTACKER_KEY)
        retire_attacker(path, row, table)
    leaving.close()
    return table


def _validator(folders: Folders, model: str, name: str) -> Path:
    if name:
        return checkpoints.find(folders.classifiers, name, CLASSIFIER)
    target = checkpoints.find(folders.classifiers, model, CLASSIFIER)
    dataset = checkpoints.read(target, CLASSIFIER).arguments["dataset"]
    default = checkpoints.classifier_name(ClassifierSpec(dataset=dataset, validator=True))
    try:
        return checkpoints.find(folders.classifiers, default, CLASSIFIER)
    except UsageError as error:
        raise UsageError(
            f"no single validator for {dataset} in {folders.classifiers}; train one with"
            f" scripts/train_model.py --validator --dataset {dataset}, or name one with --validation_model"
        ) from error


# ---------------------------------------------------------------- groups


def command(script: str, spec: ClassifierSpec | AttackerSpec, folders: Folders) -> str:
    """The command line that does what the call with these arguments does."""
    words = ["python", f"scripts/{script}.py", *plugin_words()]
    if isinstance(spec, ClassifierSpec):
        spec = replace(spec, defences=spec.active)  # what is off says nothing
    for part in (spec, folders):
        for made in settings(type(part)):
            value = getattr(part, made.name)
            if value != made.default or made.name == "dataset":
                words += [f"--{made.name}"] + ([] if value is True else [str(value)])
    return shlex.join(words)


def dry_run(
    experiments: Sequence[Experiment], judge: ClassifierSpec, folders: Folders
) -> list[str]:
    """The commands of a group, in order."""
    lines = [command("train_model", judge, folders)] if DATASETS[judge.dataset].judged else []
    for experiment in merge(experiments):
        lines.append(command("train_model", experiment.classifier, folders))
        model = checkpoints.classifier_name(experiment.classifier)
        for attacker in experiment.attackers:
            lines.append(command("train_attacker", replace(attacker, model=model), folders))
    return lines + evaluation_commands(folders)


def evaluation_commands(folders: Folders, dataset: str = "") -> list[str]:
    """The commands that bring both tables up to date."""
    options = [
        word
        for field in fields(folders)
        if field.name != "wandb"
        for word in (f"--{field.name}", str(getattr(folders, field.name)))
    ]
    options += ["--dataset", dataset] if dataset else []
    return [
        shlex.join(["python", f"scripts/{script}.py", *plugin_words(), *options])
        for script in ("evaluate_models", "evaluate_attackers")
    ]


def merge(experiments: Iterable[Experiment]) -> list[Experiment]:
    """Each classifier once, with the attackers that any experiment wants for it, each once, in order."""
    merged: dict[ClassifierSpec, dict[AttackerSpec, None]] = {}
    for experiment in experiments:
        merged.setdefault(experiment.classifier, {}).update(dict.fromkeys(experiment.attackers))
    return [Experiment(classifier, tuple(attackers)) for classifier, attackers in merged.items()]


def reachable(experiments: Iterable[Experiment], folders: Folders) -> list[Experiment]:
    """Leave out attackers whose surrogate images cannot be reached, and say so."""
    kept = []
    missing: dict[str, bool] = {"": False}
    for experiment in experiments:
        attackers = []
        for attacker in experiment.attackers:
            if attacker.surrogate not in missing:
                try:
                    choose(DATASETS, attacker.surrogate, "surrogate")(folders.data_dir).setup()
                    missing[attacker.surrogate] = False
                except UsageError as error:
                    note(f"left out: attackers with images of {attacker.surrogate}: {error}")
                    missing[attacker.surrogate] = True
            if not missing[attacker.surrogate]:
                attackers.append(attacker)
        kept.append(Experiment(experiment.classifier, tuple(attackers)))
    return kept


def finished_classifier(spec: ClassifierSpec, folders: Folders) -> Path | None:
    """Its checkpoint, if it is there; raises UsageError where its name is taken by other arguments."""
    name = checkpoints.classifier_name(spec)
    return finished(folders.classifiers, name, CLASSIFIER, plain(spec))


def is_finished(spec: AttackerSpec, folders: Folders) -> bool:
    """Whether an attacker of a finished classifier is there."""
    return checkpoints.attacker_file(folders.attackers, complete(spec, folders)) is not None


def finished_attackers(experiment: Experiment, folders: Folders) -> list[Path]:
    """Checkpoints of the attackers of an experiment that are there."""
    target = finished_classifier(experiment.classifier, folders)
    if target is None:
        return []
    specs = [complete(replace(a, model=target.name), folders) for a in experiment.attackers]
    paths = [checkpoints.attacker_file(folders.attackers, spec) for spec in specs]
    return [path for path in paths if path]


def run(
    experiments: Sequence[Experiment], judge: ClassifierSpec, folders: Folders, group: str
) -> list[tuple[Experiment, Path, list[Path]]]:
    """Train and evaluate a group; what is finished is skipped, what was interrupted goes on.

    A member that fails stops no other; it is named at the end.

    Args:
        experiments: What to train, in order.
        judge: The validator that scores the attackers.
        folders: Where to read and write.
        group: Name of the group, for the progress and for W&B.

    Returns:
        Each experiment with its classifier's and its attackers' checkpoints.

    Raises:
        UsageError: Before anything is trained: if data or their roles are missing, a folder or table cannot be written,
            networks do not fit, or a name is taken by other arguments.
        GroupFailed: At the end, if a member failed.
    """
    experiments = merge(experiments)
    beforehand.check(experiments, judge, folders)
    judged = DATASETS[judge.dataset].judged
    finished = {
        spec: finished_classifier(spec, folders)
        for spec in (*([judge] if judged else []), *(e.classifier for e in experiments))
    }
    plan = ["classifier" for path in finished.values() if path is None]
    done = len(finished) - len(plan)
    for experiment in experiments:
        path = finished[experiment.classifier]
        for attacker in experiment.attackers:
            if path and is_finished(replace(attacker, model=path.name), folders):
                done += 1
            else:
                plan.append("attacker")
    board = Progress(group, plan, done)

    def classifier(spec: ClassifierSpec) -> Path | None:
        return finished[spec] or board.make(
            "classifier",
            checkpoints.classifier_name(spec),
            lambda: train_classifier(spec, folders, group),
        )

    validator = classifier(judge) if judged else None
    trained = []
    for experiment in experiments:
        path = classifier(experiment.classifier)
        if path is None:
            model = checkpoints.classifier_name(experiment.classifier)
            lost = [
                checkpoints.attacker_name(replace(a, model=model)) for a in experiment.attackers
            ]
            board.drop("attacker", lost, "its classifier failed")
            continue
        attackers = []
        for attacker in experiment.attackers:
            spec = complete(replace(attacker, model=path.name), folders)
            name = checkpoints.attacker_name(spec)
            if is_finished(spec, folders):
                board.check(name, lambda: attackers.append(train_attacker(spec, folders, group)))
            elif made := board.make("attacker", name, lambda: train_attacker(spec, folders, group)):
                attackers.append(made)
        trained.append((experiment, path, attackers))
        board.check(path.name, lambda: evaluate_models([path], folders))
        if validator or not judged:
            name = str(validator or "")
            board.check(path.name, lambda: evaluate_attackers(attackers, folders, name))
    board.close()
    return trained


def run_and_measure(
    experiments: Sequence[Experiment],
    judge: ClassifierSpec,
    folders: Folders,
    group: str,
    measure: Callable[[], Path],
) -> Path:
    """Run a group as `run` does, then bring a table of its own up to date, also where a member failed.

    Returns:
        What `measure` returns: the table.
    """
    try:
        run(experiments, judge, folders, group)
    except GroupFailed:
        # What the other members gave is not lost.
        measure()
        raise
    return measure()


def performance(folders: Folders, dataset: str) -> tuple[Path, Path]:
    """Evaluate every model and attacker that has no up-to-date row.

    Args:
        folders: Where to read and write.
        dataset: Only models of this data set; all where empty.

    Returns:
        The two tables.
    """
    models = select(folders, CLASSIFIER, dataset)
    attackers = select(folders, ATTACKER, dataset)
    try:
        table = evaluate_models(models, folders)
    except LeftOut:
        evaluate_attackers(attackers, folders)
        raise
    return table, evaluate_attackers(attackers, folders)


def select(folders: Folders, kind: str, dataset: str = "") -> list[Path]:
    """All classifiers but validators, or all attackers; with a data set only those on it."""
    paths = checkpoints.all_in(folders.classifiers if kind == CLASSIFIER else folders.attackers)
    return [
        path
        for path in paths
        if not arguments_of(path, kind).get("validator")
        and (not dataset or dataset_of(path, kind, folders) == dataset)
    ]


def dataset_of(path: Path, kind: str, folders: Folders) -> str:
    """The data set that a classifier, or an attacker's target, was trained on."""
    arguments = arguments_of(path, kind)
    if kind == CLASSIFIER:
        return str(arguments.get("dataset"))
    target = checkpoints.find(folders.classifiers, str(arguments.get("model")), CLASSIFIER)
    return dataset_of(target, CLASSIFIER, folders)
