"""Processes beside this one, one for each further device, that train the same model on their share of every batch."""

import contextlib
import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dpsnn import registry, signals
from dpsnn.batches import Share
from dpsnn.ddp import joined
from dpsnn.defences import DefenceModule
from dpsnn.errors import UsageError, WorkFailed
from dpsnn.memory import keep_memory
from dpsnn.orphans import end_with

READY = "ready"
"""What a process says once it is ready to meet the others; anything else is what it failed by."""
PATIENCE = 2.0
"""Seconds within which a process that is gone is known to be, or one that has nothing left to do ends."""


def check_there(devices: int) -> None:
    """Raise UsageError unless this machine has so many devices."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there, kind = (gpus, "GPU") if gpus else (os.cpu_count() or 1, "core")
    if devices > there:
        raise UsageError(
            f"devices is {devices}, but this machine has {there} {kind}{'s' * (there != 1)}; lower --devices"
        )


def refuse_unshared(module: nn.Module) -> None:
    """Refuse layers whose outcome is of a whole batch, of which each process has a share alone.

    Raises:
        UsageError: If there is one; the line says the way out.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm):
            raise UsageError(
                f"{name} is a {type(layer).__name__}: each device would take the statistics of its share of a batch for"
                " those of the whole; use --norm group where the network leaves the choice, or leave out --devices"
            )
        if isinstance(layer, DefenceModule) and layer.couples:
            raise UsageError(f"{layer.couples}, which one device alone does; leave out --devices")


@contextlib.contextmanager
def beside(devices: int, work: Callable[..., object], *arguments: Any) -> Iterator[Share]:
    """The time in which `work(*arguments, share)` runs in a process for each device but the first, which is this one's.

    All have an equal part of the threads of this process. What the others print is not heard. They end with the block,
    however that is left, and with this process.

    Args:
        devices: How many, this process's among them.
        work: A function, found by its name.
        arguments: Plain values.

    Yields:
        The share of this process.

    Raises:
        WorkFailed: If one of the others failed.
    """
    if devices == 1:
        yield Share()
        return
    threads = torch.get_num_threads()
    others: list[_Other] = []
    with tempfile.TemporaryDirectory(prefix="dpsnn-") as folder:
        meeting, own = Path(folder) / "meeting", max(1, threads // devices)
        packed = pickle.dumps((work, arguments))
        try:
            for rank in range(1, devices):
                others.append(_Other(Share(rank, devices), meeting, own, packed))
            for other in others:
                other.until_ready()
            torch.set_num_threads(own)
            with joined(Share(0, devices), meeting), _explained(others):
                yield Share(0, devices)
            for other in others:
                other.process.join(PATIENCE)
        finally:
            torch.set_num_threads(threads)
            for other in others:
                other.end()


@contextlib.contextmanager
def _explained(others: list["_Other"]) -> Iterator[None]:
    """What breaks here because another process is gone does not say why that one went."""
    try:
        yield
    except RuntimeError as error:
        for other in others:
            if said := other.failure():
                raise WorkFailed(said) from error
        raise


class _Other:
    """One of the others."""

    def __init__(self, share: Share, meeting: Path, threads: int, packed: bytes) -> None:
        self.share = share
        spawn = multiprocessing.get_context("spawn")
        self.heard, said = spawn.Pipe(duplex=False)
        given = share, meeting, threads, packed, said, os.getpid()
        self.process = spawn.Process(target=_run, args=given, daemon=True)
        # Ctrl-C is for this process, which ends the others.
        with signals.blocked():
            self.process.start()
        said.close()

    def until_ready(self) -> None:
        """Who waits for one that is gone to meet does so for half an hour, and hears no Ctrl-C."""
        while not wait([self.heard, self.process.sentinel], timeout=0.2):
            signals.check()
        if (said := self._next()) != READY:
            raise WorkFailed(self._told(said))

    def failure(self) -> str:
        """By what it failed; empty while it is at work."""
        gone = wait([self.heard, self.process.sentinel], timeout=PATIENCE)
        return self._told(self._next()) if gone else ""

    def _next(self) -> str:
        with contextlib.suppress(EOFError):
            if self.heard.poll():
                return str(self.heard.recv())
        return ""

    def _told(self, said: str) -> str:
        if not said:
            self.process.join(PATIENCE)
            said = f"its process ended with exit code {self.process.exitcode}"
        return f"device {self.share.rank} failed: {said}"

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.heard.close()


def _run(
    share: Share, meeting: Path, threads: int, packed: bytes, said: Connection, parent: int
) -> None:
    """What one of the others does."""
    end_with(parent)
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        try:
            torch.set_num_threads(threads)
            keep_memory()
            registry.import_plugins()
            work, arguments = pickle.loads(packed)
            said.send(READY)
            with joined(share, meeting):
                work(*arguments, share)
        except Exception as error:  # whatever it is, it is told where it can be read
            said.send(" ".join(str(error).split()) or type(error).__name__)
