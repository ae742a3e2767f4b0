"""Federated training: what secure averaging costs, and what the server learns."""

import argparse

from dpsnn import parts
from dpsnn.federated.spec import FederatedSpec
from dpsnn.folders import Folders
from dpsnn.options import add_options
from dpsnn.runner.study import Command, Study
from dpsnn.specs import ClassifierSpec

OPEN = (
    *("dataset", "network", "cut", "norm", "dropout"),
    *("seed", "batch_size", "learning_rate", "sgd_momentum"),
)
"""What a client may choose for its own training, besides its defences; a schedule would need the whole training in one
place."""


def _open() -> list[str]:
    every = (made for each in parts.declared("defence") for made in each.options)
    return [*OPEN, *(made.name for made in every if not made.whole)]


def _options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, FederatedSpec)
    parser.add_argument("--secure", action="store_true", help="only with secure averaging")
    parser.add_argument("--plain", action="store_true", help="only with averaging in the open")
    add_options(parser, ClassifierSpec, _open())
    add_options(parser, Folders, ["data_dir", "models_dir", "results_dir"])
    parser.add_argument(
        "--dry_run", action="store_true", help="print the commands, one a line, and do nothing"
    )


STUDY = Study(
    order=6,
    commands=(
        Command(
            name="federated",
            action="dpsnn.studies.federated.study:run_federated",
            heading="many parties",
            said="clients train together, with and without secure averaging",
            about=(
                "Share out the training images among clients, each a process of its own, and train one classifier by"
                " federated averaging with Flower: by SecAgg+, where the server learns the sum of the updates alone,"
                " and in the open. Options of DP-SGD make every client train privately."
            ),
            options=_options,
            resume="",
        ),
    ),
)
