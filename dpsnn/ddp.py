"""Several processes train one model: each has its share of every batch, and all take the step of the mean gradient.

Lightning's DDP does that. The processes are started by `dpsnn.runner.beside`, not by Lightning, which would run the
whole command again in each.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import ClusterEnvironment
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, distributed

from dpsnn.batches import Share

INTERFACE = "GLOO_SOCKET_IFNAME"
"""Variable that names the network interface over which processes on CPUs speak."""


@contextlib.contextmanager
def joined(share: Share, meeting: Path) -> Iterator[None]:
    """The time in which this process is one of several that speak with one another.

    Args:
        share: Which of how many it is.
        meeting: A file, in a folder for the owner's eyes alone, by which they find one another: no port is opened for
            that, and on CPUs they speak over the loopback interface.
    """
    store = distributed.FileStore(str(meeting), share.of)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    before = os.environ.get(INTERFACE)
    loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    if before is None and loopback:
        os.environ[INTERFACE] = loopback[0]
    try:
        distributed.init_process_group(backend, store=store, rank=share.rank, world_size=share.of)
        yield
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        if before is None:
            os.environ.pop(INTERFACE, None)


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
