"""The `dpsnn` command; the files in scripts/ are doors to its subcommands."""

import argparse
import contextlib
import math
import signal
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import Field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

from dpsnn import checkpoints
from dpsnn.checkpoints import ATTACKER, CLASSIFIER
from dpsnn.data import DATASETS
from dpsnn.errors import UsageError, one_of
from dpsnn.evaluation import tables
from dpsnn.evaluation.summary import write_summaries
from dpsnn.experiments import run, train
from dpsnn.experiments.ahead import ahead
from dpsnn.experiments.demo import demo, demo_experiments
from dpsnn.experiments.faces import SEEDS, faces, faces_experiments, judges
from dpsnn.experiments.figures import FIGURES, SUPPRESS_FIGURES, draw, figure_path
from dpsnn.experiments.groups import GROUPS, Experiment
from dpsnn.experiments.headline import headline
from dpsnn.experiments.ledger import write_ledger
from dpsnn.experiments.omniglot import omniglot, omniglot_experiments
from dpsnn.experiments.paper import write_paper
from dpsnn.experiments.progress import GroupFailed, note
from dpsnn.experiments.published import published, published_experiments
from dpsnn.experiments.secure import dry_run as secure_dry_run
from dpsnn.experiments.secure import secure, secure_experiments
from dpsnn.experiments.suppress import suppress, suppress_experiments
from dpsnn.experiments.tracking import summarise
from dpsnn.experiments.train import Folders
from dpsnn.federated.run import commands, federated
from dpsnn.federated.spec import MODES, FederatedSpec
from dpsnn.metrics import dp_sgd_epsilon, dp_sgd_noise_multiplier
from dpsnn.networks import NETWORKS
from dpsnn.secure import commands as secure_commands
from dpsnn.secure.messages import ClusterFailed
from dpsnn.specs import (
    ACCOUNTANTS,
    ATTACKS,
    DECODERS,
    NORMS,
    PRECISIONS,
    AttackerSpec,
    ClassifierSpec,
)
from dpsnn.training import keep_memory

Spec = TypeVar("Spec", ClassifierSpec, AttackerSpec, FederatedSpec, Folders)

CHOICES = {
    "dataset": sorted(DATASETS),
    "surrogate": sorted(DATASETS),
    "network": sorted(NETWORKS),
    "attack": list(ATTACKS),
    "decoder": list(DECODERS),
    "precision": list(PRECISIONS),
    "norm": [name for name in NORMS if name],
    "dp_accountant": list(ACCOUNTANTS),
}

GROUP_OPTIONS = (
    "dataset",
    "network",
    "nopeek_exponent",
    "seed",
    "batch_size",
    "learning_rate",
    "precision",
)

FEDERATED_OPTIONS = (
    "dataset",
    "network",
    "cut",
    "norm",
    "dropout",
    "noise_scale",
    "gaussian_std",
    "nopeek_weight",
    "nopeek_exponent",
    "dp_noise_multiplier",
    "dp_max_grad_norm",
    "dp_delta",
    "dp_accountant",
    "seed",
    "batch_size",
    "learning_rate",
    "sgd_momentum",
)
"""What a client may choose for its own training; a budget or a schedule would need the whole training in one place."""

PROTOCOL_OPTIONS = ("dataset", "seed", "precision")
"""What the published protocol leaves open."""


