"""How many cores there are for this process."""

import os


def cores() -> int:
    """Cores that this process may run on: fewer than the machine has where a scheduler or a container gives it some."""
    # Not on macOS.
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1
