"""The `dpsnn` command; the files in scripts/ are doors to its subcommands."""

from dpsnn import signals

if __name__ == "__main__":
    signals.watch()  # before anything is imported that takes time

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from dpsnn.errors import GateFailed, UsageError, WorkFailed, one_line, spelled
from dpsnn.given import OPTIONS, Misplaced, given
from dpsnn.memory import keep_memory
from dpsnn.options import Parser, Version, check_choices, check_data_dir, listed
from dpsnn.own_commands import FIRST, LAST
from dpsnn.runner.study import named, studies
from dpsnn.tidy import tidy

FOLDERS = ("models_dir", "results_dir", "data_dir")
"""In which commands write."""

UNHEARD = 141
"""Exit code where standard output or error is a pipe that nobody reads any more: 128 + SIGPIPE."""


# ---------------------------------------------------------------- command line


def make_parser(chosen: str | None = None) -> Parser:
    """The command line.

    Args:
        chosen: The command whose options are wanted, as all others only need their names; None for those of every one.
    """
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
        if chosen not in (None, command.name):
            continue
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
        options = make_parser(next(iter(typed), "")).parse_args(typed)
        check_choices(options)
        check_data_dir(options)
        action = named(options.action)
        keep_memory()
        with signals.interruptible():
            if options.tidies and not getattr(options, "dry_run", False):
                tidy(**{name: getattr(options, name, "") for name in FOLDERS})
            path = action(options)
        if path is not None and path.exists():
            print(spelled(str(path)))
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
