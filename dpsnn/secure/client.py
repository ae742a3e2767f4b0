"""A client: splits its images into shares, gives one to each worker, and puts their answers together.

It learns the shape of the input and the number of classes, nothing else of the model. No worker gets more than a share.
"""

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from dpsnn.errors import UsageError
from dpsnn.secure import shares
from dpsnn.secure.config import PARTIES, Cluster
from dpsnn.secure.dial import dial
from dpsnn.secure.messages import Channel, ClusterFailed, Gone, Header, Malformed, NotAdmitted

GRACE_SECONDS = 5.0
"""Beyond the cluster's time-out, so that a worker can say what happened before the client gives up."""

AGAIN = "nothing was returned; serve and share it again with `dpsnn secure serve --model NAME`"
WELL = "nothing was returned, but all workers are there"
LONGER = "raise --timeout of `serve` and `query` (`timeout` in cluster.toml), or send fewer images at a time"

PROBE_SECONDS = 3.0
"""For a worker to let us in again."""

PATIENCE_SECONDS = 2.0
"""For the other workers' answers when one has failed."""


class Public(NamedTuple):
    """All that a client learns of a model."""

    input_shape: tuple[int, ...]
    """Of one example."""
    content: str
    """What it expects: `images`, or `smashed`, what the client half on the device makes of them."""
    classes: int
    pairing: str
    """Names that client half; empty without one."""
    max_batch: int


class Client:
    """Connected with all three workers until it is closed; use it in a `with`.

    Args:
        cluster: The workers.
        name: Of the certificate to come with, where the cluster uses TLS.

    Raises:
        UsageError: If no model is shared.
        ClusterFailed: If a worker cannot be reached, or they contradict one another.
    """

    def __init__(self, cluster: Cluster, name: str = "client") -> None:
        self._cluster, self._name = cluster, name
        self._channels: list[Channel] = []
        self._pool = ThreadPoolExecutor(PARTIES)
        try:
            for rank in range(PARTIES):
                self._channels.append(dial(cluster, rank, "client", name))
            described = self._ask("describe", [b""] * PARTIES, "model")
            seen = [
                Public(
                    **{k: header[k] for k in Public._fields if k != "input_shape"},
                    input_shape=tuple(header["input_shape"]),
                )
                for header, _ in described
            ]
            if len(set(seen)) > 1:
                raise ClusterFailed("the workers describe different models; share it again")
            self.model = seen[0]
        except BaseException:
            self.close()
            raise

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received so far, over all connections."""
        return (
            sum(channel.sent_bytes for channel in self._channels),
            sum(channel.received_bytes for channel in self._channels),
        )

    def scores(self, values: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n classes"]:
        """The scores of one batch.

        Raises:
            UsageError: If the batch does not fit the model, or the workers refuse it.
            ClusterFailed: If a worker breaks off or does not answer in time; nothing partial is returned.
        """
        if values.shape[1:] != self.model.input_shape:
            raise UsageError(
                f"values of shape {values.shape[1:]}, but the model takes {self.model.input_shape}"
            )
        if not 1 <= len(values) <= self.model.max_batch:
            raise UsageError(
                f"a batch of {len(values)}; the workers take 1 to {self.model.max_batch}"
            )
        if not np.isfinite(values).all():
            raise UsageError("values that are not finite cannot be shared")
        parts = shares.split(values)
        answers = self._ask("query", parts, "result", id=secrets.token_hex(16), batch=len(values))
        try:
            return shares.join([body for _, body in answers], (len(values), self.model.classes))
        except Malformed as error:
            raise ClusterFailed(f"the answer cannot be trusted: {error}") from error

    def all_scores(
        self, values: Float[np.ndarray, "n ..."], batch: int
    ) -> Iterator[Float[np.ndarray, "b classes"]]:
        """The scores of many examples, batch after batch."""
        for start in range(0, len(values), batch):
            yield self.scores(values[start : start + batch])

    def close(self) -> None:
        for channel in self._channels:
            channel.close()
        self._pool.shutdown()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(
        self, kind: str, bodies: list[bytes], wanted: str, **values: Any
    ) -> list[tuple[Header, bytes]]:
        """One message to each worker at once, and each one's answer; the first failure ends it for all."""
        tasks = [
            self._pool.submit(self._ask_one, channel, kind, body, wanted, values)
            for channel, body in zip(self._channels, bodies)
        ]
        for task in as_completed(tasks):
            if isinstance(task.result(), Exception):
                # The others know more of it, unless they hang.
                wait(tasks, PATIENCE_SECONDS)
                for channel in self._channels:
                    channel.abort()
        return self._all_or_nothing([task.result() for task in tasks])

    def _ask_one(
        self, channel: Channel, kind: str, body: bytes, wanted: str, values: dict[str, Any]
    ) -> "tuple[Header, bytes] | Exception":
        seconds = self._cluster.timeout + GRACE_SECONDS
        try:
            channel.send(kind, body, seconds, **values)
            header = channel.receive(wanted, "refused", "late", "failed", seconds=seconds)
            match header["kind"]:
                case "refused":
                    return UsageError(header["reason"])
                case "late":
                    return TimeoutError(header["reason"])
                case "failed":
                    return ClusterFailed(f"{header['reason']}; {AGAIN}")
            size = 0
            if wanted == "result":
                size = shares.size((values["batch"], self.model.classes))
            return header, channel.body(header, size, seconds)
        except (Gone, Malformed, TimeoutError) as error:
            return error

    def _all_or_nothing(
        self, answers: "list[tuple[Header, bytes] | Exception]"
    ) -> list[tuple[Header, bytes]]:
        good = [answer for answer in answers if isinstance(answer, tuple)]
        if len(good) == len(answers):
            return good
        # What a worker says of it tells more than a connection that broke.
        for wanted in (UsageError, ClusterFailed):
            for answer in answers:
                if isinstance(answer, wanted):
                    raise answer
        bad = [(rank, error) for rank, error in enumerate(answers) if isinstance(error, Exception)]
        # One that waits in vain closes the others' connections, so it comes before them.
        rank, error = min(bad, key=lambda pair: not isinstance(pair[1], TimeoutError))
        raise self._broken(rank, error) from error

    def _broken(self, rank: int, error: Exception) -> ClusterFailed:
        """What to do about an answer that did not come: whether the workers are well shows when they are called."""
        for other in range(PARTIES):
            try:
                dial(self._cluster, other, "client", self._name, PROBE_SECONDS).close()
            except NotAdmitted:  # all our places are taken, so it is there
                pass
            except ClusterFailed:
                return ClusterFailed(f"worker {rank}: {error}; {AGAIN}")
        remedy = LONGER if isinstance(error, TimeoutError) else "ask again"
        return ClusterFailed(f"worker {rank}: {error}; {WELL}: {remedy}")
