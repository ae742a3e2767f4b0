"""What goes over a control connection: a header of checked JSON, then raw bytes. Nothing in it can be executed.

    length of the header (4 bytes) | header (JSON, at most 64 KiB) | body (as many bytes as the header says)

A header names its kind; `SCHEMAS` says which fields that kind has and which values they may take, and anything else is
refused. The listener opens each connection with a nonce that it drew for it. Every message carries that nonce and its
number in its direction, so that a message recorded on another connection, or sent twice on one, is refused.

Sockets never block: every read and write has a deadline, however slowly the other end trickles its bytes.
"""

import json
import re
import secrets
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from dpsnn.errors import WorkFailed
from dpsnn.secure.config import Seconds

VERSION = 1
HEADER_LIMIT = 64 * 1024
HEADER_SECONDS = 10.0
"""Within which a header has to follow its first bytes."""
CHUNK = 1 << 18

Header = dict[str, Any]
Check = Callable[[Any], bool]


class Malformed(ValueError):
    """Not a message of this protocol, or not one that may stand here."""


class Gone(ConnectionError):
    """The other end closed the connection."""


class Refused(Exception):
    """A well-formed request that is not granted; the text says why, to the other end too."""


class ClusterFailed(WorkFailed):
    """The cluster cannot be reached, broke off or did not answer; nothing partial was returned. Exit code 1."""


class NotAdmitted(ClusterFailed):
    """A worker is there and says why it does not let us in."""


# ---------------------------------------------------------------- what a header may hold


def whole(least: int, most: int) -> Check:
    return lambda value: type(value) is int and least <= value <= most


def text(most: int) -> Check:
    return lambda value: isinstance(value, str) and len(value) <= most


def matching(pattern: str) -> Check:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def real(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1e18


def shape(value: Any) -> bool:
    """1 to 6 sizes."""
    sizes = whole(1, 2**20)
    return isinstance(value, list) and 1 <= len(value) <= 6 and all(sizes(size) for size in value)


def plan(value: Any) -> bool:
    """A list of layers; `graph.py` looks at them closely."""
    return isinstance(value, list) and len(value) <= 256 and all(isinstance(v, dict) for v in value)


token = matching("[0-9a-f]{32}")
content = matching("images|smashed")
pairing = matching("([0-9a-f]{32})?")
reason = text(400)

COMMON: dict[str, Check] = {
    "kind": text(16),
    "nonce": token,
    "number": whole(0, 2**53),
    "size": whole(0, 2**33),
}

SCHEMAS: dict[str, dict[str, Check]] = {
    # The listener's greeting, and who comes.
    "hello": {"version": whole(VERSION, VERSION), "rank": whole(0, 2)},
    "join": {"role": matching("worker|owner|client")},
    "welcome": {},
    # Clients.
    "describe": {},
    "model": {
        "input_shape": shape,
        "content": content,
        "classes": whole(1, 2**20),
        "pairing": pairing,
        "max_batch": whole(1, 4096),
    },
    "query": {"id": token, "batch": whole(1, 4096)},
    "result": {"classes": whole(1, 2**20)},
    # The owner.
    "share": {
        "id": token,
        "plan": plan,
        "input_shape": shape,
        "content": content,
        "pairing": pairing,
    },
    "shared": {},
    "status": {},
    "state": {
        "served": whole(0, 2**53),
        "engine_bytes": whole(-1, 2**53),
        "engine_seconds": real,
        "peak_bytes": whole(0, 2**53),
        "graphs": whole(0, 2**20),
    },
    "stop": {},
    # Worker 0 keeps the order; the others tell it what has arrived.
    "arrived": {"id": token, "digest": token},
    "run": {"id": token},
    "done": {"id": token},
    "drop": {"id": token, "reason": reason},
    # Why there is nothing: it may not be; it took too long, but the worker goes on; the cluster ends.
    "refused": {"reason": reason},
    "late": {"reason": reason},
    "failed": {"reason": reason},
}


def checked(raw: bytes | bytearray) -> Header:
    """A header as sent, if it is what its kind demands.

    Raises:
        Malformed: If not; the text says what is wrong and quotes little of it.
    """
    try:
        header = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"no JSON ({type(error).__name__})") from error
    if not isinstance(header, dict) or not isinstance(header.get("kind"), str):
        raise Malformed("no table with a kind")
    schema = SCHEMAS.get(header["kind"])
    if schema is None:
        raise Malformed(f"unknown kind {header['kind'][:16]!r}")
    wanted = COMMON | schema
    if header.keys() != wanted.keys():
        raise Malformed(f"{header['kind']} with missing or unknown fields")
    for name, check in wanted.items():
        if not check(header[name]):
            raise Malformed(f"{header['kind']} with a wrong {name}")
    return header


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


# ---------------------------------------------------------------- a connection


