"""The `dpsnn` command; the files in scripts/ are doors to its subcommands."""

from dpsnn import signals

if __name__ == "__main__":
    signals.watch()  # before anything is imported that takes time

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dpsnn import source
from dpsnn.errors import UsageError, WorkFailed, one_line
from dpsnn.federated.spec import FederatedSpec
from dpsnn.folders import Folders
from dpsnn.memory import keep_memory
from dpsnn.options import (
    Parser,
    Version,
    WholeNumbers,
    add_options,
    check_choices,
    check_data_dir,
    listed,
)
from dpsnn.secure.options import add_commands
from dpsnn.specs import AttackerSpec, ClassifierSpec
from dpsnn.studies.titcombe.groups import GROUPS
from dpsnn.tidy import tidy

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
    "repeatable_noise",
    "seed",
    "batch_size",
    "learning_rate",
    "sgd_momentum",
)
"""What a client may choose for its own training; a budget or a schedule would need the whole training in one place."""

COMMANDS = {
    "train and evaluate": (
        "train_model",
        "train_attacker",
        "evaluate_models",
        "evaluate_attackers",
        "plot_attack",
    ),
    "groups of experiments": ("demo", *GROUPS),
    "studies": ("published", "omniglot", "suppress", "faces"),
    "many parties": ("secure", "federated"),
    "tables, figures and accounts": ("performance", "figures", "ledger", "epsilon"),
}
"""Headings of `dpsnn --help` and the commands below them."""

FOLDERS = ("models_dir", "results_dir", "data_dir")
"""In which commands write."""

GOES_ON = "; call again to go on from the last finished epoch"
"""What an interrupted training says of itself."""

UNHEARD = 141
"""Exit code where standard output or error is a pipe that nobody reads any more: 128 + SIGPIPE."""

PROTOCOL_OPTIONS = ("dataset", "seed", "precision")
"""What the published protocol leaves open."""


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
    parser.set_defaults(resume=GOES_ON)


