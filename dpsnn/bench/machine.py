"""What a benchmark runs on: the machine, the versions, and what else the machine was doing."""

import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from dpsnn.cores import cores
from dpsnn.memory import memory_bytes
from dpsnn.numbers import Number

VERSIONS = {
    "torch": "torch",
    "lightning": "pytorch-lightning",
    "opacus": "opacus",
    "dpsnn": "dpsnn",
}
"""What it is called → the package."""

MATTER = ("avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "sve", "bf16")
"""Instructions that speed depends on, by torch's names."""


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, threads, instructions, memory in GiB, and the GPU if there is one."""
    able = torch.cpu.get_capabilities()
    return {
        "processor": _processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "instructions": [name for name in MATTER if able.get(name)],
        "memory": round(memory_bytes() / 1024**3, 1),
        "gpu": _gpu(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpu() -> str:
    if not torch.cuda.is_available():
        return ""
    found = torch.cuda.get_device_properties(0)
    count = torch.cuda.device_count()
    return (
        f"{f'{count} × ' if count > 1 else ''}{found.name}, {found.total_memory / 1024**3:.0f} GiB"
    )


def versions() -> dict[str, str]:
    """Name → version, of Python and what the numbers depend on."""
    found = {"python": platform.python_version()}
    for name, package in VERSIONS.items():
        try:
            found[name] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str:
    """Of the checkout that this dpsnn is in, with a + where files differ from it; empty where there is none."""
    home = Path(__file__).parents[2]
    if not (home / ".git").exists():
        return ""
    said = ["git", "-C", str(home), "describe", "--always", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(said, capture_output=True, text=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def load(seconds: float = 1.0) -> float:
    """Cores that are busy while this process waits; where the system does not tell, those of the last minute."""
    told = Path("/proc/stat")
    if not told.exists():
        return round(os.getloadavg()[0], 2)
    before = told.read_text()
    time.sleep(seconds)
    return round(busy(before, told.read_text(), os.sysconf("SC_CLK_TCK") * seconds), 2)


def busy(before: str, after: str, ticks: Number) -> float:
    """Cores that did anything between two readings of proc(5)'s `stat`, what other guests of the machine took included.

    Args:
        before: The first reading.
        after: The second.
        ticks: Between the two, of one core.
    """
    # user, nice, system, idle, waiting, interrupts, softer ones, stolen; the guests' that follow are among the user's.
    first, second = ([int(n) for n in text.split("\n")[0].split()[1:9]] for text in (before, after))
    spent = [late - early for early, late in zip(first, second)]
    return (sum(spent) - spent[3] - spent[4]) / ticks
