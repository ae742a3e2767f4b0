"""The process that is one worker: what it opens before it is one, and how it ends."""

import contextlib
import os
import resource
import signal
import sys
import time

from dpsnn.errors import UsageError, one_line
from dpsnn.orphans import end_with
from dpsnn.secure import config
from dpsnn.secure.config import START_SECONDS, Cluster
from dpsnn.secure.engine import Engine, connect
from dpsnn.secure.listener import Listener
from dpsnn.secure.messages import ClusterFailed
from dpsnn.secure.worker import Worker


def run(cluster: Cluster, rank: int, num_requests: int = 0) -> None:
    """Be worker `rank` until the cluster stops; writes `ready` to standard output when all three are connected.

    Raises:
        UsageError: If a port of its own is taken or its certificate missing.
        ClusterFailed: If the other two do not come, or its engine does not start.
    """

    def log(text: str) -> None:
        # Who reads it may have gone, which is no reason to end.
        with contextlib.suppress(OSError):
            print(f"worker {rank}: {text}", file=sys.stderr, flush=True)

    # Ctrl-C ends it at once, also while the engine computes.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Strangers at the engine's port, whom its library does not limit, use up files too.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    listener = Listener(cluster, rank, log)
    start = time.monotonic()
    try:
        link = connect(cluster, rank)
    except RuntimeError as error:
        if time.monotonic() - start < START_SECONDS / 2:
            raise ClusterFailed(f"the engine of worker {rank} does not start: {error}") from error
        raise ClusterFailed(
            f"worker {rank} finds no other workers within {START_SECONDS:g} s"
        ) from error
    engine = Engine(link, [worker.engine_port for worker in cluster.workers])
    worker = Worker(cluster, rank, engine, num_requests, log, lambda: print("ready", flush=True))
    listener.start(worker)
    (worker.follow if rank else worker.lead)()
    worker.let_fail()
    worker.flush()
    # The engine's own threads would wait for the others, who may be gone already.
    os._exit(0)


def main() -> int:
    """`python -m dpsnn.secure.process CONFIG RANK NUM_REQUESTS [PARENT]`: without torch, which a worker does not need.

    With PARENT, the process that started it, it ends when that one does.
    """
    path, rank, num_requests, *parent = sys.argv[1:]
    if parent:
        end_with(int(parent[0]))
    try:
        run(config.read(path), int(rank), int(num_requests))
    except UsageError as error:
        print(f"dpsnn: {one_line(error)}", file=sys.stderr)
        return 2
    except ClusterFailed as error:
        print(f"dpsnn: {one_line(error)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
