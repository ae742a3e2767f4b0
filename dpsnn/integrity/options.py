"""The options of `dpsnn verify` and `dpsnn clean`; nothing here imports torch."""

import argparse

from dpsnn.folders import Folders
from dpsnn.options import add_options
from dpsnn.runner.study import Command

HEADING = "tables, figures and accounts"


def _verify(parser: argparse.ArgumentParser) -> None:
    add_options(parser, Folders, ["models_dir", "results_dir"])
    parser.add_argument(
        "--accept",
        nargs="*",
        metavar="FILE",
        help="list these files, or all, as they are now: they are right, whoever made them so",
    )


def _clean(parser: argparse.ArgumentParser) -> None:
    add_options(parser, Folders, ["models_dir", "results_dir"])
    parser.add_argument(
        "--orphans",
        action="store_true",
        help="attackers whose classifier is gone as well, and what victims lost to attackers without a row",
    )
    parser.add_argument("--yes", action="store_true", help="remove it without asking")
    parser.add_argument("--dry_run", action="store_true", help="name it and remove nothing")


COMMANDS = (
    Command(
        name="verify",
        action="dpsnn.integrity.commands:verify",
        heading=HEADING,
        said="find what is missing, changed or belongs to nothing in the folders of models and results",
        about="Compare every checkpoint, table and figure with the digest that it was written with, every row with its"
        " checkpoint and every attacker with its classifier. A line for each that is wrong says what to do; the exit"
        " code is 1 if there is any. Nothing is changed, but for --accept.",
        options=_verify,
        resume="",
        tidies=False,
    ),
    Command(
        name="clean",
        action="dpsnn.integrity.commands:clean",
        heading=HEADING,
        said="name what unfinished work has left in these folders, and remove it when told to",
        options=_clean,
        resume="",
        tidies=False,
    ),
)
