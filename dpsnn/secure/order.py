"""In which order requests are computed: that in which the last of the three workers got its share. Kept by worker 0."""

from collections import OrderedDict, deque
from typing import NamedTuple

from dpsnn.secure.config import PARTIES, Seconds


class Dropped(NamedTuple):
    """A request that will not be computed."""

    id: str
    reason: str


class Order:
    """Requests by what has arrived where. Clients cannot hold up one another: who is incomplete waits aside.

    Args:
        patience: Seconds that an incomplete request waits for its other shares.
    """

    def __init__(self, patience: Seconds) -> None:
        self.patience = patience
        self._waiting: OrderedDict[str, tuple[Seconds, dict[int, str]]] = OrderedDict()
        self._ready: deque[str] = deque()
        self._dropped: list[Dropped] = []

    def arrive(self, id: str, rank: int, digest: str, now: Seconds) -> None:
        """Worker `rank` has its share of a request, which it was described as `digest` says."""
        since, digests = self._waiting.setdefault(id, (now, {}))
        digests[rank] = digest
        if len(digests) < PARTIES:
            return
        del self._waiting[id]
        if len(set(digests.values())) == 1:
            self._ready.append(id)
        else:
            self._dropped.append(Dropped(id, "the workers were told different things"))

    def next(self) -> str | None:
        """The request whose turn it is."""
        return self._ready.popleft() if self._ready else None

    def dropped(self, now: Seconds) -> list[Dropped]:
        """Requests that came to nothing since the last call."""
        late = [id for id, (since, _) in self._waiting.items() if now - since > self.patience]
        for id in late:
            del self._waiting[id]
            self._dropped.append(Dropped(id, "its other shares did not arrive in time"))
        made, self._dropped = self._dropped, []
        return made

    def abandon(self) -> list[str]:
        """Forget all requests that are left, and say which."""
        left = [*self._ready, *self._waiting]
        self._ready.clear()
        self._waiting.clear()
        return left
