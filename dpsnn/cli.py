"""The `dpsnn` command; the files in scripts/ are doors to its subcommands."""

from dpsnn import signals

if __name__ == "__main__":
    signals.watch()  # before anything is imported that takes time

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

from dpsnn.audit.calibrate_options import COMMAND as CALIBRATE
from dpsnn.audit.gate import add_gate_options
from dpsnn.audit.options import COMMAND as AUDIT
from dpsnn.bench.options import BENCH
from dpsnn.devices import Devices
from dpsnn.errors import GateFailed, UsageError, WorkFailed, one_line
from dpsnn.folders import Folders
from dpsnn.given import OPTIONS, Misplaced, given
from dpsnn.integrity.options import COMMANDS as INTEGRITY
from dpsnn.memory import keep_memory
from dpsnn.options import Parser, Version, add_options, check_choices, check_data_dir, listed
from dpsnn.runner.study import GOES_ON, Command, named, studies
from dpsnn.specs import AttackerSpec, ClassifierSpec
from dpsnn.tidy import tidy

FOLDERS = ("models_dir", "results_dir", "data_dir")
"""In which commands write."""

UNHEARD = 141
"""Exit code where standard output or error is a pipe that nobody reads any more: 128 + SIGPIPE."""


# ---------------------------------------------------------------- command line


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
"""Our own commands: in `dpsnn --help` those of the studies stand between them."""


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
    headings: dict[str, list[str]] = {}
    for command in (
        *FIRST,
        *(each for study in studies() for each in study.commands),
        *LAST,
    ):
        if command.name in said:
            raise UsageError(f"two studies bring a command {command.name}; rename one")
        said[command.name] = line = command.line()
        headings.setdefault(command.heading, []).append(command.name)
        about = command.about or f"{line[0].upper()}{line[1:]}."
        # argparse formats it.
        made = commands.add_parser(command.name, description=about.replace("%", "%%"))
        made.set_defaults(action=command.action, resume=command.resume, tidies=command.tidies)
        command.options(made)
        for name, (value, text) in OPTIONS.items():
            # Taken out of what is typed before it comes here: for `--help` alone.
            made.add_argument(f"--{name}", metavar=value, help=text, action=Misplaced)
    parser.epilog = f"{listed(said, headings)}\n\nEach says more: dpsnn COMMAND --help"
    return parser


# ---------------------------------------------------------------- the process


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


def main(words: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        words: Command and options; by default those of the process.

    Returns:
        0 done, 1 if members of a group or a cluster failed or results are not as they were left, 2 bad input (one line
        on standard error says what), 3 a gate failed, 130 interrupted, by Ctrl-C, SIGTERM or SIGHUP, 141 if nobody
        reads its output any more.
    """
    options = argparse.Namespace(resume="")
    try:
        typed = given(normalise(sys.argv[1:] if words is None else words))
        options = make_parser().parse_args(typed)
        check_choices(options)
        check_data_dir(options)
        action = named(options.action)
        keep_memory()
        with signals.interruptible():
            if options.tidies and not getattr(options, "dry_run", False):
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
    except GateFailed as error:
        return _end(3, error)
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
