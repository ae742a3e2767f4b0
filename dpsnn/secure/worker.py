"""One of three workers: takes shares, computes with the other two, hands its share of the result to who asked.

Threads of the listener take requests and wait for their answers; one thread, the process's first, uses the engine. All
three engines must compute the same requests in the same order, which worker 0 tells the others over its connections to
them. The engine's state cannot be trusted after an error in it, and a worker that is gone cannot be replaced, for its
shares are gone with it. Then every request is answered by one error, and all workers end: start anew and share again.
"""

import os
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dpsnn.memory import peak_bytes
from dpsnn.secure import graph, shares
from dpsnn.secure.config import PARTIES, START_SECONDS, Cluster
from dpsnn.secure.dial import dial
from dpsnn.secure.engine import Engine, Model
from dpsnn.secure.job import Job
from dpsnn.secure.keys import Identity, worker_name
from dpsnn.secure.messages import Channel, Gone, Header, Malformed, Refused
from dpsnn.secure.order import Order

PENDING = 32
"""Requests held at a time; their shares are memory."""

REMEMBERED = 100_000
"""Identifiers of requests, none of which is taken twice."""

FLUSH_SECONDS = 5.0

KINDS = {
    "client": ("describe", "query"),
    "owner": ("share", "status", "stop"),
    "worker": ("run", "drop", "stop", "failed"),
}
"""Role → what it may ask of a worker."""


