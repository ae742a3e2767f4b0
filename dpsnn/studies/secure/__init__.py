"""Encrypted inference: what three workers cost and see."""

import argparse

from dpsnn.runner.offers import group_options
from dpsnn.runner.study import Command, Study
from dpsnn.studies.secure.options import add_commands


def _options(parser: argparse.ArgumentParser) -> None:
    group_options(parser)
    add_commands(parser)


STUDY = Study(
    order=5,
    commands=(
        Command(
            name="secure",
            action="dpsnn.studies.secure.study:run_secure",
            heading="many parties",
            experiments="dpsnn.studies.secure.study:secure_experiments",
            options=_options,
        ),
    ),
)
