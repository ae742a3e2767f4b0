"""The options of a command that runs a list of experiments; nothing here imports torch."""

import argparse
from collections.abc import Sequence
from typing import Any

from dpsnn.folders import Folders
from dpsnn.options import WholeNumbers, add_options
from dpsnn.specs import AttackerSpec, ClassifierSpec, default_of

PROTOCOL = ("dataset", "seed", "precision")
"""What a published protocol leaves open."""


class _Given(argparse.Action):
    """Store a value and remember that it was given."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, values)
        setattr(namespace, f"{self.dest}_given", True)


def group_options(
    parser: argparse.ArgumentParser,
    classifier: Sequence[str] = PROTOCOL,
    attacker: Sequence[str] = (),
    seeds: bool = True,
    jobs: int | None = None,
    **defaults: Any,
) -> None:
    """Add the options of a group.

    Args:
        parser: Of the command.
        classifier: Settings of classifiers that are open.
        attacker: Settings of attackers that are open.
        seeds: Whether it can be repeated with several seeds.
        jobs: Members made at a time unless told otherwise; None where that is no option.
        defaults: Of options that are not the usual.
    """
    add_options(parser, ClassifierSpec, classifier)
    parser.add_argument(
        "--max_epochs",
        type=int,
        default=ClassifierSpec.max_epochs,
        action=_Given,
        metavar="EPOCHS",
        help="passes over the training images; where given, it limits the attackers too"
        f" [{ClassifierSpec.max_epochs}, attackers {default_of(AttackerSpec, 'max_epochs')}]",
    )
    parser.add_argument(
        "--attacker_epochs", type=int, metavar="EPOCHS", help="passes over the attackers' images"
    )
    parser.set_defaults(surrogate="")
    if attacker:
        add_options(parser, AttackerSpec, attacker)
    add_options(parser, Folders)
    parser.add_argument(
        "--dry_run", action="store_true", help="print the commands, one a line, and do nothing"
    )
    if seeds:
        parser.add_argument(
            "--seeds",
            action=WholeNumbers,
            nargs="+",
            metavar="SEED",
            help="repeat the group with each seed; the tables by seed then carry mean and 95 %% interval",
        )
    parser.set_defaults(max_epochs_given=False, jobs=jobs or 1, **defaults)
    if jobs:
        parser.add_argument(
            "--jobs",
            type=int,
            metavar="N",
            help="members made at a time, each in a process of its own with its share of the cores [%(default)s]",
        )
