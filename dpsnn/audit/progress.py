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
    a fair part of a cut is done, by the attacks' nominal shares; after that earlier cuts say what others will. What was
    kept of an earlier call took no time, and does not say what the rest takes.

    Args:
        cuts: How many there are.
    """

    def __init__(self, cuts: int) -> None:
        self.cuts, self.begun = cuts, 0
        self.where = ""
        self.start = self.since = time.monotonic()
        self.total = self.made = self.kept = 0.0
        self.took: list[float] = []
        """By each cut of which a fair part was made, as if all of it had been."""

    def at(self, where: str, attacks: Sequence[Planned], seeds: int) -> None:
        """The next cut begins, with these attacks, each so often."""
        if (each := self._whole()) is not None:
            self.took.append(each)
        self.where, self.begun, self.since = where, self.begun + 1, time.monotonic()
        self.total, self.made, self.kept = seeds * sum(each.share for each in attacks), 0.0, 0.0

    def __call__(self, planned: Planned, seed: int) -> None:
        check()
        print(
            f"audit: {self.where}: {planned.label}, seed {seed}{self._left()}",
            file=sys.stderr,
            flush=True,
        )
        self.made += planned.share

    def found(self, planned: Planned) -> None:
        """The attack that was told last was there already."""
        self.made -= planned.share
        self.kept += planned.share

    def _whole(self) -> float | None:
        """Seconds of this cut with all its attacks; None where too few of them were made to say."""
        if not self.made > 0 or self.made < FIRM * self.total:
            return None
        return (time.monotonic() - self.since) * self.total / self.made

    def _left(self) -> str:
        own = self._whole()
        known = self.took if own is None else [*self.took, own]
        if not known:
            return ""
        each = sum(known) / len(known)
        whole = (each if own is None else own) * (1 - self.kept / self.total)
        here = max(0.0, whole - (time.monotonic() - self.since))
        return f", about {_spelled(here + each * (self.cuts - self.begun))} left"

    def done(self) -> None:
        took = _spelled(time.monotonic() - self.start)
        print(f"audit: done in {took}", file=sys.stderr, flush=True)


def _spelled(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
