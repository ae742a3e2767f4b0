"""Several processes train one model: each has its share of every batch, and all take the step of the mean gradient.

Lightning's DDP does that. The processes are started by `dpsnn.runner.beside`, not by Lightning, which would run the
whole command again in each.
"""

import contextlib
import hashlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import ClusterEnvironment
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, distributed

from dpsnn.batches import Share
from dpsnn.errors import UsageError

INTERFACE = "GLOO_SOCKET_IFNAME"
"""Variable that names the network interface over which processes on CPUs speak."""


LOOK = 0.2
"""Seconds between two looks at whether to wait on."""


@contextlib.contextmanager
def joined(
    share: Share, meeting: Path, meanwhile: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """The time in which this process is one of several that speak with one another.

    Args:
        share: Which of how many it is.
        meeting: A file, in a folder for the owner's eyes alone, by which they find one another: no port is opened for
            that, and on CPUs they speak over the loopback interface.
        meanwhile: Is called now and then until they have met; what it raises ends the wait.
    """
    store = distributed.FileStore(str(meeting), share.of)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    before = os.environ.get(INTERFACE)
    loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    if before is None and loopback:
        os.environ[INTERFACE] = loopback[0]
    try:
        _meet(backend, store, share, meanwhile)
        yield
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        if before is None:
            os.environ.pop(INTERFACE, None)


def _meet(
    backend: str, store: distributed.Store, share: Share, meanwhile: Callable[[], object]
) -> None:
    """In a thread: whoever waits for one that does not come hears nothing for half an hour, Ctrl-C neither."""
    wrong: list[BaseException] = []

    def meet() -> None:
        try:
            distributed.init_process_group(
                backend, store=store, rank=share.rank, world_size=share.of
            )
        except BaseException as error:  # raised below, where somebody listens
            wrong.append(error)

    waiting = threading.Thread(target=meet, daemon=True)
    waiting.start()
    while waiting.is_alive():
        waiting.join(LOOK)
        meanwhile()
    for error in wrong:
        raise error


class _Here(ClusterEnvironment):
    """Tells Lightning which of the processes this is, and that all are there already."""

    creates_processes_externally = True
    main_address = "127.0.0.1"
    main_port = 0
    """Nobody asks: the processes have met."""

    def __init__(self, share: Share) -> None:
        self.share = share

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.share.of

    def set_world_size(self, size: int) -> None:
        pass

    def global_rank(self) -> int:
        return self.share.rank

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return self.share.rank

    def node_rank(self) -> int:
        return 0


def strategy(share: Share) -> DDPStrategy:
    """Lightning's, for a process that has joined the others."""
    # Buffers of what may be shared never change, and validation may have more batches here than there.
    return DDPStrategy(cluster_environment=_Here(share), broadcast_buffers=False)


class FairMean(Callback):
    """Where a batch is not shared out equally, as the last one of an epoch may not be, let each image count alike."""

    def __init__(self) -> None:
        self.weight = 1.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        batches: Any = trainer.train_dataloader
        self.weight = batches.weight(batch_idx)

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        if (weight := self.weight) != 1:
            loss.register_hook(lambda gradient: gradient * weight)


class Alike(Callback):
    """Refuse to go on where processes no longer hold the same weights: what is kept would be those of one share.

    Gradients are shared, and nothing else is: a buffer that follows the images, or a draw that changes weights, would
    be another in every process, and nobody would see it.

    Raises:
        UsageError: After the first epoch in which anything differs.
    """

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        state = pl_module.state_dict()
        own = torch.tensor([_digest(each) for each in state.values()], device=pl_module.device)
        every = [torch.empty_like(own) for _ in range(trainer.world_size)]
        distributed.all_gather(every, own)
        for rank, theirs in enumerate(every):
            if wrong := (theirs != every[0]).nonzero().flatten().tolist():
                raise UsageError(
                    f"after epoch {trainer.current_epoch + 1} device {rank} has another {[*state][wrong[0]]} than"
                    " device 0: something changes it by random draws, or by the share of the images that one device"
                    " sees; leave out --devices"
                )


def _digest(tensor: Tensor) -> int:
    """Of every bit."""
    content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return int.from_bytes(hashlib.sha256(content).digest()[:8], signed=True)


class OwnSignals(Callback):
    """Leave SIGTERM to whom it was left before.

    Lightning's handler tells the other processes of it, wherever it strikes: amid what they are saying to one another,
    which they would take for an answer, or to one that does not listen, which nobody ever hears the end of.
    """

    def __init__(self) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handler)


class Counted(Callback):
    """On how many devices a training was, one number after another where it went on with others.

    Args:
        devices: Of this call.
    """

    def __init__(self, devices: int) -> None:
        self.devices = devices
        self.counts: list[int] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.counts[-1:] != [self.devices]:
            self.counts.append(self.devices)

    def state_dict(self) -> dict[str, Any]:
        return {"counts": self.counts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.counts = [*state_dict["counts"]]