class Channel:
    """One control connection. Two threads may use it, one reading and one writing.

    Args:
        connection: Connected, and past its TLS handshake.
        nonce: That of the connection; the end that did not draw it learns it from the greeting.
    """

    def __init__(self, connection: socket.socket, nonce: str = "") -> None:
        connection.setblocking(False)
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            # A query is a few small messages to and fro; Nagle would let each wait for the last one's receipt.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self.nonce = nonce
        self.sent_bytes = 0
        self.received_bytes = 0
        self._sent = 0
        self._received = 0
        # OpenSSL must not read and write one connection at the same moment.
        self._tls = threading.Lock()
        self._writing = threading.Lock()

    def send(self, kind: str, body: bytes = b"", seconds: Seconds = 30.0, **values: Any) -> None:
        """Send one message.

        Raises:
            Gone: If the other end has closed.
            TimeoutError: If it does not take it in time.
        """
        with self._writing:
            header = {"kind": kind, "nonce": self.nonce, "number": self._sent, "size": len(body)}
            raw = json.dumps(header | values).encode()
            self._sent += 1
            deadline = time.monotonic() + seconds
            self._write(struct.pack("!I", len(raw)) + raw, deadline)
            self._write(body, deadline)
            self.sent_bytes += 4 + len(raw) + len(body)

    def receive(self, *kinds: str, seconds: Seconds | None = None) -> Header:
        """The next header; its body, if any, must be read before the next call.

        Args:
            kinds: Those that may come now.
            seconds: How long to wait for its first bytes; None for ever.

        Raises:
            Malformed: If it is no message, or not one of these kinds, or not new.
            Gone: If the other end has closed.
            TimeoutError: If it does not come in time.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        (length,) = struct.unpack("!I", self._read(4, deadline))
        if not 0 < length <= HEADER_LIMIT:
            raise Malformed(f"a header of {length} bytes")
        header = checked(self._read(length, time.monotonic() + HEADER_SECONDS))
        if not self.nonce and header["kind"] == "hello":
            self.nonce = header["nonce"]
        if not secrets.compare_digest(header["nonce"], self.nonce):
            raise Malformed(f"{header['kind']} of another connection: replayed")
        if header["number"] != self._received:
            raise Malformed(f"{header['kind']} out of turn: replayed or lost")
        self._received += 1
        if header["kind"] not in kinds:
            raise Malformed(f"{header['kind']} may not come here")
        self.received_bytes += 4 + length
        return header

    def body(self, header: Header, size: int, seconds: Seconds) -> bytes:
        """The bytes behind a header, which must be exactly `size`.

        Raises:
            Malformed: If the header announces another size; then nothing of it was read.
        """
        if header["size"] != size:
            raise Malformed(f"{header['kind']} of {header['size']} bytes instead of {size}")
        received = self._read(size, time.monotonic() + seconds)
        self.received_bytes += size
        return bytes(received)

    def close(self) -> None:
        """Close, letting the other end read first what was sent; what it still sends is thrown away for a moment."""
        try:
            self.connection.shutdown(socket.SHUT_WR)
            deadline = time.monotonic() + 0.5
            # However much it sends: only so long.
            while time.monotonic() < deadline and self._wait(select.POLLIN, deadline):
                if not self.connection.recv(CHUNK):
                    break
        except OSError:  # it is gone, or not interested
            pass
        self.connection.close()

    def abort(self) -> None:
        """Make every read and write of this connection fail, in whatever thread."""
        try:
            # Of the socket below: that of TLS would go on in clear with what has arrived.
            socket.socket.shutdown(self.connection, socket.SHUT_RDWR)
        except OSError:
            pass

    def _read(self, size: int, deadline: float | None) -> bytearray:
        # Grown as it comes: a header that promises much and sends nothing must cost nothing.
        received = bytearray()
        while len(received) < size:
            try:
                with self._tls:
                    part = self.connection.recv(min(CHUNK, size - len(received)))
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT, deadline)
            except (ssl.SSLWantReadError, BlockingIOError):
                self._wait(select.POLLIN, deadline)
            except OSError as error:
                raise Gone(f"connection lost ({error.strerror or error})") from error
            else:
                if not part:
                    raise Gone("connection closed")
                received += part
        return received

    def _write(self, data: bytes, deadline: float) -> None:
        view = memoryview(data)
        while view:
            try:
                with self._tls:
                    view = view[self.connection.send(view[:CHUNK]) :]
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN, deadline)
            except (ssl.SSLWantWriteError, BlockingIOError):
                self._wait(select.POLLOUT, deadline)
            except OSError as error:
                raise Gone(f"connection lost ({error.strerror or error})") from error

    def _wait(self, event: int, deadline: float | None) -> bool:
        """Wait until the socket is ready; raises TimeoutError at the deadline."""
        poll = select.poll()
        try:
            poll.register(self.connection, event)
        except ValueError as error:
            raise Gone("connection closed") from error
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not poll.poll(None if left is None else left * 1000):
            raise TimeoutError("no answer in time")
        return True
