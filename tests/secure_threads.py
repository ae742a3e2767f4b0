"""Three workers in threads of this process, with an engine that computes nothing: fast, and open to view."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from secure_cluster import free_cluster

from dpsnn.secure import keys, shares
from dpsnn.secure.client import Client
from dpsnn.secure.config import Cluster
from dpsnn.secure.engine import Engine, Model
from dpsnn.secure.listener import Listener
from dpsnn.secure.worker import Worker

MODEL = Model("0" * 32, [], (1, 2, 2), 3, "images", "")


class IdleEngine(Engine):
    """Takes its time, and all scores are 0."""

    sent_bytes, graphs = 0, 1

    def __init__(self) -> None:
        self.model: Model | None = MODEL
        self.takes = self.seconds = 0.0

    def load(self, model: Model, body: bytes) -> None:
        self.model = model

    def predict(self, batch: int, body: bytes) -> bytes:
        time.sleep(self.takes)
        return bytes(shares.size((batch, MODEL.classes)))


class Threads:
    """Workers, and what they have logged; they end with the process, and `failed` says why one wanted to before."""

    def __init__(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster = cluster
        self.lines: list[str] = []
        self.failed: list[str] = []
        self.engines = [IdleEngine() for _ in range(3)]
        # A worker that fails ends its process, which is this one.
        monkeypatch.setattr(Worker, "fail", lambda worker, reason: self.failed.append(reason))
        self.listeners = [Listener(cluster, rank, self.lines.append) for rank in range(3)]
        ready = [threading.Event() for _ in range(3)]
        engines: list[Any] = list(self.engines)
        self.workers = [
            Worker(cluster, rank, engines[rank], 0, self.lines.append, ready[rank].set)
            for rank in range(3)
        ]
        for listener, worker in zip(self.listeners, self.workers):
            listener.start(worker)
            work = worker.follow if worker.rank else worker.lead
            threading.Thread(target=work, daemon=True).start()
        assert all(event.wait(60) for event in ready)

    def log(self) -> str:
        return "\n".join(self.lines)

    def works(self, name: str = "client") -> None:
        with Client(self.cluster, name) as client:
            assert client.scores(np.zeros((2, 1, 2, 2), np.float32)).shape == (2, 3)
        assert not self.failed


def guarded_cluster(folder: Path, **settings: Any) -> Cluster:
    """Free ports and certificates for three clients."""
    cluster = free_cluster(tls=True, keys=folder / "keys", **settings)
    for name in ("client", "phone", "tablet"):
        keys.make(cluster, name)
    return cluster
