"""Where the jobs of a group run: processes here, a SLURM cluster, or Ray. Nothing here imports torch, submitit or Ray.

A job is a function and plain values; what it makes travels through files, which are whole or not there and are claimed
by one process at a time. An engine only maps jobs to places. It may therefore lose any of them, or do one twice, and
nothing but time is lost: whoever goes on finds what is finished, and a training goes on after its last epoch.
"""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from dpsnn.errors import UsageError, one_of
from dpsnn.numbers import Number, check_count, check_number

if TYPE_CHECKING:
    from dpsnn.runner.engines.base import Engine


class _Kind(NamedTuple):
    made_by: str
    """Module and class, with a colon between."""
    library: str = ""
    """What it needs beside dpsnn; the extra below brings it."""
    extra: str = ""


ENGINES = {
    "local": _Kind("dpsnn.runner.engines.local:Local"),
    "submitit": _Kind("dpsnn.runner.engines.submitit:Submitit", "submitit", "slurm"),
    "ray": _Kind("dpsnn.runner.engines.ray:Ray", "ray", "ray"),
}

OWN = {"ray_address": "ray", "gpus_per_job": "ray", "slurm": "submitit"}
"""Option → the engine that it belongs to."""


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where the members of a group are made, as the options say it.

    Raises:
        UsageError: If a value is out of range, or belongs to another engine.
    """

    jobs: int = 1
    engine: str = "local"
    threads: int | None = None
    ray_address: str = ""
    gpus_per_job: Number = 0.0
    slurm: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise UsageError(f"jobs is {self.jobs}; it must be a whole number, 1 or greater")
        one_of(self.engine, ENGINES, "engine")
        if self.threads is not None:
            check_count(self.threads, "threads", 1)
        check_number(self.gpus_per_job, "gpus_per_job")
        if self.gpus_per_job > 1 and self.gpus_per_job % 1:
            raise UsageError(
                f"gpus_per_job is {self.gpus_per_job:g}; it must be a share of one (0.25: four jobs to a GPU) or whole"
            )
        for option, engine in OWN.items():
            if getattr(self, option) and engine != self.engine:
                raise UsageError(
                    f"{option} says nothing about the engine {self.engine}; leave it out, or add --engine {engine}"
                )

    @property
    def is_apart(self) -> bool:
        """Whether members are made ahead, in processes of their own, and not only one after another in this one."""
        return self.jobs > 1 or self.engine != "local"

    def start(self, logs: str) -> "Engine":
        """The engine; it starts nothing before its first job.

        Args:
            logs: A folder for its own files, which all machines share.

        Raises:
            UsageError: If its library is missing, or its own options make no sense.
        """
        kind = ENGINES[self.engine]
        if kind.library and find_spec(kind.library) is None:
            raise UsageError(
                f"the engine {self.engine} needs {kind.library}, which is not installed; ./main.sh in the checkout"
                f" brings it by itself, for this Python run there: {sys.executable} -m pip install -e '.[{kind.extra}]'"
            )
        module, _, name = kind.made_by.partition(":")
        own: dict[str, Any] = {
            option: getattr(self, option) for option, engine in OWN.items() if engine == self.engine
        }
        engine: Engine = getattr(importlib.import_module(module), name)(
            self.jobs, self.threads, logs=logs, **own
        )
        return engine
