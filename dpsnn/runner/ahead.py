"""Members of a group made several at a time, each in a process of its own, before the group goes through them in order.

Going through them in order then skips what is finished and makes anew what failed here, so that nothing but the time
depends on what happens here. Small networks leave most cores of a large machine idle; several of them do not.
"""

import contextlib
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from dpsnn import checkpoints, signals
from dpsnn.data import DATASETS
from dpsnn.memory import keep_memory
from dpsnn.orphans import end_with
from dpsnn.runner import beforehand
from dpsnn.runner.experiment import Experiment
from dpsnn.runner.progress import note
from dpsnn.runner.run import finished_classifier, is_finished, merge, run
from dpsnn.runner.train import Folders, train_classifier
from dpsnn.specs import ClassifierSpec, replace


def threads_of(jobs: int) -> int:
    """Threads of one process: its share of the cores, one at least."""
    return max(1, (os.cpu_count() or 1) // jobs)


def missing(
    experiments: Sequence[Experiment], folders: Folders
) -> tuple[list[Experiment], dict[Experiment, list[Experiment]]]:
    """Members that are not there: what can be made now, classifiers first, and the attackers that wait for each.

    Raises:
        UsageError: If a name is taken by other arguments.
    """
    classifiers: list[Experiment] = []
    attackers: list[Experiment] = []
    later = {}
    for experiment in merge(experiments):
        classifier = experiment.classifier
        path = finished_classifier(classifier, folders)
        left = [
            Experiment(classifier, (attacker,))
            for attacker in experiment.attackers
            if not (path and is_finished(replace(attacker, model=path.name), folders))
        ]
        if path:
            attackers += left
        else:
            classifiers.append(Experiment(classifier, ()))
            later[classifiers[-1]] = left
    return [*classifiers, *attackers], later


def ahead(
    experiments: Sequence[Experiment],
    judge: ClassifierSpec,
    folders: Folders,
    group: str,
    jobs: int,
) -> None:
    """Train and evaluate a group with `jobs` processes; what fails is left to `run`, which says so.

    Args:
        experiments: As for `run`.
        judge: As for `run`.
        folders: Where to read and write; `jobs` in its logs holds what each process says.
        group: Name of the group.
        jobs: Members at a time.

    Raises:
        UsageError: If data cannot be reached, or a name is taken by other arguments.
    """
    now, later = missing(experiments, folders)
    total = len(now) + sum(map(len, later.values()))
    if not total:
        return
    beforehand.check(experiments, judge, folders)
    if DATASETS[judge.dataset].judged:
        # Every attacker waits for it.
        train_classifier(judge, folders, group)
    pool = processes(jobs)

    def start(member: Experiment) -> "Future[str]":
        with signals.blocked():
            return pool.submit(_make, member, judge, folders, group)

    done = 0
    try:
        # What runs, and what can be made when that is there.
        pending = {start(member): later.get(member, []) for member in now}
        while pending:
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                done += 1
                note(f"[{group}: {done} of {total} ahead] {_outcome(future)}")
                then = pending.pop(future)
                if future.exception() is None:
                    pending |= {start(member): [] for member in then}
    except BrokenProcessPool:
        note("a process was ended from outside, perhaps for lack of memory; going on one at a time")
    except BaseException:
        # Not terminated: Lightning would finish the epoch. Each has kept its last one.
        for child in multiprocessing.active_children():
            child.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def processes(jobs: int) -> ProcessPoolExecutor:
    """A pool that, with Python's own process beside it, never hears what goes to a whole group.

    Args:
        jobs: Processes, each with its share of the cores.
    """
    spawn = multiprocessing.get_context("spawn")
    with signals.blocked():
        # The locks of the pool start Python's tracker of resources, which is deaf to Ctrl-C but not to SIGHUP.
        return ProcessPoolExecutor(jobs, spawn, _begin, (threads_of(jobs), os.getpid()))


def _begin(threads: int, parent: int) -> None:
    end_with(parent)  # the process would go on with what is queued
    torch.set_num_threads(threads)
    keep_memory()


def _make(member: Experiment, judge: ClassifierSpec, folders: Folders, group: str) -> str:
    """In a process of the pool: a classifier, or one attacker of a finished one, with its row. Returns its name."""
    logs = Path(folders.results_dir) / "logs" / "jobs"
    checkpoints.ensure_writable(logs)
    with (
        open(logs / f"{os.getpid()}.txt", "a", encoding="utf-8") as log,
        contextlib.redirect_stderr(log),
        contextlib.redirect_stdout(log),
    ):
        ((_, classifier, attackers),) = run([member], judge, folders, group)
    return (attackers or [classifier])[0].name.removesuffix(".ckpt")


def _outcome(future: "Future[str]") -> str:
    """The name of what was made, or why not."""
    try:
        return future.result()
    except BrokenProcessPool:
        raise
    except Exception as error:  # it comes up again in order, and is told then
        return f"failed for now: {' '.join(str(error).split())}"
