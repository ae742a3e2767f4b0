"""How far an audit is, and how long the rest takes, about."""

import sys
import time

from dpsnn.audit.plan import Planned
from dpsnn.signals import check


class Progress:
    """One line on standard error before each attack, with the time that is left.

    Attacks take from none to nearly all of the time of a cut, the cheap ones first: only what whole cuts took says
    what others will, so that nothing is said of it at the first.

    Args:
        cuts: How many there are.
    """

    def __init__(self, cuts: int) -> None:
        self.cuts, self.begun = cuts, 0
        self.where = ""
        self.start = self.since = time.monotonic()

    def at(self, where: str) -> None:
        """The next cut begins."""
        self.where, self.begun, self.since = where, self.begun + 1, time.monotonic()

    def __call__(self, planned: Planned, seed: int) -> None:
        check()
        print(
            f"audit: {self.where}: {planned.label}, seed {seed}{self._left()}",
            file=sys.stderr,
            flush=True,
        )

    def _left(self) -> str:
        done = self.begun - 1
        if done < 1:
            return ""
        each = (self.since - self.start) / done
        left = each * (self.cuts - done) - (time.monotonic() - self.since)
        return f", about {_spelled(left)} left" if left > 0 else ""

    def done(self) -> None:
        took = _spelled(time.monotonic() - self.start)
        print(f"audit: done in {took}", file=sys.stderr, flush=True)


def _spelled(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
