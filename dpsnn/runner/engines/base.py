"""What an engine must do, and how a job is done wherever it is."""

import os
import pickle
from abc import ABC, abstractmethod
from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

from dpsnn.cores import cores
from dpsnn.errors import UsageError

PASSED_ON = ("DPSNN_", "WANDB_MODE", "WANDB_PROJECT")
"""Beginnings of the names of environment variables that a job is to find as they are here. No secrets: what a cluster
keeps of its jobs others may read."""


def threads_of(jobs: int) -> int:
    """Threads of one job: its share of the cores, one at least."""
    return max(1, cores() // jobs)


@dataclass(frozen=True, eq=False)
class Job:
    """A function and its arguments; two of them are two jobs, whatever they say."""

    name: str
    work: Callable[..., str]
    """Found by its name wherever the job runs; returns what was made, in a word."""
    arguments: tuple[Any, ...]
    """Plain values."""
    effort: float = 1.0
    """How long it takes, about, by that of others; what is begun first goes by it, and nothing else."""


class Outcome(NamedTuple):
    """What came of a job that was done."""

    made: bool
    said: str
    """What was made, or why not, in one line."""


class Place(NamedTuple):
    """What a job finds wherever it runs."""

    folder: str
    """The working folder, from which relative paths start."""
    threads: int
    environment: dict[str, str]


def perform(place: Place, packed: bytes) -> Outcome:
    """Do a job, in the process that an engine chose for it.

    Args:
        place: What it is to find there.
        packed: Function and arguments; not read before the plug-ins that they may need are known.

    Returns:
        What came of it: a failure of the job itself is an outcome like another. What is raised is the place's.
    """
    try:
        os.environ.update(place.environment)
        os.chdir(place.folder)
        # Not before the environment is that of the group.
        import torch

        from dpsnn import registry
        from dpsnn.memory import keep_memory

        torch.set_num_threads(place.threads)
        keep_memory()
        registry.import_plugins()
        work, arguments = pickle.loads(packed)
        return Outcome(True, work(*arguments))
    except KeyboardInterrupt as stop:
        # A training that was told to end by an exit, as schedulers do, passes that on as an interruption.
        if isinstance(stop.__cause__, SystemExit):
            raise stop.__cause__
        raise
    except Exception as error:  # whatever it is, it is told where the group is
        return Outcome(False, " ".join(str(error).split()) or type(error).__name__)


class Queued(NamedTuple):
    """A job that waits for a place."""

    urgency: float
    job: Job
    handle: Future[Outcome]


class Engine(ABC):
    """Runs jobs somewhere, at most so many at a time: the most urgent first, equally urgent ones as they come.

    What waits does so here, for every engine. Where it has more jobs at a time than the cluster behind it has places,
    the scheduler there decides which of those it begins first.

    Args:
        jobs: Jobs at a time.
        threads: Of each job; by default its share of the cores here, and one on other machines.
        logs: A folder for files of the engine's own.
    """

    here = True
    """Whether jobs run on this machine."""

    def __init__(self, jobs: int, threads: int | None = None, logs: str = "") -> None:
        self.jobs = jobs
        self.threads = threads or (threads_of(jobs) if self.here else 1)
        self.logs = logs
        self._is_open = False
        self._queue: list[Queued] = []
        """The next first."""
        self._running: dict[Future[Outcome], Future[Outcome]] = {}
        """What `_start` gave → what `submit` gave."""

    def submit(
        self, jobs: Iterable[Job], urgency: Callable[[Job], float] = lambda job: 0.0
    ) -> "list[Future[Outcome]]":
        """Take jobs; a handle for each. Its result is the outcome; an exception means that the job was lost.

        Args:
            jobs: What to run.
            urgency: Of each: the greater, the sooner it is begun.

        Raises:
            UsageError: If the engine cannot be started.
        """
        taken = [Queued(urgency(job), job, Future()) for job in jobs]
        if taken and not self._is_open:
            self._is_open = True
            self._open()
        for each in taken:
            insort(self._queue, each, key=lambda queued: -queued.urgency)
        return [each.handle for each in taken]

    def wait(self) -> "list[Future[Outcome]]":
        """Start what there is room for, and wait until something has ended.

        Returns:
            Handles of what has ended since the last call; none where nothing is left to do.
        """
        if lost := self._fill():
            return lost
        ended = []
        for inner in self._until_one_ends() if self._running else []:
            handle = self._running.pop(inner)
            if error := inner.exception():
                handle.set_exception(error)
            else:
                handle.set_result(inner.result())
            ended.append(handle)
        return ended

    def _fill(self) -> "list[Future[Outcome]]":
        """Start what there is room for; handles of what could not be started."""
        room = min(self.jobs - len(self._running), len(self._queue))
        if room <= 0:
            return []
        batch, self._queue = self._queue[:room], self._queue[room:]
        try:
            started = self._start([each.job for each in batch])
        except UsageError:
            raise
        except Exception as error:  # of a scheduler, for instance, that does not answer
            for each in batch:
                each.handle.set_exception(error)
            return [each.handle for each in batch]
        self._running |= zip(started, (each.handle for each in batch))
        return []

    def close(self) -> None:
        """End whatever still runs, at once, and forget the rest."""
        self._queue.clear()
        if self._is_open:
            self._close()
        self._running.clear()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def place(self) -> Place:
        """What a job is to find."""
        passed = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        return Place(os.getcwd(), self.threads, passed)

    def _open(self) -> None:
        """Before the first job."""

    @abstractmethod
    def _start(self, jobs: Sequence[Job]) -> "list[Future[Outcome]]":
        """Run `perform` of these jobs, now and at once; a future for each."""

    def _until_one_ends(self) -> "list[Future[Outcome]]":
        """Wait; those of the running that have ended."""
        return list(wait(self._running, return_when=FIRST_COMPLETED).done)

    @abstractmethod
    def _close(self) -> None:
        """As `close`, of an engine that has had a job."""


def packed(job: Job) -> bytes:
    """What `perform` does, as any engine carries it."""
    return pickle.dumps((job.work, job.arguments))
