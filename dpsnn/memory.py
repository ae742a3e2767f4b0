"""How this process treats the memory of freed tensors, how much it has held, and how much there is."""

import ctypes
import os
import resource
import sys
from pathlib import Path

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of glibc's mallopt(3), from malloc.h."""


def keep_memory() -> bool:
    """Let this process keep the memory of freed tensors for the next ones instead of handing it back to the system.

    glibc maps every large tensor anew, so that each step of a training on the CPU meets the same page faults again:
    two fifths of the time of a step on 105×105 images. Of no effect with other C libraries.

    Returns:
        Whether the C library took the settings.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**26}
    return all(mallopt(name, value) == 1 for name, value in settings.items())


def peak_bytes() -> int:
    """The most memory that this process has held.

    Linux counts to `ru_maxrss` what the process held from which this one was started, hence its own account, where
    there is one.
    """
    try:
        # As bytes: the name of a process may hold any, also a carriage return, which ends a line of text.
        with open("/proc/self/status", "rb") as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith(b"VmHWM:"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory_bytes() -> int:
    """Bytes of memory that there are, or that this container may use."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    allowed = limit.read_text().strip() if limit.exists() else "max"
    return min(there, int(allowed)) if allowed.isdigit() else there