class Parser(argparse.ArgumentParser):
    """argparse that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {' '.join(message.split())}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def _value_type(field: Field[Any]) -> Any:
    """int, float or str, also for an optional field."""
    if isinstance(field.type, types.UnionType):
        return next(t for t in get_args(field.type) if t is not type(None))
    return field.type


def add_options(parser: argparse.ArgumentParser, spec: type, only: Sequence[str] = ()) -> None:
    """Make an option of each field of a dataclass: the default, the type and the help stand there."""
    for field in fields(spec):
        if only and field.name not in only:
            continue
        text = field.metadata["help"].replace("%", "%%")
        if field.type is bool:
            parser.add_argument(f"--{field.name}", action="store_true", help=text)
            continue
        if field.name in CHOICES:
            text += f": {', '.join(CHOICES[field.name])}"
        default = "" if field.default in (None, "") else " [%(default)s]"
        parser.add_argument(
            f"--{field.name}",
            type=_value_type(field),
            default=field.default,
            metavar=field.name.split("_")[-1].upper(),
            help=f"{text}{default}",
        )


def spec_from(spec: type[Spec], options: argparse.Namespace, **override: Any) -> Spec:
    """Build a spec from the options of the same names; its own checks apply."""
    given = {f.name: getattr(options, f.name) for f in fields(spec) if hasattr(options, f.name)}
    for name in set(given) & set(CHOICES):
        if given[name]:
            one_of(given[name], CHOICES[name], name)
    return spec(**{**given, **override})


# ---------------------------------------------------------------- subcommands: each returns what it wrote


def train_model(options: argparse.Namespace) -> Path:
    return train.train_classifier(spec_from(ClassifierSpec, options), spec_from(Folders, options))


def train_attacker(options: argparse.Namespace) -> Path:
    spec, folders = spec_from(AttackerSpec, options), spec_from(Folders, options)
    if options.dataset and spec.model:
        one_of(options.dataset, CHOICES["dataset"], "dataset")
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
    if options.dataset:
        one_of(options.dataset, CHOICES["dataset"], "dataset")
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
    return run.plot_attacks(labelled, folders, Path(options.savepath or default), model.stem)


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
    print(*drawn, *written, sep="\n")
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
    specs = [
        spec
        for seed in options.seeds or [base.seed]
        for spec in secure_experiments(replace(base, seed=seed))
    ]
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
    for name in ("noise_multiplier", "target_epsilon", "epochs"):
        value = getattr(options, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name} is {value}; it must be a finite number, greater than 0")
    if not 1 <= options.batch_size <= options.examples:
        raise UsageError(
            f"batch_size is {options.batch_size}; it must be from 1 to the {options.examples} examples"
        )
    if not 0 < options.delta < 1 / options.examples:
        raise UsageError(
            f"delta is {options.delta}; it must be above 0 and below 1 / {options.examples} examples"
        )
    rate = options.batch_size / options.examples
    steps = max(1, int(options.epochs / rate))
    print(
        f"{steps:,} steps, each example drawn with probability {rate:.4g}, delta {options.delta:g}"
    )
    accountants = [*ACCOUNTANTS, *(["classic"] if options.classic else [])]
    for accountant in accountants:
        if known is not None:
            cost = dp_sgd_epsilon([(known, rate, steps)], options.delta, accountant)
            print(f"{accountant:8} epsilon {cost:.4g}")
        else:
            try:
                noise = dp_sgd_noise_multiplier(wanted, rate, steps, options.delta, accountant)
            except ValueError as error:
                raise UsageError(f"{error}; train for fewer epochs or allow more") from error
            print(f"{accountant:8} noise multiplier {noise:.4g}")


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
    if options.dataset:
        one_of(options.dataset, CHOICES["dataset"], "dataset")
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
    attacker = AttackerSpec(
        surrogate=options.surrogate,
        seed=base.seed,
        precision=base.precision,
        max_epochs=limited if options.attacker_epochs is None else options.attacker_epochs,
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
        for seed in options.seeds or [base.seed]
        for experiment in group(replace(base, seed=seed), replace(attacker, seed=seed))
    ]


def _print_commands(
    experiments: Sequence[Experiment], judge: ClassifierSpec, folders: Folders
) -> None:
    print("\n".join(run.dry_run(experiments, judge, folders)))


# ---------------------------------------------------------------- command line


class _Given(argparse.Action):
    """Store a value and remember that it was given."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, values)
        setattr(namespace, f"{self.dest}_given", True)


def _group_parser(
    parser: argparse.ArgumentParser, results: str, models: str, protocol: bool = False
) -> None:
    """The options of a group; where a protocol fixes the training, only those that it leaves open."""
    add_options(parser, ClassifierSpec, PROTOCOL_OPTIONS if protocol else GROUP_OPTIONS)
    parser.add_argument(
        "--max_epochs",
        type=int,
        default=ClassifierSpec.max_epochs,
        action=_Given,
        metavar="EPOCHS",
        help="passes over the training images; where given, it limits the attackers too"
        f" [{ClassifierSpec.max_epochs}, attackers {AttackerSpec.max_epochs}]",
    )
    parser.add_argument(
        "--attacker_epochs", type=int, metavar="EPOCHS", help="passes over the attackers' images"
    )
    if protocol:
        parser.set_defaults(surrogate="")
    else:
        add_options(parser, AttackerSpec, ["surrogate"])
    add_options(parser, Folders)
    parser.add_argument(
        "--dry_run", action="store_true", help="print the commands, one a line, and do nothing"
    )
    parser.set_defaults(max_epochs_given=False, results_dir=results, models_dir=models, jobs=1)


def _folder_options(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    add_options(parser, Folders, names)


def _seeds_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        metavar="SEED",
        help="repeat the group with each seed; the tables by seed then carry mean and 95 %% interval",
    )


def _jobs_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="members made at a time, each in a process of its own with its share of the cores [%(default)s]",
    )


