"""An engine for tests that loses jobs and does some twice."""

import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from dpsnn.runner.engines.base import Engine, Job, Outcome, packed, perform


class Unsteady(Engine):
    """Does jobs in this process when it is asked what has ended; some it loses before, some after they were done, and
    some it does twice.

    Args:
        seed: Of what becomes of each.
        lost: Share of those that are lost, half of them before they were begun.
        silent: Whether it forgets, in the end, what it still has.
    """

    def __init__(self, jobs: int, seed: int = 0, lost: float = 0.0, silent: bool = False) -> None:
        super().__init__(jobs, 1)
        self.random, self.lost, self.silent = random.Random(seed), lost, silent
        self.batches: list[list[str]] = []
        self._held: list[tuple[Future[Outcome], Job]] = []
        self.closed = 0

    def _start(self, jobs: Sequence[Job]) -> list[Future[Outcome]]:
        self.batches.append([job.name for job in jobs])
        started = [(Future[Outcome](), job) for job in jobs]
        self._held += started
        return [future for future, _ in started]

    def _until_one_ends(self) -> list[Future[Outcome]]:
        if self.silent:
            self._running.clear()
            return []
        future, job = self._held.pop(self.random.randrange(len(self._held)))
        fate = self.random.random()
        if fate < self.lost / 2:
            future.set_exception(OSError("gone\nbefore"))
            return [future]
        outcome = perform(self.place, packed(job))
        if fate < self.lost:
            future.set_exception(OSError("gone after"))
            return [future]
        if self.random.random() < 0.5:
            assert perform(self.place, packed(job)).made == outcome.made
        future.set_result(outcome)
        return [future]

    def wait(self) -> list[Future[Outcome]]:
        ended = super().wait()
        return ended * 2  # it says so twice

    def _close(self) -> None:
        self.closed += 1


def job(work: Callable[[str], str], text: str = "") -> Job:
    return Job(f"{work.__name__} {text}".strip(), work, (text,))