class Worker:
    """The state of one worker, and what each message does.

    Args:
        cluster: All three.
        rank: Which of them this is.
        engine: Its engine.
        num_requests: Queries after which the cluster stops by itself; 0 for never.
        log: Takes one line.
        ready: Called when the worker is connected with the others.
    """

    kinds: Mapping[str, Sequence[str]] = KINDS

    def __init__(
        self,
        cluster: Cluster,
        rank: int,
        engine: Engine,
        num_requests: int,
        log: Callable[[str], None],
        ready: Callable[[], None],
    ) -> None:
        self.cluster, self.rank, self.engine = cluster, rank, engine
        self.log, self.ready = log, ready
        self.num_requests = num_requests
        self.served = 0
        self._order = Order(cluster.timeout / 2)
        self._jobs: dict[str, Job] = {}
        self._current: Job | None = None
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._commands: queue.SimpleQueue[Header] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._unanswered = 0
        self._ending = ""
        """Why the worker takes no more requests; empty while it does."""
        self._told_to_stop = False
        self._failing = threading.Lock()
        self._leader: Channel | None = None
        self._followers: list[Channel] = []

    # ------------------------------------------------------------ messages, in the threads of the listener

    def joined(self, channel: Channel, who: Identity) -> None:
        """Somebody has connected; a worker is worker 0, which leads."""
        if who.role != "worker":
            return
        with self._changed:
            if self._leader or self.rank == 0:
                raise Refused("this worker is led already")
            self._leader = channel
        self.log("ready")
        self.ready()

    def left(self, channel: Channel) -> None:
        """A connection has ended."""
        if channel is self._leader and not self._told_to_stop:
            self.fail("worker 0 went away")

    def handle(self, channel: Channel, who: Identity, header: Header) -> None:
        """Do what a message asks.

        Raises:
            Refused, Malformed: If it may not be done; the connection ends.
        """
        if header["kind"] not in ("query", "share"):
            channel.body(header, 0, 1.0)
        match header["kind"]:
            case "describe":
                self._describe(channel)
            case "query":
                self._query(channel, header)
            case "share":
                self._share(channel, header, who)
            case "status":
                self._status(channel)
            case "stop" if who.role == "owner":
                channel.send("welcome")
                self.stop("the cluster was stopped")
            case "failed":
                self.fail(header["reason"])
            case command:
                if command == "stop":
                    self._told_to_stop = True
                self._commands.put(header)

    def _model(self) -> Model:
        if self.engine.model is None:
            raise Refused("no model is shared; its owner does so with `dpsnn secure share`")
        return self.engine.model

    def _describe(self, channel: Channel) -> None:
        model = self._model()
        channel.send(
            "model",
            input_shape=list(model.input_shape),
            content=model.content,
            classes=model.classes,
            pairing=model.pairing,
            max_batch=self.cluster.max_batch,
        )

    def _query(self, channel: Channel, header: Header) -> None:
        model, batch = self._model(), header["batch"]
        if batch > self.cluster.max_batch:
            raise Refused(f"a batch of {batch}; at most {self.cluster.max_batch} are taken")
        size = shares.size((batch, *model.input_shape))
        body = channel.body(header, size, self.cluster.timeout)
        self._submit(channel, Job(header["id"], model, batch, body))

    def _share(self, channel: Channel, header: Header, who: Identity) -> None:
        shapes = graph.check(header["plan"])
        size = sum(shares.size(shape) for shape in shapes)
        if size > self.cluster.max_bytes:
            raise Refused(f"weights of {size} bytes; at most {self.cluster.max_bytes} are taken")
        classes = graph.output_classes(header["plan"], header["input_shape"])
        model = Model(
            header["id"],
            header["plan"],
            tuple(header["input_shape"]),
            classes,
            header["content"],
            header["pairing"],
        )
        body = channel.body(header, size, self.cluster.timeout)
        self.log(f"{who.name} shares a model of {len(body)} bytes")
        self._submit(channel, Job(header["id"], model, 0, body))

    def _status(self, channel: Channel) -> None:
        channel.send(
            "state",
            served=self.served,
            engine_bytes=self.engine.sent_bytes,
            engine_seconds=self.engine.seconds,
            peak_bytes=peak_bytes(),
            graphs=self.engine.graphs,
        )

    def _submit(self, channel: Channel, job: Job) -> None:
        """Queue a request, wait for its turn, send what came of it."""
        with self._changed:
            if self._ending:
                raise Refused(self._ending)
            if job.id in self._seen:
                raise Refused("this request was made before: replayed")
            if job.batch and len(self._jobs) >= PENDING:  # the owner always gets in
                raise Refused(f"{PENDING} requests are waiting; try again later")
            self._seen[job.id] = None
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
            self._jobs[job.id] = job
            self._unanswered += 1
        try:
            self._announce(job)
            answer = job.wait(self.cluster.timeout)
            channel.send(answer.kind, answer.body, self.cluster.timeout, **answer.values)
        finally:
            with self._changed:
                self._unanswered -= 1
                self._changed.notify_all()

    def _announce(self, job: Job) -> None:
        if self.rank == 0:
            self._arrive(job.id, 0, job.digest)
        elif self._leader:
            self._leader.send("arrived", id=job.id, digest=job.digest)

    def _arrive(self, id: str, rank: int, digest: str) -> None:
        with self._changed:
            self._order.arrive(id, rank, digest, time.monotonic())
            self._changed.notify_all()

    # ------------------------------------------------------------ the engine's thread

    def lead(self) -> None:
        """Worker 0: compute what has arrived everywhere, one request after another."""
        finished: queue.SimpleQueue[str] = queue.SimpleQueue()
        for rank in range(1, PARTIES):
            follower = dial(self.cluster, rank, "worker", worker_name(0), START_SECONDS)
            self._followers.append(follower)
            threading.Thread(
                target=self._listen_to, args=(follower, rank, finished), daemon=True
            ).start()
        self.log("ready")
        self.ready()
        while job := self._next():
            reason = ""
            if job.is_answered:
                reason = "it has waited too long"
            elif job.batch and job.model != self.engine.model:
                reason = "the model was replaced meanwhile; ask again"
            if reason:
                job.answer("refused", reason=reason)
                self._drop(job.id, reason)
                continue
            self._tell_followers("run", id=job.id)
            self._perform(job)
            for _ in self._followers:
                finished.get()
            if self.num_requests and self.served == self.num_requests:
                self.stop(f"the cluster has served its {self.num_requests} requests")
        self.let_fail()
        with self._changed:
            left = {*self._order.abandon(), *self._jobs}
        for id in left:
            self._drop(id, self._ending)
        self._tell_followers("stop")

    def follow(self) -> None:
        """Worker 1 or 2: do what worker 0 says, in that order."""
        while (command := self._commands.get())["kind"] != "stop":
            with self._changed:
                job = self._jobs.pop(command["id"], None)
            if job is None:
                continue
            if command["kind"] == "drop":
                job.answer("refused", reason=command["reason"])
                continue
            self._perform(job)
            assert self._leader is not None
            self._leader.send("done", id=job.id)

    def _next(self) -> Job | None:
        """Worker 0's next request; None when it is to end."""
        while True:
            with self._changed:
                if self._ending:
                    return None
                dropped = self._order.dropped(time.monotonic())
                id = self._order.next()
                if id is None and not dropped:
                    self._changed.wait(1.0)
                job = self._jobs.pop(id, None) if id else None
            for late in dropped:
                self._drop(*late)
            if job:
                return job

    def _drop(self, id: str, reason: str) -> None:
        with self._changed:
            job = self._jobs.pop(id, None)
        if job:
            job.answer("refused", reason=reason)
        self.log(f"dropped a request: {reason}")
        self._tell_followers("drop", id=id, reason=reason)

    def _perform(self, job: Job) -> None:
        self._current = job
        try:
            if job.batch:
                scores = self.engine.predict(job.batch, job.body)
                self.served += 1
                job.answer("result", scores, classes=job.model.classes)
            else:
                self.engine.load(job.model, job.body)
                job.answer("shared")
        except Malformed as error:
            # All three say so alike, before their engines have exchanged anything.
            job.answer("refused", reason=str(error))
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            self.fail(f"the engine failed: {first[:200]}")

    def _listen_to(self, follower: Channel, rank: int, finished: "queue.SimpleQueue[str]") -> None:
        """Worker 0: what a follower says."""
        try:
            while True:
                header = follower.receive("arrived", "done", "stop", "failed")
                match header["kind"]:
                    case "arrived":
                        self._arrive(header["id"], rank, header["digest"])
                    case "done":
                        finished.put(header["id"])
                    case "stop":
                        self.stop("the cluster was stopped")
                    case "failed":
                        self.fail(header["reason"])
        except (Gone, Malformed):
            if not self._ending:
                self.fail(f"worker {rank} went away")

    def _tell_followers(self, kind: str, **values: Any) -> None:
        for rank, follower in enumerate(self._followers, start=1):
            try:
                follower.send(kind, **values)
            except (Gone, TimeoutError):
                if not self._ending:
                    self.fail(f"worker {rank} went away")

    # ------------------------------------------------------------ the end

    def stop(self, reason: str) -> None:
        """Take no more requests; the engine's thread then ends the worker."""
        if self._leader:
            # It ends all three, each when its engine has finished what the others compute with it.
            self._leader.send("stop")
            return
        with self._changed:
            self._ending = self._ending or reason
            self._changed.notify_all()
        self.log(self._ending)

    def let_fail(self) -> None:
        """Do not return where another thread is ending the process by `fail`: the end is its to tell."""
        with self._failing:
            pass

    def flush(self) -> None:
        """Wait until answers are sent."""
        with self._changed:
            self._changed.wait_for(lambda: not self._unanswered, FLUSH_SECONDS)

    def fail(self, reason: str) -> None:
        """Answer everybody with one error and end the process; does not return."""
        with self._failing:
            self._ending = self._ending or reason
            self.log(f"failed: {reason}")
            with self._changed:
                jobs = [*self._jobs.values(), *([self._current] if self._current else [])]
            for job in jobs:
                job.answer("failed", reason=reason)
            for channel in (*self._followers, *([self._leader] if self._leader else [])):
                try:
                    channel.send("failed", seconds=1.0, reason=reason[:400])
                except (OSError, TimeoutError):
                    pass
            self.flush()
            # The engine's thread may be waiting for a message that never comes, and cannot be interrupted.
            os._exit(1)
