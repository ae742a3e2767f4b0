"""Processes on this machine, each with its share of the cores: small networks leave most of a large machine idle."""

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from dpsnn import signals
from dpsnn.orphans import end_with
from dpsnn.runner.engines.base import Engine, Job, Outcome, packed, perform


class Local(Engine):
    """A pool of one process for each place, so that one which is killed, perhaps for lack of memory, takes no other
    with it."""

    def __init__(self, jobs: int, threads: int | None = None, logs: str = "") -> None:
        super().__init__(jobs, threads, logs)
        self._idle: list[ProcessPoolExecutor] = []
        self._busy: dict[Future[Outcome], ProcessPoolExecutor] = {}

    def _start(self, jobs: Sequence[Job]) -> list[Future[Outcome]]:
        started = []
        for job in jobs:
            pool = self._idle.pop() if self._idle else processes(1)
            with signals.blocked():
                future = pool.submit(perform, self.place, packed(job))
            self._busy[future] = pool
            started.append(future)
        return started

    def _until_one_ends(self) -> list[Future[Outcome]]:
        ended = super()._until_one_ends()
        for future in ended:
            pool = self._busy.pop(future)
            if isinstance(future.exception(), BrokenProcessPool):
                pool.shutdown()
            else:
                self._idle.append(pool)
        return ended

    def _close(self) -> None:
        if self._running:
            # Not terminated: Lightning would finish the epoch. Each has kept its last one.
            for child in multiprocessing.active_children():
                child.kill()
        for pool in (*self._idle, *self._busy.values()):
            pool.shutdown(cancel_futures=True)


def processes(jobs: int) -> ProcessPoolExecutor:
    """A pool that, with Python's own process beside it, never hears what goes to a whole group.

    Args:
        jobs: Processes.
    """
    spawn = multiprocessing.get_context("spawn")
    with signals.blocked():
        # The locks of the pool start Python's tracker of resources, which is deaf to Ctrl-C but not to SIGHUP.
        # A process would go on with what is queued.
        return ProcessPoolExecutor(jobs, spawn, end_with, (os.getpid(),))
