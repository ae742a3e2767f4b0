"""How far an audit is, and how long the rest takes, about."""

import sys
import time

from dpsnn.audit.plan import Planned
from dpsnn.signals import check


class Progress:
    """One line on standard error before each attack, with the time that is left."""

    def __init__(self, total: int) -> None:
        self.total, self.done_ = total, 0
        self.where, self.label = "", ""
        self.start = self.begun = time.monotonic()
        self.spent: dict[str, list[float]] = {}

    def at(self, where: str) -> None:
        self._finish()
        self.where = where

    def __call__(self, planned: Planned, seed: int) -> None:
        check()
        self._finish()
        self.label, self.begun = planned.label, time.monotonic()
        left = ""
        if self.done_:
            each = (self.begun - self.start) / self.done_
            left = f", about {_spelled(each * (self.total - self.done_))} left"
        print(
            f"audit: {self.where}: {planned.label}, seed {seed}{left}", file=sys.stderr, flush=True
        )

    def _finish(self) -> None:
        if self.label:
            self.done_ = min(self.done_ + 1, self.total)
            self.label = ""

    def done(self) -> None:
        took = _spelled(time.monotonic() - self.start)
        print(f"audit: done in {took}", file=sys.stderr, flush=True)


def _spelled(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
