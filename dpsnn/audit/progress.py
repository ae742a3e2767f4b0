"""How far an audit is, and how long the rest takes, about."""

import sys
import time
from collections.abc import Sequence

from dpsnn.audit.plan import Planned
from dpsnn.signals import check

FIRM = 0.2
"""Part of a cut's attacks from which on what they took says what the others will."""


class Progress:
    """One line on standard error before each attack, with the time that is left.

    Attacks take from none to nearly all of the time of a cut, the cheap ones first: nothing is said of the time until
    a fair part of the first cut is done, by the attacks' nominal shares; after that whole cuts say what others will.

    Args:
        cuts: How many there are.
    """

    def __init__(self, cuts: int) -> None:
        self.cuts, self.begun = cuts, 0
        self.where = ""
        self.start = self.since = time.monotonic()
        self.total = self.behind = 0.0

    def at(self, where: str, attacks: Sequence[Planned], seeds: int) -> None:
        """The next cut begins, with these attacks, each so often."""
        self.where, self.begun, self.since = where, self.begun + 1, time.monotonic()
        self.total, self.behind = seeds * sum(each.share for each in attacks), 0.0

    def __call__(self, planned: Planned, seed: int) -> None:
        check()
        print(
            f"audit: {self.where}: {planned.label}, seed {seed}{self._left()}",
            file=sys.stderr,
            flush=True,
        )
        self.behind += planned.share

    def _left(self) -> str:
        spent, whole = time.monotonic() - self.since, self.begun - 1
        if self.behind >= FIRM * self.total:
            each = spent * self.total / self.behind
        elif whole:
            each = (self.since - self.start) / whole
        else:
            return ""
        left = max(0.0, each - spent) + each * (self.cuts - self.begun)
        return f", about {_spelled(left)} left"

    def done(self) -> None:
        took = _spelled(time.monotonic() - self.start)
        print(f"audit: done in {took}", file=sys.stderr, flush=True)


def _spelled(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
