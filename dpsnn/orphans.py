"""Processes that do not outlive the one that started them, even where that one is killed and cannot end them."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

POLL = 0.2
"""Seconds between two looks."""


def end_with(parent: int, folder: Path | None = None) -> None:
    """Kill this process once `parent`, which started it, is gone, whatever the threads of this one wait for.

    To interrupt the main thread instead, as Flower's own monitor does, is not enough: it notices nothing while it waits
    for other threads, such as those that ask a server that is gone for a message again and again.

    Args:
        parent: Its number.
        folder: What it would have taken away itself, if it could.
    """
    threading.Thread(target=_watch, args=(parent, folder), daemon=True).start()


def _watch(parent: int, folder: Path | None) -> None:
    # Whose parent ends is handed to another at once, while the parent's number may live on until somebody waits for it.
    while os.getppid() == parent:
        time.sleep(POLL)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGKILL)
