"""The memory of freed tensors stays with the process, in large pages where the system gives them."""

import subprocess
import sys
from pathlib import Path

import pytest

from dpsnn import memory

PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

ASKS = """
from dpsnn.memory import keep_memory, peak_bytes
before = peak_bytes()
assert keep_memory() and keep_memory()
flags, heap = [], False
for line in open("/proc/self/smaps"):
    if "-" in line.split()[0]:
        heap = line.rstrip().endswith("[heap]")
    elif heap and line.startswith(("Size:", "Rss:", "VmFlags:")):
        flags.append(line.split()[1:])
print(peak_bytes() - before, flags)
large = [size for size, rss, named in zip(*[iter(flags)] * 3) if "hg" in named]
print(sum(int(size[0]) for size in large))
"""


def asked() -> tuple[int, int]:
    """Bytes by which memory in use grew, and KiB of the heap that lie in large pages, of a process that asked."""
    done = subprocess.run([sys.executable, "-c", ASKS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    return int(first.split()[0]), int(last)


@pytest.mark.skipif(
    not PAGES.exists() or "[never]" in PAGES.read_text() or memory._promised_is_spent(),
    reason="no large pages on this system, or none that nobody touches",
)
def test_the_heap_asks_for_large_pages_and_touches_none() -> None:
    grown, large = asked()
    assert large * 1024 > min(memory.HEAP, memory.memory_bytes() // 8) - 2 * memory.LARGE_PAGE
    assert grown < 2**25


@pytest.mark.parametrize(("told", "asks"), [("0\n", True), ("1\n", True), ("2\n", False)])
def test_where_untouched_memory_counts_none_is_held(
    told: str, asks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(memory.Path, "read_text", lambda path: told)
    monkeypatch.setattr(memory, "_ask_for_large_pages", asked.append)
    if memory.keep_memory.__wrapped__():
        assert bool(asked) == asks


def test_without_glibc_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(name: None) -> object:
        return object()

    monkeypatch.setattr(memory.ctypes, "CDLL", lacking)
    assert not memory.keep_memory.__wrapped__()


def test_where_no_heap_is_listed_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def unread(*given: object) -> object:
        raise FileNotFoundError

    monkeypatch.setattr(memory, "open", unread, raising=False)
    assert memory._heap() == []
