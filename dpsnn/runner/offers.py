"""The options of a command that runs a list of experiments; nothing here imports torch."""

import argparse
from collections.abc import Sequence
from typing import Any

from dpsnn.folders import Folders
from dpsnn.options import WholeNumbers, add_options
from dpsnn.runner.engines import Where
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
    parser.set_defaults(max_epochs_given=False, **vars(Where(jobs=jobs or 1)), **defaults)
    if jobs:
        where_options(parser, jobs)


def where_options(parser: argparse.ArgumentParser, jobs: int = 1) -> None:
    """Add those that say where jobs run, and how many at a time unless told otherwise."""
    parser.set_defaults(**vars(Where(jobs=jobs)))
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="made at a time, members of a group or attacks of an audit, each in a process of its own with its share of"
        " the cores [%(default)s]",
    )
    parser.add_argument(
        "--engine",
        metavar="ENGINE",
        help="what starts these processes: local: this machine; submitit: SLURM, as arrays of jobs, where there is"
        " sbatch (extra slurm); ray: Ray, here or on a cluster (extra ray). Whichever it is, the same command goes on"
        " after anything that was lost, and all machines must share the folders [%(default)s]",
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="cores of a job: weights are equal to the last bit for equal threads, on one machine [its share of the"
        " cores; on a cluster 1]",
    )
    parser.add_argument(
        "--gpus_per_job",
        type=float,
        metavar="GPUS",
        help="with Ray: GPUs of a job, or its share of one: 0.25 puts four jobs on each; without it jobs see none",
    )
    parser.add_argument(
        "--ray_address",
        metavar="ADDRESS",
        help="with Ray: a cluster that runs already, HOST:PORT, or auto on one of its machines [Ray on this machine]",
    )
    parser.add_argument(
        "--slurm",
        nargs="+",
        metavar="KEY=VALUE",
        help="with submitit: what a job asks SLURM for: partition=NAME time=MINUTES gpus_per_node=1 mem=8GB"
        " account=NAME; a job whose time is up is queued again and goes on [time=240]",
    )
