"""TCP ports of this machine that nobody uses."""

import contextlib
import random
import socket
from pathlib import Path

HOST = "127.0.0.1"

LOWEST = 10_000
"""Well above those that services of a machine have."""

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""What the kernel gives to whoever connects or asks for any port."""


def free(count: int = 1) -> int:
    """The first of so many ports in a row of the loopback interface that nobody uses now.

    They are drawn from below those that the kernel gives away: a port asked of the kernel and let go again may be
    another connection's before the program that it is meant for has started. From a source of its own, so that no
    seeded generator moves.

    Raises:
        OSError: If a thousand places in a row were taken.
    """
    end = 32_768
    with contextlib.suppress(OSError, ValueError):
        end = max(int(EPHEMERAL.read_text().split()[0]), LOWEST + 1000)
    for left in reversed(range(1000)):
        first = random.SystemRandom().randrange(LOWEST, end - count)
        try:
            with contextlib.ExitStack() as held:
                for port in range(first, first + count):
                    held.enter_context(socket.create_server((HOST, port)))
            return first
        except OSError:
            if not left:
                raise
    raise AssertionError
