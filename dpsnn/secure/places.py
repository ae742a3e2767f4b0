"""Who may stand where at a worker's port: strangers at the door, for a moment, and those who are known in their role.

A connection costs a thread and a file descriptor, and anybody can open one. Hence no stranger takes the place of
anybody who is known, no client that of the owner, and no certificate those of all clients.
"""

import socket
import threading
import time
from collections.abc import Mapping

from dpsnn.secure.config import Seconds
from dpsnn.secure.keys import Identity
from dpsnn.secure.messages import Channel, Refused

STRANGERS = 128
"""Connections whose other end has not yet said who it is."""

STRANGER_SECONDS = 5.0
"""All the time that a stranger has for its handshake and its first message."""

MOMENT = 1.0
"""Seconds that every stranger has, however many come after it: enough for a handshake on a busy machine."""

PLACES: Mapping[str, int] = {"client": 64, "owner": 8, "worker": 2}
"""Role → connections of those who are known."""

OF_ONE_CERTIFICATE = 16
"""Connections of one client; where there are no certificates, all clients are one and this is no limit."""


class Door:
    """Connections of strangers, of which the oldest makes way when there are too many.

    Each has its `MOMENT` all the same: until the oldest has had it, whoever comes next waits in the kernel's queue,
    where it is served in turn. So strangers who come back as fast as they can delay the others, but keep out none.
    """

    def __init__(self, places: int = STRANGERS, seconds: Seconds = STRANGER_SECONDS) -> None:
        self._places, self._seconds = places, seconds
        self._since: dict[socket.socket, float] = {}  # the oldest first
        self._changed = threading.Condition()

    def enter(self, connection: socket.socket) -> None:
        """Let a stranger in; waits for a place, at most for a `MOMENT`."""
        with self._changed:
            while len(self._since) >= self._places:
                left = next(iter(self._since.values())) + MOMENT - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                else:
                    self._show_out()
            self._since[connection] = time.monotonic()

    def leave(self, connection: socket.socket) -> bool:
        """It is known, or has gone. Returns False if it had been shown out before."""
        with self._changed:
            self._changed.notify_all()
            return self._since.pop(connection, None) is not None

    def tidy(self) -> None:
        """Show out all whose time is over."""
        with self._changed:
            late = time.monotonic() - self._seconds
            while self._since and next(iter(self._since.values())) <= late:
                self._show_out()

    def halve(self) -> int:
        """Show out the older half, and say how many that were."""
        with self._changed:
            count = (len(self._since) + 1) // 2
            for _ in range(count):
                self._show_out()
        return count

    def _show_out(self) -> None:
        connection = next(iter(self._since))
        del self._since[connection]
        try:
            # Of the socket below: that of TLS would go on in clear with what has arrived.
            socket.socket.shutdown(connection, socket.SHUT_RDWR)
        except OSError:  # it has gone by itself
            pass


class Places:
    """Connections of those who are known, each role with its own number of them."""

    def __init__(self) -> None:
        self._taken: dict[Channel, Identity] = {}  # the oldest first
        self._lock = threading.Lock()

    def take(self, channel: Channel, who: Identity, certified: bool) -> None:
        """Give a place to who has come.

        Raises:
            Refused: If there is none left. The owner always finds one: its oldest connection is closed.
        """
        with self._lock:
            same = [other for other, known in self._taken.items() if known.role == who.role]
            if len(same) >= PLACES[who.role]:
                if who.role != "owner":
                    raise Refused(f"{len(same)} {who.role}s are connected; try again later")
                del self._taken[same[0]]
                same[0].abort()
            mine = sum(known == who for known in self._taken.values())
            if certified and who.role == "client" and mine >= OF_ONE_CERTIFICATE:
                raise Refused(f"{mine} connections of {who.name} are open; close one of them")
            self._taken[channel] = who

    def free(self, channel: Channel | None) -> None:
        with self._lock:
            if channel:
                self._taken.pop(channel, None)
