"""Processes end with the one that started them, and not before."""

import os
import signal
import subprocess
import sys
from pathlib import Path

# Like a process that waits for its threads, it notices no signal but the last.
DEAF = """
import os, pathlib, signal, sys, time
from dpsnn.orphans import end_with
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
end_with(int(sys.argv[1]), pathlib.Path("left"))
while True:
    print(os.getpid(), flush=True)
    time.sleep(0.3)
"""

PARENT = """
import os, subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1], str(os.getpid())])
"""


def test_a_process_ends_with_its_parent_and_not_before(tmp_path: Path) -> None:
    (tmp_path / "left" / "deep").mkdir(parents=True)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, DEAF], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert parent.stdout
    try:
        deaf = int(parent.stdout.readline())
        os.kill(deaf, signal.SIGTERM)
        # It goes on, for longer than it takes to look at its parent.
        assert [int(parent.stdout.readline()) for _ in range(5)] == [deaf] * 5
        assert (tmp_path / "left").exists()
    finally:
        parent.kill()
    # The child holds the pipe too: it ends with the last of both.
    parent.communicate(timeout=60)
    assert not (tmp_path / "left").exists()
