"""One party of the engine: the model's shares, its compiled graphs, and the computation."""

import hashlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import spu
from spu import libspu

from dpsnn.secure import graph, keys, shares
from dpsnn.secure.config import START_SECONDS, Cluster
from dpsnn.secure.traffic import engine_bytes

GRAPHS = 16
"""Compiled graphs kept, one for each size of batch; the one not used for the longest time goes first."""


class Model(NamedTuple):
    """What a worker knows of the model: everything but the weights."""

    id: str
    plan: list[dict[str, Any]]
    input_shape: tuple[int, ...]
    classes: int
    content: str
    """What is sent: `images`, or `smashed` where the client computes the first half itself."""
    pairing: str
    """Names the client half that belongs to it; empty without one."""


def connect(cluster: Cluster, rank: int) -> libspu.link.Context:
    """Link this worker's engine with the other two; waits for them.

    Raises:
        RuntimeError: If they do not come in time.
        UsageError: If its certificate or key is missing or damaged.
    """
    shares.quiet()
    description = libspu.link.Desc()
    for number, address in enumerate(cluster.workers):
        description.add_party(f"worker-{number}", f"{address.host}:{address.engine_port}")
    milliseconds = int(cluster.timeout * 1000)
    description.recv_timeout_ms = description.http_timeout_ms = milliseconds
    description.connect_retry_interval_ms = 100
    description.connect_retry_times = int(START_SECONDS * 10)
    if cluster.tls:
        certificate, key, authority = keys.engine_files(cluster, rank)
        description.enable_ssl = True
        for end in (description.client_ssl_opts, description.server_ssl_opts):
            end.cert.certificate_path = str(certificate)
            end.cert.private_key_path = str(key)
            end.verify.ca_file_path = str(authority)
            end.verify.verify_depth = 1
    return libspu.link.create_brpc(description, rank)


class Engine:
    """The engine of one worker; one thread uses it.

    Args:
        link: To the other two.
        ports: Of all engines, to count what is sent.
    """

    def __init__(self, link: libspu.link.Context, ports: Sequence[int] = ()) -> None:
        self._runtime = spu.Runtime(link, shares.config())
        self._ports = ports
        self._names: list[str] = []
        self._graphs: dict[int, libspu.Executable] = {}
        self.model: Model | None = None
        self.seconds = 0.0
        """Spent computing."""

    @property
    def sent_bytes(self) -> int:
        return engine_bytes(self._ports)

    @property
    def graphs(self) -> int:
        """How many are compiled."""
        return len(self._graphs)

    def load(self, model: Model, body: bytes) -> None:
        """Take the shares of a model's weights, end to end in `body`, in place of those of any other.

        Raises:
            Malformed: If the engine cannot compile the network; then the model before stays.
        """
        shapes = graph.check(model.plan)
        names = [f"weight-{number}" for number in range(len(shapes))]
        # Of one image, so that the first client does not wait for the compiler, and before anything is replaced.
        first = graph.compile_graph(model.plan, 1, model.input_shape, names)
        for name in self._names:
            self._runtime.del_var(name)
        start = 0
        for name, shape in zip(names, shapes):
            end = start + shares.size(shape)
            self._runtime.set_var(name, shares.wrap(body[start:end], shape))
            start = end
        self.model, self._names, self._graphs = model, names, {1: first}

    def predict(self, batch: int, body: bytes) -> bytes:
        """This worker's share of the scores, from its share of the input. All three must call it with one another.

        Raises:
            Malformed: If the engine cannot compile the network for such a batch.
            RuntimeError: If another worker is gone, after the time-out.
        """
        assert self.model is not None
        executable = self._graph(batch)
        self._runtime.set_var("input", shares.wrap(body, (batch, *self.model.input_shape)))
        start = time.monotonic()
        self._runtime.run(executable)
        self.seconds += time.monotonic() - start
        result = shares.unwrap(self._runtime.get_var("scores"))
        for name in ("input", "scores"):
            self._runtime.del_var(name)
        return result

    def _graph(self, batch: int) -> libspu.Executable:
        assert self.model is not None
        if batch not in self._graphs:
            if len(self._graphs) == GRAPHS:
                del self._graphs[next(iter(self._graphs))]
            self._graphs[batch] = graph.compile_graph(
                self.model.plan, batch, self.model.input_shape, self._names
            )
        self._graphs[batch] = self._graphs.pop(batch)
        return self._graphs[batch]


def digest(*parts: object) -> str:
    """32 hexadecimal digits, by which workers compare what each was told."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
