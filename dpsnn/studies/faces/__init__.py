"""AIJack's tutorial: MI-FACE against classifiers of people, with and without DP-SGD."""

import argparse

from dpsnn.runner.offers import group_options
from dpsnn.runner.study import Command, Study


def _options(parser: argparse.ArgumentParser) -> None:
    group_options(parser, jobs=1, dataset="faces")
    parser.add_argument(
        "--iterations", type=int, metavar="STEPS", help="limit of every attack (default: its own)"
    )


STUDY = Study(
    order=4,
    commands=(
        Command(
            name="faces",
            action="dpsnn.studies.faces.commands:run_faces",
            experiments="dpsnn.studies.faces.study:faces_experiments",
            options=_options,
        ),
    ),
    title="MI-FACE on faces",
    ledger="dpsnn.studies.faces.ledger:section",
)