def _evaluation_parser(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--model", nargs="+", metavar="NAME", help=f"{what} to evaluate, by name")
    parser.add_argument(
        "--all", action="store_true", help="evaluate again what has an up-to-date row already"
    )
    parser.add_argument(
        "--dataset", default="", metavar="DATASET", help="only models of this data set"
    )
    add_options(parser, Folders)


def make_parser() -> Parser:
    """The whole command line."""
    parser = Parser(
        prog="dpsnn",
        description="Measure how much of a private input leaks out of a split neural network.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(
        name: str, action: Callable[[argparse.Namespace], Path | None], text: str
    ) -> Parser:
        text = text.replace("%", "%%")  # argparse formats it
        made = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            allow_abbrev=False,
        )
        made.set_defaults(action=action)
        return made

    made = command("train_model", train_model, "train one split classifier with its defences")
    add_options(made, ClassifierSpec)
    add_options(made, Folders)
    made = command("train_attacker", train_attacker, "train one attacker of a classifier")
    add_options(made, AttackerSpec)
    made.add_argument(
        "--dataset", default="", metavar="DATASET", help="check that the model was trained on it"
    )
    add_options(made, Folders)
    made = command(
        "evaluate_models", evaluate_models, "write accuracy and leakage of classifiers to a table"
    )
    _evaluation_parser(made, "classifiers")
    made = command(
        "evaluate_attackers", evaluate_attackers, "write the reconstructions' scores to a table"
    )
    _evaluation_parser(made, "attackers")
    made.add_argument(
        "--validation_model",
        default="",
        metavar="NAME",
        help="the judge [the data set's validator]",
    )
    made = command("plot_attack", plot_attack, "draw originals above an attacker's reconstructions")
    made.add_argument("--model", metavar="NAME", help="the classifier")
    made.add_argument("--attacker", nargs="+", metavar="NAME", help="its attackers, one row each")
    made.add_argument("--savepath", metavar="FILE", help="where to write (.png, .pdf or .svg)")
    add_options(made, Folders)

    made = command("demo", run_demo, "four defences on small digits, offline, with a picture")
    _group_parser(made, "results/demo", "models/demo")
    for name, experiments in GROUPS.items():
        text = " ".join((experiments.__doc__ or "").split()).rstrip(".")
        made = command(name, run_group, f"{text[0].lower()}{text[1:]}")
        _group_parser(made, "results", "models")
        _seeds_option(made)
        _jobs_option(made)
    text = " ".join((published_experiments.__doc__ or "").split()).rstrip(".")
    made = command("published", run_published, f"{text[0].lower()}{text[1:]}")
    _group_parser(made, "results/published", "models/published", protocol=True)
    _seeds_option(made)
    _jobs_option(made)
    text = (omniglot_experiments.__doc__ or "").split("\n")[0].rstrip(".")
    made = command("omniglot", run_omniglot, f"{text[0].lower()}{text[1:]}")
    _group_parser(made, "results", "models", protocol=True)
    made.set_defaults(dataset="omniglot")
    _seeds_option(made)
    _jobs_option(made)
    text = (suppress_experiments.__doc__ or "").split("\n")[0].rstrip(".")
    made = command("suppress", run_suppress, text)
    _group_parser(made, "results", "models", protocol=True)
    made.set_defaults(dataset="mnist")
    add_options(made, AttackerSpec, ["steps", "restarts"])
    _seeds_option(made)
    # Batches of 32 for so small a network keep no second core busy.
    made.set_defaults(jobs=2)
    _jobs_option(made)
    text = (faces_experiments.__doc__ or "").split("\n")[0].rstrip(".")
    made = command("faces", run_faces, f"{text[0].lower()}{text[1:]}")
    _group_parser(made, "results", "models", protocol=True)
    made.set_defaults(dataset="faces")
    _seeds_option(made)
    made.add_argument(
        "--iterations", type=int, metavar="STEPS", help="limit of every attack (default: its own)"
    )
    text = (secure_experiments.__doc__ or "").split("\n")[0].rstrip(".")
    made = command("secure", run_secure, f"{text[0].lower()}{text[1:]}")
    _group_parser(made, "results", "models", protocol=True)
    _seeds_option(made)
    secure_commands.add_commands(made, _folder_options)
    made = command(
        "ledger", ledger, "set the published figures beside ours, and say why they differ"
    )
    made.add_argument(
        "--dataset", default="mnist", metavar="DATASET", help="data set of ours [%(default)s]"
    )
    add_options(made, Folders, ["results_dir"])
    made.add_argument(
        "--published_dir",
        default="",
        metavar="DIR",
        help="results of the group `published` [published, within the results folder]",
    )
    made.add_argument(
        "--output",
        default="docs/reproduction.md",
        metavar="FILE",
        help="file to write [%(default)s]",
    )
    made = command("epsilon", epsilon, "what a training with DP-SGD costs, or the noise it needs")
    made.description = (
        "Say what epsilon a training with DP-SGD has, or how much noise it needs for one. It protects the examples of"
        " the training set, not inputs sent to the finished model. rdp and prv are upper bounds, prv the tighter; gdp"
        " is approximate and can be too low; classic is how many older publications counted."
    )
    for name, kind, default, text in (
        ("examples", int, 40_000, "training examples"),
        ("batch_size", int, 128, "examples of a step on average"),
        ("epochs", float, 10.0, "passes over the training examples"),
        ("delta", float, 1e-5, "delta of the guarantee"),
        ("noise_multiplier", float, None, "standard deviation of the noise over the clip norm"),
        ("target_epsilon", float, None, "epsilon that the training may have"),
    ):
        shown = "" if default is None else " [%(default)s]"
        made.add_argument(
            f"--{name}", type=kind, default=default, metavar=name.upper(), help=f"{text}{shown}"
        )
    made.add_argument("--classic", action="store_true", help="add the classic conversion")
    made = command(
        "federated", run_federated, "clients train together, with and without secure averaging"
    )
    made.description = (
        "Share out the training images among clients, each a process of its own, and train one classifier by federated"
        " averaging with Flower: by SecAgg+, where the server learns the sum of the updates alone, and in the open."
        " Options of DP-SGD make every client train privately."
    )
    add_options(made, FederatedSpec)
    made.add_argument("--secure", action="store_true", help="only with secure averaging")
    made.add_argument("--plain", action="store_true", help="only with averaging in the open")
    add_options(made, ClassifierSpec, FEDERATED_OPTIONS)
    add_options(made, Folders, ["data_dir", "models_dir", "results_dir"])
    made.add_argument(
        "--dry_run", action="store_true", help="print the commands, one a line, and do nothing"
    )
    made = command("figures", figures, "draw every figure from the tables and checkpoints")
    made.add_argument(
        "--dataset",
        default=ClassifierSpec.dataset,
        metavar="DATASET",
        help="data set of the classifiers [%(default)s]",
    )
    made.add_argument("--dry_run", action="store_true", help="print the files and draw nothing")
    add_options(made, Folders)
    made = command("performance", performance, "evaluate every model and attacker without a row")
    made.add_argument("--dataset", default="", metavar="DATASET", help="only models of this set")
    add_options(made, Folders)
    made.add_argument("--dry_run", action="store_true", help="print the commands and do nothing")
    return parser


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def normalise(words: Sequence[str]) -> list[str]:
    """Options with dashes become options with underscores, and commands too; values stay as they are.

    argparse would take the values -inf and -1e-3 for options, hence they are tied to theirs.
    """
    result: list[str] = []
    for position, word in enumerate(words):
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            word = f"--{name[2:].replace('-', '_')}{equals}{value}"
        elif position == 0:
            word = word.replace("-", "_")
        elif word.startswith("-") and result[-1].startswith("--") and _is_number(word):
            word = f"{result.pop()}={word}"
        result.append(word)
    return result


