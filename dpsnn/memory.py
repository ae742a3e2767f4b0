"""How this process treats the memory of freed tensors, how much it has held, and how much there is."""

import ctypes
import functools
import mmap
import os
import resource
import sys
from pathlib import Path

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of glibc's mallopt(3), from malloc.h."""

HEAP = 3 * 2**29
"""Bytes for which the heap asks for large pages at most; beyond 2 GiB freed memory would be handed back."""

LARGE_PAGE = 2**21
"""Bytes of one, on x86 and most others; where it has more, what is asked for begins and ends within one."""


@functools.cache
def keep_memory() -> bool:
    """Let this process keep the memory of freed tensors for the next ones instead of handing it back to the system.

    glibc maps every large tensor anew, so that each step of a training on the CPU meets the same page faults again:
    two fifths of the time of a step on 105×105 images. What is kept lies in large pages, where the system gives them
    to who asks: a step of the paper's network takes 4 % less. Of no effect with other C libraries.

    Returns:
        Whether the C library took the settings.
    """
    try:
        library = ctypes.CDLL(None)
        mallopt = library.mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**26}
    kept = all(mallopt(name, value) == 1 for name, value in settings.items())
    if kept and not _promised_is_spent():
        _ask_for_large_pages(library)
    return kept


def _promised_is_spent() -> bool:
    """Whether Linux counts memory that nobody has touched as used: then several processes would leave none."""
    try:
        return Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2"
    except OSError:
        return False


def _ask_for_large_pages(library: ctypes.CDLL) -> None:
    """Have the heap grow once, without touching what is new, and ask for large pages there.

    As `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` does, which counts only where a process finds it when it starts. A system
    that lacks the memory, or such pages, leaves all as it was.
    """
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes = [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    library.free(library.malloc(min(HEAP, memory_bytes() // 8)))  # of nothing, nothing is freed
    for first, last in _heap():
        start = -(-first // LARGE_PAGE) * LARGE_PAGE
        if last > start:
            library.madvise(start, last - start, mmap.MADV_HUGEPAGE)


def _heap() -> list[tuple[int, int]]:
    """First address of the heap, and the first behind it."""
    try:
        with open("/proc/self/maps", "rb") as lines:
            ranges = [line.split()[0].split(b"-") for line in lines if line.endswith(b"[heap]\n")]
    except OSError:
        return []
    return [(int(first, 16), int(last, 16)) for first, last in ranges]


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