def _folder_options(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    add_options(parser, Folders, names)


def _seeds_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seeds",
        action=WholeNumbers,
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


def _said(text: str) -> str:
    """What a group is, as its function says in a docstring, to stand after its name."""
    text = " ".join(text.split("\n\n")[0].split()).rstrip(".")
    # Not where a name begins it, such as LeNet-5.
    return f"{text[0].lower()}{text[1:]}" if text.split()[0][1:].islower() else text


def make_parser() -> Parser:
    """The whole command line."""
    parser = Parser(
        prog="dpsnn",
        usage="%(prog)s COMMAND [options]",
        description="Measure how much of a private input leaks out of a split neural network.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=Version, nargs=0, help="print versions, and end")
    commands = parser.add_subparsers(
        prog="dpsnn", dest="command", metavar="COMMAND", required=True, help=argparse.SUPPRESS
    )
    said: dict[str, str] = {}

    def command(name: str, action: str, text: str) -> Parser:
        said[name] = text
        text = text.replace("%", "%%")  # argparse formats it
        made = commands.add_parser(name, description=f"{text[0].upper()}{text[1:]}.")
        made.set_defaults(action=f"dpsnn.commands:{action}", resume="")
        return made

    made = command("train_model", "train_model", "train one split classifier with its defences")
    add_options(made, ClassifierSpec)
    add_options(made, Folders)
    made.set_defaults(resume=GOES_ON)
    made = command("train_attacker", "train_attacker", "train one attacker of a classifier")
    add_options(made, AttackerSpec)
    made.set_defaults(resume=GOES_ON)
    made.add_argument(
        "--dataset", default="", metavar="DATASET", help="check that the model was trained on it"
    )
    add_options(made, Folders)
    made = command(
        "evaluate_models", "evaluate_models", "write accuracy and leakage of classifiers to a table"
    )
    _evaluation_parser(made, "classifiers")
    made = command(
        "evaluate_attackers", "evaluate_attackers", "write the reconstructions' scores to a table"
    )
    _evaluation_parser(made, "attackers")
    made.add_argument(
        "--validation_model",
        default="",
        metavar="NAME",
        help="the judge [the data set's validator]",
    )
    made = command(
        "plot_attack", "plot_attack", "draw originals above an attacker's reconstructions"
    )
    made.add_argument("--model", metavar="NAME", help="the classifier")
    made.add_argument("--attacker", nargs="+", metavar="NAME", help="its attackers, one row each")
    made.add_argument("--savepath", metavar="FILE", help="where to write (.png, .pdf or .svg)")
    add_options(made, Folders)

    made = command("demo", "run_demo", "four defences on small digits, offline, with a picture")
    _group_parser(made, "results/demo", "models/demo")
    for name, experiments in GROUPS.items():
        made = command(name, "run_group", _said(experiments.__doc__ or name))
        _group_parser(made, "results", "models")
        _seeds_option(made)
        _jobs_option(made)
    made = command(
        "published",
        "run_published",
        _said(source.summary("dpsnn.studies.titcombe.published", "published_experiments")),
    )
    _group_parser(made, "results/published", "models/published", protocol=True)
    _seeds_option(made)
    _jobs_option(made)
    made = command(
        "omniglot",
        "run_omniglot",
        _said(source.summary("dpsnn.studies.omniglot.study", "omniglot_experiments")),
    )
    _group_parser(made, "results", "models", protocol=True)
    made.set_defaults(dataset="omniglot")
    _seeds_option(made)
    _jobs_option(made)
    made = command(
        "suppress",
        "run_suppress",
        _said(source.summary("dpsnn.studies.suppress.study", "suppress_experiments")),
    )
    _group_parser(made, "results", "models", protocol=True)
    made.set_defaults(dataset="mnist")
    add_options(made, AttackerSpec, ["steps", "restarts"])
    _seeds_option(made)
    # Batches of 32 for so small a network keep no second core busy.
    made.set_defaults(jobs=2)
    _jobs_option(made)
    made = command(
        "faces",
        "run_faces",
        _said(source.summary("dpsnn.studies.faces.study", "faces_experiments")),
    )
    _group_parser(made, "results", "models", protocol=True)
    made.set_defaults(dataset="faces")
    _seeds_option(made)
    made.add_argument(
        "--iterations", type=int, metavar="STEPS", help="limit of every attack (default: its own)"
    )
    made = command(
        "secure",
        "run_secure",
        _said(source.summary("dpsnn.studies.secure.study", "secure_experiments")),
    )
    _group_parser(made, "results", "models", protocol=True)
    _seeds_option(made)
    add_commands(made, _folder_options)
    made = command(
        "ledger", "ledger", "set the published figures beside ours, and say why they differ"
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
    made = command("epsilon", "epsilon", "what a training with DP-SGD costs, or the noise it needs")
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
        "federated", "run_federated", "clients train together, with and without secure averaging"
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
    made = command("figures", "figures", "draw every figure from the tables and checkpoints")
    made.add_argument(
        "--dataset",
        default=ClassifierSpec.dataset,
        metavar="DATASET",
        help="data set of the classifiers [%(default)s]",
    )
    made.add_argument("--dry_run", action="store_true", help="print the files and draw nothing")
    add_options(made, Folders)
    made = command("performance", "performance", "evaluate every model and attacker without a row")
    made.add_argument("--dataset", default="", metavar="DATASET", help="only models of this set")
    add_options(made, Folders)
    made.add_argument("--dry_run", action="store_true", help="print the commands and do nothing")
    parser.epilog = f"{listed(said, COMMANDS)}\n\nEach says more: dpsnn COMMAND --help"
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
            word = word if word.startswith("-") else word.replace("-", "_")
        elif word.startswith("-") and result[-1].startswith("--") and _is_number(word):
            word = f"{result.pop()}={word}"
        result.append(word)
    return result


def _action(name: str) -> Callable[[argparse.Namespace], Path | None]:
    """The function `module:name`; its module, which may bring torch, is imported now and not before."""
    module, _, function = name.partition(":")
    action: Callable[[argparse.Namespace], Path | None]
    action = getattr(importlib.import_module(module), function)
    return action


def main(words: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        words: Command and options; by default those of the process.

    Returns:
        0 done, 1 if members of a group or a cluster failed, 2 bad input (one line on standard error says what), 130
        interrupted, by Ctrl-C, SIGTERM or SIGHUP, 141 if nobody reads its output any more.
    """
    options = argparse.Namespace(resume="")
    try:
        options = make_parser().parse_args(normalise(sys.argv[1:] if words is None else words))
        check_choices(options)
        check_data_dir(options)
        action = _action(options.action)
        keep_memory()
        with signals.interruptible():
            if not getattr(options, "dry_run", False):
                tidy(**{name: getattr(options, name, "") for name in FOLDERS})
            path = action(options)
        if path is not None and path.exists():
            print(path)
        if sys.stdout:  # None where it was closed before we came
            sys.stdout.flush()
    except SystemExit as stop:
        return int(stop.code or 0)
    except UsageError as error:
        return _end(2, error)
    except BrokenPipeError:
        return UNHEARD
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _end(2, f"{where}{error.strerror or error}")
    except WorkFailed as error:
        return _end(1, error)
    except KeyboardInterrupt:
        return _end(signals.INTERRUPTED, f"interrupted{options.resume}")
    return 0


def _end(code: int, text: object) -> int:
    """Say why, where anybody can still hear it, and give the exit code."""
    with contextlib.suppress(OSError):
        print(f"dpsnn: {one_line(text)}", file=sys.stderr)
    return code


def _let_go() -> None:
    """Drop what could not be written: Python would try again at its very end, and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run(*words: str) -> NoReturn:
    """Be, as a process, the command `words`, followed by what the command line says."""
    signals.watch()
    code = main([*words, *sys.argv[1:]])
    _let_go()
    signals.unwatch()
    raise SystemExit(code)


if __name__ == "__main__":
    run()