@contextlib.contextmanager
def _interrupted_by(number: signal.Signals) -> Iterator[None]:
    """Who ends a command by this signal, as job schedulers do, has everything kept and tidied up as by Ctrl-C."""

    def interrupt(signal_number: int, frame: types.FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(number, interrupt)
    try:
        yield
    finally:
        signal.signal(number, before)


def main(words: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        words: Command and options; by default those of the process.

    Returns:
        0 done, 1 if members of a group or a cluster failed, 2 bad input (one line on standard error says what), 130
        interrupted, by Ctrl-C or SIGTERM.
    """
    keep_memory()
    try:
        options = make_parser().parse_args(normalise(sys.argv[1:] if words is None else words))
        with _interrupted_by(signal.SIGTERM):
            path = options.action(options)
    except SystemExit as stop:
        return int(stop.code or 0)
    except UsageError as error:
        print(f"dpsnn: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"dpsnn: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except (GroupFailed, ClusterFailed) as error:
        print(f"dpsnn: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "dpsnn: interrupted; call again to go on from the last finished epoch", file=sys.stderr
        )
        return 130
    if path is not None:
        print(path)
    return 0


def script(name: str) -> NoReturn:
    """What the files in scripts/ call."""
    raise SystemExit(main([name, *sys.argv[1:]]))


if __name__ == "__main__":
    raise SystemExit(main())
