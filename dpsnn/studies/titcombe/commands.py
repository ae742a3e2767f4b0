"""What the commands of this study do with their options."""

import argparse
from pathlib import Path

from dpsnn.evaluation import tables
from dpsnn.evaluation.summary import write_summaries
from dpsnn.folders import Folders
from dpsnn.runner import run
from dpsnn.runner.figures import draw, write_texts
from dpsnn.runner.group import (
    for_seeds,
    group_specs,
    make_ahead,
    print_commands,
    run_study,
)
from dpsnn.runner.progress import GroupFailed
from dpsnn.runner.tracking import summarise
from dpsnn.studies.titcombe.demo import check_demo, demo, demo_experiments
from dpsnn.studies.titcombe.groups import GROUPS
from dpsnn.studies.titcombe.headline import headline
from dpsnn.studies.titcombe.published import published, published_experiments


def run_demo(options: argparse.Namespace) -> Path | None:
    base, attacker, judge, folders = group_specs(options)
    if options.dry_run:
        print_commands(demo_experiments(base, attacker), judge, folders)
        return None
    check_demo(folders)
    make_ahead(options, demo_experiments(base, attacker), judge, folders)
    text, table = demo(base, attacker, judge, folders)
    print(f"{text}\n")
    return table


def run_group(options: argparse.Namespace) -> Path | None:
    base, attacker, judge, folders = group_specs(options)
    experiments = for_seeds(GROUPS[options.command], options, base, attacker)
    if options.dry_run:
        print_commands(experiments, judge, folders)
        return None
    if options.command == "all":
        experiments = run.reachable(experiments, folders)
    make_ahead(options, experiments, judge, folders)
    try:
        trained = run.run(experiments, judge, folders, options.command)
    except GroupFailed:
        # What the other members gave is not lost.
        _conclude(options.command, base.dataset, folders)
        raise
    _conclude(options.command, base.dataset, folders)
    if options.command == "headline":
        print(*headline(trained, folders), sep="\n")
    return tables.attackers_table(folders.results_dir)


def _conclude(group: str, dataset: str, folders: Folders) -> None:
    """What is made of the tables of a group: summaries, for `all` texts and figures, and the mirror in W&B."""
    # Figures and texts show the strongest attackers, which the summaries choose.
    summaries = write_summaries(folders.results_dir)
    drawn = draw(folders, dataset) if group == "all" else []
    texts = write_texts(folders, dataset) if group == "all" else []
    written = [*texts, tables.models_table(folders.results_dir), *summaries]
    for path in (*drawn, *written):
        if path.exists():
            print(path)
    if folders.wandb:
        summarise(group, dataset, Path(folders.results_dir), drawn)


def run_published(options: argparse.Namespace) -> Path | None:
    return run_study(options, published_experiments, published)
