"""Our own commands, those of no study, and their options; nothing here imports torch."""

import argparse
from collections.abc import Callable
from functools import partial

from dpsnn.audit.calibrate_options import COMMAND as CALIBRATE
from dpsnn.audit.gate import add_gate_options
from dpsnn.audit.options import COMMAND as AUDIT
from dpsnn.bench.options import BENCH
from dpsnn.devices import Devices
from dpsnn.folders import Folders
from dpsnn.integrity.options import COMMANDS as INTEGRITY
from dpsnn.options import add_options
from dpsnn.runner.study import GOES_ON, Command, studies
from dpsnn.specs import AttackerSpec, ClassifierSpec

# What adds its options to a parser, for each of our own commands; those of studies come with them.


def _train_model(parser: argparse.ArgumentParser) -> None:
    add_options(parser, ClassifierSpec)
    add_options(parser, Devices)
    add_options(parser, Folders)


def _train_attacker(parser: argparse.ArgumentParser) -> None:
    add_options(parser, AttackerSpec)
    parser.add_argument(
        "--dataset", default="", metavar="DATASET", help="check that the model was trained on it"
    )
    add_options(parser, Folders)


def _evaluate_models(parser: argparse.ArgumentParser, what: str = "classifiers") -> None:
    parser.add_argument("--model", nargs="+", metavar="NAME", help=f"{what} to evaluate, by name")
    parser.add_argument(
        "--all", action="store_true", help="evaluate again what has an up-to-date row already"
    )
    parser.add_argument(
        "--dataset", default="", metavar="DATASET", help="only models of this data set"
    )
    add_options(parser, Folders)


def _evaluate_attackers(parser: argparse.ArgumentParser) -> None:
    _evaluate_models(parser, "attackers")
    parser.add_argument(
        "--validation_model",
        default="",
        metavar="NAME",
        help="the judge [the data set's validator]",
    )


def _plot_attack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="NAME", help="the classifier")
    parser.add_argument("--attacker", nargs="+", metavar="NAME", help="its attackers, one row each")
    parser.add_argument("--savepath", metavar="FILE", help="where to write (.png, .pdf or .svg)")
    add_options(parser, Folders)


def _performance(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", default="", metavar="DATASET", help="only models of this set")
    add_options(parser, Folders)
    parser.add_argument("--dry_run", action="store_true", help="print the commands and do nothing")


def _figures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset",
        default=ClassifierSpec.dataset,
        metavar="DATASET",
        help="data set of the classifiers [%(default)s]",
    )
    parser.add_argument("--dry_run", action="store_true", help="print the files and draw nothing")
    add_options(parser, Folders)


def _ledger(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset", default="mnist", metavar="DATASET", help="data set of ours [%(default)s]"
    )
    add_options(parser, Folders, ["results_dir"])
    for study in studies():
        study.ledger_options(parser)
    parser.add_argument(
        "--output",
        default="docs/reproduction.md",
        metavar="FILE",
        help="file to write [%(default)s]",
    )


def _epsilon(parser: argparse.ArgumentParser) -> None:
    for name, kind, default, text in (
        ("examples", int, 40_000, "training examples"),
        ("batch_size", int, 128, "examples of a step on average"),
        ("epochs", float, 10.0, "passes over the training examples"),
        ("delta", float, 1e-5, "delta of the guarantee"),
        ("noise_multiplier", float, None, "standard deviation of the noise over the clip norm"),
        ("target_epsilon", float, None, "epsilon that the training may have"),
    ):
        shown = "" if default is None else " [%(default)s]"
        parser.add_argument(
            f"--{name}", type=kind, default=default, metavar=name.upper(), help=f"{text}{shown}"
        )
    parser.add_argument("--classic", action="store_true", help="add the classic conversion")


def _report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "audit", metavar="AUDIT.json", help="what `dpsnn audit` wrote, or its folder"
    )
    parser.add_argument(
        "--savepath", default="", metavar="FILE.html", help="where to write [report.html beside it]"
    )
    add_gate_options(parser)


def _own(
    heading: str,
    name: str,
    options: Callable[[argparse.ArgumentParser], object],
    said: str,
    resume: str = "",
    about: str = "",
) -> Command:
    return Command(
        name=name,
        action=f"dpsnn.commands:{name}",
        heading=heading,
        said=said,
        about=about,
        options=options,
        resume=resume,
    )


_first = partial(_own, "train and evaluate")
_last = partial(_own, "tables, figures and accounts")

FIRST = (
    AUDIT,
    CALIBRATE,
    Command(
        name="report",
        action="dpsnn.audit.report:report",
        heading="audit a model",
        said="make the page of an audit anew, and check it against limits or an earlier audit",
        options=_report,
        resume="",
    ),
    _first(
        "train_model",
        _train_model,
        "train one split classifier with its defences",
        resume=GOES_ON,
    ),
    _first("train_attacker", _train_attacker, "train one attacker of a classifier", resume=GOES_ON),
    _first(
        "evaluate_models", _evaluate_models, "write accuracy and leakage of classifiers to a table"
    ),
    _first(
        "evaluate_attackers", _evaluate_attackers, "write the reconstructions' scores to a table"
    ),
    _first("plot_attack", _plot_attack, "draw originals above an attacker's reconstructions"),
)
LAST = (
    _last("performance", _performance, "evaluate every model and attacker without a row"),
    _last("figures", _figures, "draw every figure from the tables and checkpoints"),
    _last(
        "parts",
        lambda parser: parser.add_argument(
            "--markdown", action="store_true", help="as the tables of docs/parts.md"
        ),
        "list every part there is, with its options, papers, and why it cannot be used here",
    ),
    *INTEGRITY,
    BENCH,
    _last("ledger", _ledger, "set the published figures beside ours, and say why they differ"),
    _last(
        "epsilon",
        _epsilon,
        "what a training with DP-SGD costs, or the noise it needs",
        about="Say what epsilon a training with DP-SGD has, or how much noise it needs for one. It protects the"
        " examples of the training set, not inputs sent to the finished model. rdp and prv are upper bounds, prv the"
        " tighter; gdp is approximate and can be too low; classic is how many older publications counted.",
    ),
)
"""In `dpsnn --help` those of the studies stand between them."""
