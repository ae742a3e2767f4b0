"""What the subcommands of `dpsnn` do with their options; each returns what it wrote.

`cli.py` imports this when a command runs, and not for `--help`: it brings torch.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from dpsnn import checkpoints
from dpsnn.checkpoints import ATTACKER, CLASSIFIER
from dpsnn.errors import UsageError, one_of, passed_on
from dpsnn.evaluation import tables
from dpsnn.evaluation.epsilon import costs, noises, steps_of
from dpsnn.evaluation.pictures import plot_attacks
from dpsnn.evaluation.summary import write_summaries
from dpsnn.federated.run import commands, federated
from dpsnn.federated.spec import MODES, FederatedSpec
from dpsnn.folders import Folders
from dpsnn.options import CHOICES, spec_from
from dpsnn.runner import run, train
from dpsnn.runner.ahead import ahead
from dpsnn.runner.experiment import Experiment
from dpsnn.runner.progress import GroupFailed, note
from dpsnn.runner.tracking import summarise
from dpsnn.specs import ACCOUNTANTS, AttackerSpec, ClassifierSpec, replace
from dpsnn.studies.faces.study import SEEDS, faces, faces_experiments, judges
from dpsnn.studies.omniglot.study import omniglot, omniglot_experiments
from dpsnn.studies.secure.study import dry_run as secure_dry_run
from dpsnn.studies.secure.study import secure, secure_experiments
from dpsnn.studies.suppress.study import suppress, suppress_experiments
from dpsnn.studies.titcombe.demo import demo, demo_experiments
from dpsnn.studies.titcombe.figures import FIGURES, SUPPRESS_FIGURES, draw, figure_path
from dpsnn.studies.titcombe.groups import GROUPS
from dpsnn.studies.titcombe.headline import headline
from dpsnn.studies.titcombe.ledger import write_ledger
from dpsnn.studies.titcombe.paper import write_paper
from dpsnn.studies.titcombe.published import published, published_experiments


def train_model(options: argparse.Namespace) -> Path:
    return train.train_classifier(spec_from(ClassifierSpec, options), spec_from(Folders, options))


def train_attacker(options: argparse.Namespace) -> Path:
    spec, folders = spec_from(AttackerSpec, options), spec_from(Folders, options)
    if options.dataset and spec.model:
        path = checkpoints.find(folders.classifiers, spec.model, CLASSIFIER)
        _check_dataset(path, CLASSIFIER, folders, options.dataset)
    return train.train_attacker(spec, folders)


def _check_dataset(path: Path, kind: str, folders: Folders, dataset: str) -> None:
    trained_on = run.dataset_of(path, kind, folders)
    if trained_on != dataset:
        raise UsageError(
            f"{path.name} is for {trained_on}, not {dataset}; drop --dataset or name another --model"
        )


def evaluate_models(options: argparse.Namespace) -> Path:
    folders = spec_from(Folders, options)
    return run.evaluate_models(_selected(options, CLASSIFIER), folders, options.all)


def evaluate_attackers(options: argparse.Namespace) -> Path:
    folders = spec_from(Folders, options)
    paths = _selected(options, ATTACKER)
    return run.evaluate_attackers(paths, folders, options.validation_model, options.all)


def _selected(options: argparse.Namespace, kind: str) -> list[Path]:
    """The named checkpoints, or all of them; with --dataset only those on that data set."""
    folders = spec_from(Folders, options)
    folder = folders.classifiers if kind == CLASSIFIER else folders.attackers
    if options.model:
        named = [checkpoints.find(folder, name, kind) for name in options.model]
        for path in named if options.dataset else []:
            _check_dataset(path, kind, folders, options.dataset)
        return named
    paths = run.select(folders, kind, options.dataset)
    if not paths:
        raise UsageError(
            f"{folder} holds no {kind}{' for ' + options.dataset if options.dataset else ''}; train one first"
        )
    return paths


def plot_attack(options: argparse.Namespace) -> Path:
    folders = spec_from(Folders, options)
    if not options.model or not options.attacker:
        raise UsageError("name both --model NAME and --attacker NAME")
    model = checkpoints.find(folders.classifiers, options.model, CLASSIFIER)
    paths = [checkpoints.find(folders.attackers, n, ATTACKER) for n in options.attacker]
    for path in paths:
        attacked = checkpoints.read(path, ATTACKER).arguments.get("model")
        if attacked != model.name.removesuffix(".ckpt"):
            raise UsageError(
                f"{path.name} attacks {attacked}, not {options.model}; name one that attacks it"
            )
    default = Path(folders.results_dir) / "figures" / f"{paths[0].name.removesuffix('.ckpt')}.png"
    labelled = [(path.name.split("_model<")[0], path) for path in paths]
    return plot_attacks(labelled, folders, Path(options.savepath or default), model.stem)


def run_demo(options: argparse.Namespace) -> Path | None:
    base, attacker, judge, folders = _group_specs(options)
    if options.dry_run:
        _print_commands(demo_experiments(base, attacker), judge, folders)
        return None
    text, table = demo(base, attacker, judge, folders)
    print(f"{text}\n")
    return table


def run_group(options: argparse.Namespace) -> Path | None:
    base, attacker, judge, folders = _group_specs(options)
    experiments = _for_seeds(GROUPS[options.command], options, base, attacker)
    if options.dry_run:
        _print_commands(experiments, judge, folders)
        return None
    if options.command == "all":
        experiments = run.reachable(experiments, folders)
    if options.jobs > 1:
        ahead(experiments, judge, folders, options.command, options.jobs)
    try:
        trained = run.run(experiments, judge, folders, options.command)
    except GroupFailed:
        # What the other members gave is not lost.
        _conclude(options.command, base.dataset, folders)
        raise
    if options.command == "headline":
        print(*headline(trained, folders), sep="\n")
    _conclude(options.command, base.dataset, folders)
    return tables.attackers_table(folders.results_dir)


def _conclude(group: str, dataset: str, folders: Folders) -> None:
    """What is made of the tables of a group: summaries, for `all` texts and figures, and the mirror in W&B."""
    drawn = draw(folders, dataset) if group == "all" else []
    texts = write_paper(folders, dataset) if group == "all" else []
    written = [
        *texts,
        tables.models_table(folders.results_dir),
        *write_summaries(folders.results_dir),
    ]
    for path in (*drawn, *written):
        if path.exists():
            print(path)
    if folders.wandb:
        summarise(group, dataset, Path(folders.results_dir), drawn)


def figures(options: argparse.Namespace) -> Path | None:
    folders = spec_from(Folders, options)
    one_of(options.dataset, CHOICES["dataset"], "dataset")
    if options.dry_run:
        print(*(figure_path(folders, name, options.dataset) for name in FIGURES), sep="\n")
        return None
    written = draw(folders, options.dataset)
    if not written:
        raise UsageError(
            f"nothing to draw for {options.dataset}; run ./main.sh all --dataset {options.dataset}"
        )
    if folders.wandb:
        summarise("figures", options.dataset, Path(folders.results_dir), written)
    print(*write_paper(folders, options.dataset), *written[:-1], sep="\n")
    return written[-1]


def run_published(options: argparse.Namespace) -> Path | None:
    return _study(options, published_experiments, published)


def run_omniglot(options: argparse.Namespace) -> Path | None:
    epochs = options.max_epochs if options.max_epochs_given else None
    return _study(options, partial(omniglot_experiments, epochs=epochs), omniglot)


def run_faces(options: argparse.Namespace) -> Path | None:
    epochs = options.max_epochs if options.max_epochs_given else None
    seeds = options.seeds = options.seeds or [options.seed + i for i in range(SEEDS)]
    one_of(options.dataset, CHOICES["dataset"], "dataset")
    if options.iterations is not None and options.iterations < 1:
        raise UsageError(f"iterations is {options.iterations}; it must be 1 or more")
    if options.dry_run:
        note(
            "step sizes of the fair targets are tuned before they are trained, hence stand for others here"
        )
    return _study(
        options,
        partial(faces_experiments, epochs=epochs, first_seed=seeds[0]),
        partial(faces, iterations=options.iterations),
        lambda judge: judges(judge, options.dataset, epochs)[0],
    )


def _study(
    options: argparse.Namespace,
    group: Callable[[ClassifierSpec, AttackerSpec], list[Experiment]],
    perform: Callable[[list[Experiment], ClassifierSpec, Folders], Path],
    judge_of: Callable[[ClassifierSpec], ClassifierSpec] = lambda judge: judge,
) -> Path | None:
    """A group with a table of its own, which `perform` brings up to date; `judge_of` may put another judge in place."""
    base, attacker, judge, folders = _group_specs(options)
    judge = judge_of(judge)
    experiments = _for_seeds(group, options, base, attacker)
    if options.dry_run:
        _print_commands(experiments, judge, folders)
        return None
    if options.jobs > 1:
        ahead(experiments, judge, folders, options.command, options.jobs)
    table = perform(experiments, judge, folders)
    print(*write_summaries(folders.results_dir), sep="\n")
    return table


def run_suppress(options: argparse.Namespace) -> Path | None:
    def perform(experiments: list[Experiment], judge: ClassifierSpec, folders: Folders) -> Path:
        table = suppress(experiments, judge, folders)
        print(*draw(folders, judge.dataset, SUPPRESS_FIGURES), sep="\n")
        return table

    group = partial(suppress_experiments, steps=options.steps, restarts=options.restarts)
    return _study(options, group, perform)


def run_secure(options: argparse.Namespace) -> Path | None:
    base, _, _, folders = _group_specs(options)
    specs = [spec for each in _seeded(options, base) for spec in secure_experiments(each)]
    if options.dry_run:
        print(*secure_dry_run(specs, folders), sep="\n")
        return None
    return secure(specs, folders)


def ledger(options: argparse.Namespace) -> Path:
    one_of(options.dataset, CHOICES["dataset"], "dataset")
    published_dir = options.published_dir or Path(options.results_dir) / "published"
    return write_ledger(
        options.dataset, Path(published_dir), Path(options.results_dir), Path(options.output)
    )


def epsilon(options: argparse.Namespace) -> None:
    """Print what a training costs, or the noise that it needs, by every accountant."""
    known, wanted = options.noise_multiplier, options.target_epsilon
    if (known is None) == (wanted is None):
        raise UsageError("name either --noise_multiplier or --target_epsilon")
    for name in ("noise_multiplier", "target_epsilon"):
        value = getattr(options, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name} is {value}; it must be a finite number, greater than 0")
    rate, steps = steps_of(options.examples, options.batch_size, options.epochs)
    if not 0 < options.delta < 1 / options.examples:
        raise UsageError(
            f"delta is {options.delta}; it must be above 0 and below 1 / {options.examples} examples"
        )
    print(
        f"{steps:,} steps, each example drawn with probability {rate:.4g}, delta {options.delta:g}"
    )
    accountants = [*ACCOUNTANTS, *(["classic"] if options.classic else [])]
    lines = (
        costs(known, rate, steps, options.delta, accountants)
        if known is not None
        else noises(wanted, rate, steps, options.delta, accountants)
    )
    for line in lines:
        print(line, flush=True)


def run_federated(options: argparse.Namespace) -> Path | None:
    spec, among = spec_from(ClassifierSpec, options), spec_from(FederatedSpec, options)
    chosen = [mode for mode in MODES if getattr(options, mode)] or list(MODES)
    if options.dry_run:
        print(*commands(among) * len(chosen), sep="\n")
        return None
    text, table = federated(spec, among, spec_from(Folders, options), chosen)
    print(f"{text}\n")
    return table


def performance(options: argparse.Namespace) -> Path | None:
    folders = spec_from(Folders, options)
    if options.dry_run:
        print("\n".join(run.evaluation_commands(folders, options.dataset)))
        return None
    written = [path for path in run.performance(folders, options.dataset) if path.exists()]
    print(*written[:-1], *write_summaries(folders.results_dir), sep="\n")
    return written[-1]


def _group_specs(
    options: argparse.Namespace,
) -> tuple[ClassifierSpec, AttackerSpec, ClassifierSpec, Folders]:
    """Base classifier, base attacker, validator and folders of a group."""
    base = spec_from(ClassifierSpec, options)
    defaults = AttackerSpec()
    limited = base.max_epochs if options.max_epochs_given else defaults.max_epochs
    one_of(options.surrogate or base.dataset, CHOICES["surrogate"], "surrogate")
    if options.jobs < 1:
        raise UsageError(f"jobs is {options.jobs}; it must be a whole number, 1 or greater")
    epochs = options.attacker_epochs
    with passed_on("max_epochs", "max_epochs" if epochs is None else "attacker_epochs"):
        attacker = AttackerSpec(
            surrogate=options.surrogate,
            seed=base.seed,
            precision=base.precision,
            max_epochs=limited if epochs is None else epochs,
        )
    judge = ClassifierSpec(
        dataset=base.dataset, validator=True, precision=base.precision, max_epochs=base.max_epochs
    )
    return base, attacker, judge, spec_from(Folders, options)


def _for_seeds(
    group: Callable[[ClassifierSpec, AttackerSpec], list[Experiment]],
    options: argparse.Namespace,
    base: ClassifierSpec,
    attacker: AttackerSpec,
) -> list[Experiment]:
    """The group once, or with each of the seeds asked for."""
    return [
        experiment
        for each in _seeded(options, base)
        for experiment in group(each, replace(attacker, seed=each.seed))
    ]


def _seeded(options: argparse.Namespace, base: ClassifierSpec) -> list[ClassifierSpec]:
    """The base with each of the seeds asked for."""
    with passed_on("seed", "seeds"):
        return [replace(base, seed=seed) for seed in options.seeds or [base.seed]]


def _print_commands(
    experiments: Sequence[Experiment], judge: ClassifierSpec, folders: Folders
) -> None:
    print("\n".join(run.dry_run(experiments, judge, folders)))
