"""The view of a running group: what is done, what runs, what is left and for how long; a failure stops nothing else."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from dpsnn import signals
from dpsnn.errors import WorkFailed
from dpsnn.memory import peak_bytes
from dpsnn.numbers import Number


class GroupFailed(WorkFailed):
    """Members of a group failed; all others are done."""


def note(text: str) -> None:
    """A line of progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def duration(seconds: Number) -> str:
    """Seconds in words, rounded as one would say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def peak_memory() -> float:
    """The most memory that this process has held, in GiB."""
    return peak_bytes() / 1024**3


class Progress:
    """Runs the members of a group one after another and keeps count.

    Args:
        group: Name of the group.
        plan: Kind of each member that is still to be made, in any order, for instance `classifier`.
        done: Members that exist already.
    """

    def __init__(self, group: str, plan: Sequence[str], done: int) -> None:
        self.group = group
        self.left = {kind: plan.count(kind) for kind in dict.fromkeys(plan)}
        self.done = done
        self.total = done + len(plan)
        self.seconds: dict[str, list[float]] = {}
        self.checking = 0.0
        self.failed: dict[str, str] = {}

    def remaining(self) -> str:
        """Estimate from the median of what each kind took so far; none before each kind that is left was seen."""
        left = {kind: count for kind, count in self.left.items() if count}
        if not left.keys() <= self.seconds.keys():
            return "time unknown"
        per_kind = {kind: median(self.seconds[kind]) for kind in left}
        return f"about {duration(sum(count * per_kind[kind] for kind, count in left.items()))}"

    def make(self, kind: str, name: str, action: Callable[[], Path]) -> Path | None:
        """Make one member; None if it failed, which is noted and told at the end."""
        left = sum(self.left.values())
        note(
            f"[{self.group}: {self.done} of {self.total} done, {left} left, {self.remaining()}"
            f"{f', {len(self.failed)} failed' if self.failed else ''}] {kind} {name}"
        )
        signals.check()
        start = time.monotonic()
        self.left[kind] -= 1
        try:
            path = action()
        except Exception as error:  # whatever it is, the other members do not depend on it
            signals.check()
            self.failed[name] = " ".join(str(error).split()) or type(error).__name__
            note(f"  failed: {self.failed[name]}")
            return None
        self.seconds.setdefault(kind, []).append(time.monotonic() - start)
        self.done += 1
        return path

    def drop(self, kind: str, names: Sequence[str], reason: str) -> None:
        """Members that cannot be made because another one failed."""
        for name in names:
            self.left[kind] -= 1
            self.failed[name] = reason

    def check(self, name: str, action: Callable[[], object]) -> None:
        """Do something that belongs to a member and is too short to count; a failure is noted like a member's."""
        signals.check()
        start = time.monotonic()
        try:
            action()
        except Exception as error:
            signals.check()
            self.failed[name] = " ".join(str(error).split()) or type(error).__name__
            note(f"  failed: {self.failed[name]}")
        self.checking += time.monotonic() - start

    def close(self) -> None:
        """Say how long each part took, and how much memory.

        Raises:
            GroupFailed: If a member failed; the line names each with its reason.
        """
        parts = [f"{kind}s {duration(sum(times))}" for kind, times in self.seconds.items()]
        parts.append(f"evaluation {duration(self.checking)}")
        note(
            f"[{self.group}: {self.done} of {self.total} done] {', '.join(parts)};"
            f" at most {peak_memory():.1f} GiB of memory"
        )
        if self.failed:
            named = "; ".join(f"{name} ({reason})" for name, reason in self.failed.items())
            raise GroupFailed(f"{len(self.failed)} of {self.total} failed: {named}")
