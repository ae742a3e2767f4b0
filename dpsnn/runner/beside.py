"""Processes beside this one, one for each further device, that train the same model on their share of every batch."""

import contextlib
import copy
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from dpsnn import registry, signals
from dpsnn.batches import Share
from dpsnn.classifier import SplitClassifier
from dpsnn.cores import cores
from dpsnn.ddp import joined
from dpsnn.defences import DefenceModule
from dpsnn.errors import UsageError, WorkFailed
from dpsnn.memory import keep_memory
from dpsnn.orphans import end_with
from dpsnn.training import seeded

READY = "ready"
"""What a process says once it is ready to meet the others; anything else is what it failed by."""
PATIENCE = 2.0
"""Seconds within which a process that is gone is known to be, or one that has nothing left to do ends, or a signal is
heard by who does not wait for others."""
ADDS_UP = 1e-5
"""Of a loss: by how much those of images in other company may differ, as sums in float32 are rounded."""


def check_there(devices: int) -> None:
    """Raise UsageError unless this machine has so many devices."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there, kind = (gpus, "GPU") if gpus else (cores(), "core")
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


def refuse_coupled(classifier: SplitClassifier) -> None:
    """Refuse a network or defences whose loss is no mean over images, whatever they say of themselves.

    Four pairs of images are put together in two ways, each image in the same place under the same random numbers: what
    each adds to the loss by itself adds up to the same.

    Raises:
        UsageError: If it does not.
    """
    # Trying it may change what it keeps.
    tried = copy.deepcopy(classifier).cpu().train()
    network = tried.network
    with seeded(0), torch.no_grad():
        # From dark to light: images that differ as little as two draws of noise say little.
        light = torch.linspace(0.1, 1, 4).view(4, 1, *[1] * len(network.image_shape))
        images = light * torch.rand(4, 2, *network.image_shape)
        labels = torch.randint(network.num_classes, (4, 2))

        def losses(first: int, second: int) -> Tensor:
            given, classes = (each[[first, second]].flatten(0, 1) for each in (images, labels))
            with seeded(0):
                smashed, penalty = tried.defences.train_on(given, tried.encode(given), classes)
                logits = network.server(smashed).float()
            return torch.stack([F.cross_entropy(logits, classes), penalty.float()])

        made = [losses(0, 1), losses(2, 3), losses(0, 3), losses(2, 1)]
    apart = (made[0] + made[1] - made[2] - made[3]).abs()
    if bool((apart > ADDS_UP * torch.stack(made).abs().amax(0)).any()):
        raise UsageError(
            "what an image adds to the loss depends on the images beside it in a batch, of which each device sees its"
            " share alone; leave out --devices"
        )


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
            with _heard(others), _explained(others):
                with joined(Share(0, devices), meeting, lambda: _at_work(others)):
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
    except WorkFailed:
        raise
    except RuntimeError as error:
        # Who broke off because yet another is gone is not to blame: whoever is gone without a word comes first.
        failed = sorted(filter(None, [other.failure() for other in others]))
        if failed:
            raise WorkFailed(failed[0].told) from error
        raise


def _at_work(others: list["_Other"]) -> None:
    """Whether it makes sense to wait on.

    Raises:
        KeyboardInterrupt: If a signal came.
        WorkFailed: If another is gone.
    """
    signals.check()
    for other in others:
        if not other.process.is_alive():
            if failed := other.failure():
                raise WorkFailed(failed.told)


@contextlib.contextmanager
def _heard(others: list["_Other"]) -> Iterator[None]:
    """A signal is heard also while this process waits for one that gives no answer, stopped or stuck as it may be.

    Python acts on signals between steps of its own, and within a library's there is none: the others are ended, which
    ends the wait.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    left = threading.Event()
    ear, mouth = os.pipe()
    os.set_blocking(mouth, False)

    def listen() -> None:
        while (number := os.read(ear, 1)) and not left.is_set():
            # Others are nobody's wish to end: a window that was resized, a child that is gone.
            if number[0] in signals.SIGNALS and not left.wait(PATIENCE):
                for other in others:
                    other.process.kill()

    listening = threading.Thread(target=listen, daemon=True)
    listening.start()
    before = signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        left.set()
        with contextlib.suppress(BlockingIOError):
            os.write(mouth, bytes(1))
        listening.join()
        os.close(ear)
        os.close(mouth)


class _Failed(NamedTuple):
    """What another failed by; the first of several is to blame."""

    follows: bool
    """Whether it may be for another that is gone."""
    rank: int
    told: str


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
            raise WorkFailed(self._failed(said).told)

    def failure(self) -> _Failed | None:
        """What it failed by; None while it is at work."""
        gone = wait([self.heard, self.process.sentinel], timeout=PATIENCE)
        return self._failed(self._next()) if gone else None

    def _next(self) -> str | tuple[bool, str]:
        with contextlib.suppress(EOFError):
            if self.heard.poll():
                said: str | tuple[bool, str] = self.heard.recv()
                return said
        return ""

    def _failed(self, said: str | tuple[bool, str]) -> _Failed:
        follows, text = said if isinstance(said, tuple) else (False, said)
        if not text:
            self.process.join(PATIENCE)
            text = f"its process ended with exit code {self.process.exitcode}"
        return _Failed(follows, self.share.rank, f"device {self.share.rank} failed: {text}")

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.heard.close()


def _run(
    share: Share, meeting: Path, threads: int, packed: bytes, said: Connection, parent: int
) -> None:
    """What one of the others does."""
    end_with(parent, meeting.parent)
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
            text = " ".join(str(error).split()) or type(error).__name__
            said.send((isinstance(error, distributed.DistError) or "gloo" in text, text))
