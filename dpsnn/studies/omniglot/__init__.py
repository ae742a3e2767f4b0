"""The RStudio AI blog of May 2020: DP-SGD on Omniglot's alphabets, and characters rebuilt."""

from argparse import ArgumentParser

from dpsnn.runner.offers import group_options
from dpsnn.runner.study import Command, Study


def _options(parser: ArgumentParser) -> None:
    group_options(parser, jobs=1, dataset="omniglot")
    parser.add_argument(
        "--protocol",
        default="",
        metavar="PROTOCOL",
        help="targets of one alone: published, with its flaws, or fair, without them; each takes about half of the time"
        " [both]",
    )


STUDY = Study(
    order=2,
    commands=(
        Command(
            name="omniglot",
            action="dpsnn.studies.omniglot.study:run_omniglot",
            experiments="dpsnn.studies.omniglot.study:omniglot_experiments",
            options=_options,
        ),
    ),
    figures="dpsnn.studies.omniglot.figures:FIGURES",
    title="DP-SGD on Omniglot",
    ledger="dpsnn.studies.omniglot.ledger:section",
)
