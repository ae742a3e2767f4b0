"""SLURM by submitit: what is ready at once is one array of jobs. Without SLURM, submitit's own processes here.

A job that is pre-empted, or whose time is up, is queued again under its number and called again: a training goes on
after its last epoch.
"""

import contextlib
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from dpsnn import signals
from dpsnn.errors import UsageError, one_line
from dpsnn.orphans import end_with
from dpsnn.runner.engines.base import Engine, Job, Outcome, Place, packed, perform

MINUTES = 240
"""Of a job, unless told otherwise; what takes longer goes on in the next."""
TIMES = 10
"""How often a job whose time is up is queued again."""
POLL = 0.2
"""Seconds between two looks for the files of jobs that have ended."""

GENERIC = {"time": "timeout_min", "gpus_per_node": "gpus_per_node"}
"""Names of SLURM → those of submitit that its own processes heed as well."""


class Submitit(Engine):
    """Jobs as SLURM has them; where there is no `sbatch`, as processes that submitit starts here.

    Args:
        jobs: As for every engine.
        threads: Likewise; a job asks SLURM for as many cores.
        logs: A folder that all machines share.
        slurm: `KEY=VALUE` each: `partition=gpu`, `time=60` in minutes, `gpus_per_node=1`, `mem=8GB`, `account=me`.

    Raises:
        UsageError: If one of these is not of that form.
    """

    def __init__(
        self,
        jobs: int,
        threads: int | None = None,
        logs: str = "",
        slurm: Sequence[str] = (),
    ) -> None:
        self.here = shutil.which("sbatch") is None
        super().__init__(jobs, threads, logs)
        self.parameters = parameters(slurm)
        self.folder: Path | None = None
        self._executor: Any = None
        self._jobs: dict[Future[Outcome], Any] = {}
        self._lost = False

    def _open(self) -> None:
        import submitit

        Path(self.logs).mkdir(parents=True, exist_ok=True)
        # One for each run, as numbers of jobs come back, and nobody else's: what lies there is run.
        self.folder = Path(tempfile.mkdtemp(prefix="submitit-", dir=self.logs)).resolve()
        timeouts: dict[str, Any] = {f"{c}_max_num_timeout": TIMES for c in ("local", "slurm")}
        self._executor = submitit.AutoExecutor(
            self.folder, cluster="local" if self.here else "slurm", **timeouts
        )
        usual: dict[str, Any] = {
            "name": "dpsnn",
            "timeout_min": MINUTES,
            "cpus_per_task": self.threads,
            "stderr_to_stdout": True,
            "slurm_array_parallelism": self.jobs,
        }
        try:
            self._executor.update_parameters(**{**usual, **self.parameters})
        except (NameError, ValueError, AssertionError) as error:
            said = one_line(str(error).partition("\n")[0])
            raise UsageError(f"slurm: {said}; correct --slurm") from error

    def _start(self, jobs: Sequence[Job]) -> list[Future[Outcome]]:
        with signals.blocked(), self._executor.batch():
            work = Resumed(self.here)
            started = [self._executor.submit(work, self.place, packed(job)) for job in jobs]
        futures: list[Future[Outcome]] = [Future() for _ in started]
        self._jobs |= zip(futures, started)
        return futures

    def _until_one_ends(self) -> list[Future[Outcome]]:
        while True:
            ended = [future for future, job in self._jobs.items() if job.done()]
            for future in ended:
                self._settle(future, self._jobs.pop(future))
            if ended:
                return ended
            time.sleep(POLL)

    def _settle(self, future: Future[Outcome], job: Any) -> None:
        try:
            if self.here and not job.paths.result_pickle.exists():
                # submitit would wait for the file, as shared folders are slow; here it is there or not.
                raise RuntimeError("its process was ended from outside")
            future.set_result(job.result())
        except Exception as error:  # submitit says what became of the job
            self._lost = True
            future.set_exception(error)

    def _close(self) -> None:
        for job in self._jobs.values():
            if self.here:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(job.job_id), signal.SIGKILL)  # what it watches over ends with it
            else:
                with contextlib.suppress(OSError):
                    job.cancel(check=False)
        self._jobs.clear()
        if self.folder and not self._lost:  # else it may say why
            shutil.rmtree(self.folder, ignore_errors=True)


class Resumed:
    """What is called in a job, and again where it was pre-empted.

    Args:
        here: Whether submitit itself started the process, which then is to end with the one that watches over it.
    """

    def __init__(self, here: bool) -> None:
        self.here = here

    def __call__(self, place: Place, work: bytes) -> Outcome:
        # Lightning would take it for one of its own jobs on SLURM, and queue it again as well.
        os.environ.pop("SLURM_NTASKS", None)
        if self.here:
            end_with(os.getppid())
        return perform(place, work)

    def checkpoint(self, place: Place, work: bytes) -> Any:
        """What submitit queues again, asked for when the job is told to end."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, place, work)


def parameters(slurm: Sequence[str]) -> dict[str, Any]:
    """Parameters as submitit calls them, of `KEY=VALUE` as SLURM calls them.

    Raises:
        UsageError: If one is not of that form.
    """
    found: dict[str, Any] = {}
    for text in slurm:
        name, equals, value = text.partition("=")
        name = name.lstrip("-").replace("-", "_")
        if not (equals and value and re.fullmatch(r"[a-z_]+", name)):
            raise UsageError(f"slurm has {text!r}; it must be KEY=VALUE: partition=gpu time=60")
        if name == "time" and not value.isdigit():
            raise UsageError(f"slurm has {text!r}; time must be a whole number of minutes")
        known = GENERIC.get(name, f"slurm_{name}")
        found[known] = int(value) if value.isdigit() else value
    return found
