"""Ray: this machine by itself, or a cluster that is there already.

Ray's own retries are off: the group retries what was lost, the same way for every engine. What jobs make goes through
shared folders and not through Ray's store, which is therefore kept small.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from dpsnn import signals
from dpsnn.errors import UsageError
from dpsnn.numbers import Number
from dpsnn.runner.engines.base import Engine, Job, Outcome, packed, perform

STORE = 2**27
"""Bytes of a local Ray's store; the least it takes is 75 MiB."""


class Ray(Engine):
    """Jobs as tasks of Ray.

    Args:
        jobs: As for every engine.
        threads: Likewise; Ray sees to it that a machine has as many cores for each job.
        logs: Likewise; Ray has files of its own, in the system's folder for temporary files.
        ray_address: Of a cluster, `HOST:PORT`, `ray://HOST:PORT` or `auto`; empty starts a Ray on this machine.
        gpus_per_job: GPUs that a job has for itself, or which share of one.
    """

    def __init__(
        self,
        jobs: int,
        threads: int | None = None,
        logs: str = "",
        ray_address: str = "",
        gpus_per_job: Number = 0.0,
    ) -> None:
        self.address, self.gpus, self.here = ray_address, gpus_per_job, not ray_address
        super().__init__(jobs, threads, logs)
        self._task: Any = None
        self._aside = contextlib.ExitStack()

    def _open(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machine
        # Standard output carries results only, and Ray speaks there whenever it likes.
        self._aside.enter_context(contextlib.redirect_stdout(sys.stderr))
        with _handlers_kept(), signals.blocked():
            import ray

            own = {
                "num_cpus": self.jobs * self.threads,
                "object_store_memory": STORE,
                "include_dashboard": False,
            }
            try:
                ray.init(
                    # Not what a variable of the environment names, if nobody asked for it.
                    address=self.address or "local",
                    log_to_driver=False,
                    logging_level="error",
                    **(own if self.here else {}),
                )
            except (
                Exception
            ) as error:  # Ray documents ConnectionError; a wrong address raises others
                said = " ".join(str(error).split()) or type(error).__name__
                where = self.address or "on this machine"
                raise UsageError(
                    f"no Ray {where} ({said}); correct --ray_address, or leave it out"
                ) from error
            free = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(
            node.get("CPU", 0) >= self.threads and node.get("GPU", 0) >= self.gpus for node in free
        ):
            raise UsageError(
                f"no machine of Ray's has {self.threads} cores and {self.gpus:g} GPUs for a job; lower --threads or"
                " --gpus_per_job"
            )
        options = {"num_cpus": self.threads, "num_gpus": self.gpus, "max_retries": 0}
        self._task = ray.remote(**options)(perform)

    def _start(self, jobs: Sequence[Job]) -> list[Future[Outcome]]:
        return [self._task.remote(self.place, packed(job)).future() for job in jobs]

    def _close(self) -> None:
        import ray

        with self._aside, _handlers_kept():
            ray.shutdown()  # a cluster ends the tasks of whoever leaves it


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself; our own way of ending stays."""
    before = {number: signal.getsignal(number) for number in signals.SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
