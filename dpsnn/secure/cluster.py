"""All three workers on one machine, each in a process of its own."""

import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from dpsnn.secure.config import PARTIES, START_SECONDS, Cluster, Seconds, to_toml
from dpsnn.secure.messages import ClusterFailed


class LocalCluster:
    """Three worker processes; use it in a `with`, which ends them however it is left; they end with this process too.

    Args:
        cluster: Where they listen.
        folder: For the file that tells them.
        num_requests: Queries after which they stop by themselves; 0 for never.
        log: Where their standard error goes; None leaves it to this process's.

    Raises:
        ClusterFailed: If one does not start.
    """

    def __init__(
        self,
        cluster: Cluster,
        folder: Path,
        num_requests: int = 0,
        log: IO[bytes] | None = None,
    ) -> None:
        self.cluster = cluster
        self.config = folder / "cluster.toml"
        folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(to_toml(cluster), encoding="utf-8")
        command = [sys.executable, "-m", "dpsnn.secure.process", str(self.config)]
        self.processes = [
            subprocess.Popen(
                [*command, str(rank), str(num_requests), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
            for rank in range(PARTIES)
        ]
        try:
            self._wait_until_ready(START_SECONDS)
        except BaseException:
            self.kill()
            raise

    def _wait_until_ready(self, seconds: Seconds) -> None:
        deadline = time.monotonic() + seconds
        for rank, process in enumerate(self.processes):
            assert process.stdout is not None
            while not select.select([process.stdout], [], [], 0.05)[0]:
                if any(other.poll() is not None for other in self.processes):
                    raise ClusterFailed("a worker did not start; its own line says why")
                if time.monotonic() > deadline:
                    raise ClusterFailed(f"worker {rank} is not ready after {seconds:g} s")
            if process.stdout.readline() != b"ready\n":
                raise ClusterFailed("a worker did not start; its own line says why")

    def wait(self) -> int:
        """Wait until all have ended; when one fails, the others are ended too.

        Returns:
            0 if they all ended in order, 1 otherwise.
        """
        while (codes := [process.poll() for process in self.processes]).count(None):
            if any(codes):
                # They notice by themselves and answer their clients first.
                time.sleep(2)
                self.kill()
            time.sleep(0.05)
        return int(any(codes))

    def kill(self) -> None:
        """End all three at once."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
            if process.stdout:
                process.stdout.close()

    def __enter__(self) -> "LocalCluster":
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
