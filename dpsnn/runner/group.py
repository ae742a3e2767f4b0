"""What a command that runs a list of experiments does with its options."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import torch

from dpsnn.errors import one_of, passed_on
from dpsnn.evaluation.summary import write_summaries
from dpsnn.folders import Folders
from dpsnn.options import choices, spec_from
from dpsnn.runner import run
from dpsnn.runner.ahead import ahead, job_logs
from dpsnn.runner.engines import Where
from dpsnn.runner.engines.base import Engine
from dpsnn.runner.experiment import Experiment
from dpsnn.specs import AttackerSpec, ClassifierSpec, replace

Ahead = Callable[[Sequence[Experiment], ClassifierSpec, Folders, str, Engine], None]
"""Makes what it can of a group by an engine: as `ahead`."""

Group = Callable[[ClassifierSpec, AttackerSpec], list[Experiment]]
"""What to train and attack, from a classifier and an attacker without defences."""


def group_specs(
    options: argparse.Namespace,
) -> tuple[ClassifierSpec, AttackerSpec, ClassifierSpec, Folders]:
    """Base classifier, base attacker, validator and folders of a group.

    Raises:
        UsageError: If a value is out of range.
    """
    base = spec_from(ClassifierSpec, options)
    defaults = AttackerSpec()
    limited = base.max_epochs if options.max_epochs_given else defaults.max_epochs
    one_of(options.surrogate or base.dataset, choices()["surrogate"], "surrogate")
    where_of(options)  # in range
    epochs = options.attacker_epochs
    with passed_on("max_epochs", "max_epochs" if epochs is None else "attacker_epochs"):
        attacker = AttackerSpec(
            surrogate=options.surrogate,
            seed=base.seed,
            precision=base.precision,
            max_epochs=limited if epochs is None else epochs,
        )
    judge = ClassifierSpec(
        dataset=base.dataset, validator=True, precision=base.precision, max_epochs=base.max_epochs
    )
    return base, attacker, judge, spec_from(Folders, options)


def where_of(options: argparse.Namespace) -> Where:
    said = vars(options)
    """Where members are made, as far as there are options for it; raises UsageError if a value is out of range."""
    return Where(**{each.name: said[each.name] for each in fields(Where) if each.name in said})


def make_ahead(
    options: argparse.Namespace,
    experiments: Sequence[Experiment],
    judge: ClassifierSpec,
    folders: Folders,
    by: Ahead = ahead,
) -> None:
    """Make members where the options say, before the group is gone through in order.

    What is left for that is made with as many threads as a job has: bits must not depend on what was lost.

    Raises:
        UsageError: As for `ahead`, and if the engine cannot be had.
    """
    where = where_of(options)
    threads = where.threads
    if where.is_apart:
        with where.start(str(job_logs(folders.results_dir))) as engine:
            threads = engine.threads
            torch.set_num_threads(threads)
            by(experiments, judge, folders, options.command, engine)
    elif threads:
        torch.set_num_threads(threads)


def seeded(options: argparse.Namespace, base: ClassifierSpec) -> list[ClassifierSpec]:
    """The base with each of the seeds asked for."""
    with passed_on("seed", "seeds"):
        return [replace(base, seed=seed) for seed in options.seeds or [base.seed]]


def for_seeds(
    group: Group, options: argparse.Namespace, base: ClassifierSpec, attacker: AttackerSpec
) -> list[Experiment]:
    """The group once, or with each of the seeds asked for."""
    return [
        experiment
        for each in seeded(options, base)
        for experiment in group(each, replace(attacker, seed=each.seed))
    ]


def print_commands(
    experiments: Sequence[Experiment], judge: ClassifierSpec, folders: Folders
) -> None:
    """Print the commands of a group, one a line."""
    print("\n".join(run.dry_run(experiments, judge, folders)))


def run_study(
    options: argparse.Namespace,
    group: Group,
    perform: Callable[[list[Experiment], ClassifierSpec, Folders], Path],
    judge_of: Callable[[ClassifierSpec], ClassifierSpec] = lambda judge: judge,
    by: Ahead = ahead,
) -> Path | None:
    """A group with a table of its own, which `perform` brings up to date.

    `judge_of` may put another judge in place, and `by` make more than members ahead.
    """
    base, attacker, judge, folders = group_specs(options)
    judge = judge_of(judge)
    experiments = for_seeds(group, options, base, attacker)
    if options.dry_run:
        print_commands(experiments, judge, folders)
        return None
    make_ahead(options, experiments, judge, folders, by)
    table = perform(experiments, judge, folders)
    print(*write_summaries(folders.results_dir), sep="\n")
    return table
