"""Attacks of an audit made elsewhere before it goes through them in order: a job for each cut and seed.

What an attack finds lies in the folder of the audit, under a digest of all that it follows from; so the audit takes
what a job made, and makes itself whatever was lost or came out otherwise.
"""

import argparse
from typing import Any

import torch

from dpsnn.audit.cuts import Cut
from dpsnn.audit.one_cut import Task, attacked
from dpsnn.audit.options import arguments
from dpsnn.audit.progress import Progress
from dpsnn.audit.run import Audit, Opened, opened, say_replaced
from dpsnn.audit.sides import Sides
from dpsnn.audit.wire import Wire
from dpsnn.runner.ahead import job_logs, own_log, work_off
from dpsnn.runner.engines.base import Engine, Job
from dpsnn.runner.group import where_of


def make_ahead(options: argparse.Namespace) -> None:
    """Attack where the options say, one job for each cut and seed; nothing where that is here and one by one.

    Raises:
        UsageError: As `audit`, and if the engine cannot be had.
    """
    where = where_of(options)
    if where.is_apart:
        with where.start(str(job_logs(options.out))) as engine:
            torch.set_num_threads(engine.threads)
            attack_ahead(arguments(options), options.out, engine)
    elif where.threads:
        torch.set_num_threads(where.threads)


def attack_ahead(given: dict[str, Any], out: str, engine: Engine) -> None:
    """As `make_ahead`, with the arguments of an audit, its folder, and an engine that is closed by the caller."""
    found = opened(**given, out=out)
    say_replaced(found)
    waiting: dict[Job, set[Job]] = {}
    for name in cuts_of(found):
        for seed in found.seeds:
            told = ({**given, "cuts": [name]}, out, seed)
            waiting[Job(f"cut {name}, seed {seed}", attack_one, told)] = set()
    work_off(waiting, engine, "audit")


def cuts_of(found: Opened) -> list[str]:
    """Names of the cuts that are asked for; of pairs, which have no model, that of all."""
    if found.found.model is None:
        return found.names
    cuts, _ = found.found.model.cuts(found.found.sides.image_shape, found.names)
    return [cut.name for cut in cuts]


def attack_one(given: dict[str, Any], out: str, seed: int) -> str:
    """Where a job runs: every attack with one seed at the one cut that is named."""
    with own_log(job_logs(out)):
        found = opened(**given, out=out)
        _Attacks(found, [seed])
    return f"cut {', '.join(found.names)}, seed {seed}"


class _Attacks(Audit):
    """Makes the attacks, and says nothing of what came of them."""

    def _one(
        self, cut: Cut | None, wire: Wire, sides: Sides, task: Task, progress: Progress
    ) -> None:
        attacked(wire, task, progress)
