"""Processes that do not outlive the one that started the run."""

import os
import signal
import threading
import time

POLL = 0.2
"""Seconds between two looks."""


def end_with(parent: int) -> None:
    """Kill this process once process `parent` is gone, whatever its threads wait for.

    Flower's own monitor interrupts the main thread, which notices nothing while it waits for other threads, such as
    those that ask a SuperLink that is gone for a message again and again.
    """
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while _exists(parent):
        time.sleep(POLL)
    os.kill(os.getpid(), signal.SIGKILL)


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
