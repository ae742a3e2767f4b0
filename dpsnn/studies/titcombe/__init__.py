"""Titcombe et al. 2021: a split MNIST classifier, noise on the wire and NoPeek, and who attacks them."""

import argparse
from functools import partial

from dpsnn.runner.offers import group_options
from dpsnn.runner.study import Command, Study
from dpsnn.studies.titcombe.groups import GROUPS

OPEN = (
    "dataset",
    "network",
    "nopeek_exponent",
    "seed",
    "batch_size",
    "learning_rate",
    "precision",
)
"""What a group leaves open; each of its members has its own defences."""

DEMO = Command(
    name="demo",
    action="dpsnn.studies.titcombe.commands:run_demo",
    heading="groups of experiments",
    said="four defences on small digits, offline, with a picture",
    options=partial(
        group_options,
        classifier=OPEN,
        attacker=["surrogate"],
        seeds=False,
        jobs=1,
        results_dir="results/demo",
        models_dir="models/demo",
    ),
)


def _group(name: str) -> Command:
    return Command(
        name=name,
        action="dpsnn.studies.titcombe.commands:run_group",
        heading="groups of experiments",
        experiments=f"dpsnn.studies.titcombe.groups:{GROUPS[name].__name__}",
        options=partial(group_options, classifier=OPEN, attacker=["surrogate"], jobs=1),
    )


PUBLISHED = Command(
    name="published",
    action="dpsnn.studies.titcombe.commands:run_published",
    experiments="dpsnn.studies.titcombe.published:published_experiments",
    options=partial(
        group_options, jobs=1, results_dir="results/published", models_dir="models/published"
    ),
)


def _ledger_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--published_dir",
        default="",
        metavar="DIR",
        help="results of the group `published` [published, within the results folder]",
    )


STUDY = Study(
    order=1,
    commands=(DEMO, *map(_group, GROUPS), PUBLISHED),
    figures="dpsnn.studies.titcombe.figures:FIGURES",
    texts="dpsnn.studies.titcombe.paper:write_paper",
    ledger="dpsnn.studies.titcombe.ledger:section",
    ledger_options=_ledger_options,
)
