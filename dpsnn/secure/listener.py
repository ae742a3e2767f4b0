"""The control port of a worker: who comes is identified, what comes is checked, what is wrong is refused and logged."""

import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from dpsnn.errors import UsageError
from dpsnn.secure import keys
from dpsnn.secure.config import Cluster
from dpsnn.secure.keys import Identity
from dpsnn.secure.messages import VERSION, Channel, Gone, Header, Malformed, Refused

CONNECTIONS = 64
"""Served at a time, each by a thread of its own; one more is closed at once."""

HANDSHAKE_SECONDS = 10.0


class Service(Protocol):
    """What a listener serves; all of it is called in the connection's own thread."""

    kinds: Mapping[str, Sequence[str]]
    """Role → messages that it may send."""

    def joined(self, channel: Channel, who: Identity) -> None:
        """Somebody has come; may raise Refused."""

    def handle(self, channel: Channel, who: Identity, header: Header) -> None:
        """A message has come; may raise Refused or Malformed, which end the connection."""

    def left(self, channel: Channel) -> None:
        """A connection has ended, however it did."""


class Listener:
    """Listens from the start, so that a taken port shows at once; answers when it is started.

    Args:
        cluster: Where to listen and how long to wait for a silent peer.
        rank: Of the worker.
        log: Called with one line for each thing worth knowing.

    Raises:
        UsageError: If the port is taken, or a certificate is missing.
    """

    def __init__(self, cluster: Cluster, rank: int, log: Callable[[str], None]) -> None:
        self._cluster, self._rank, self._log = cluster, rank, log
        self._service: Service | None = None
        name = keys.worker_name(rank)
        self._context = keys.context(cluster, name, server=True) if cluster.tls else None
        address = cluster.workers[rank]
        try:
            self._socket = socket.create_server((address.host, address.port), backlog=CONNECTIONS)
        except OSError as error:
            raise UsageError(
                f"worker {rank} cannot listen on {address.host}:{address.port} ({error.strerror}); is a cluster"
                " running already? `dpsnn secure stop` ends it"
            ) from error
        self._free = threading.Semaphore(CONNECTIONS)

    def start(self, service: Service) -> None:
        """Serve whoever comes, until the process ends."""
        self._service = service
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, (host, port, *_) = self._socket.accept()
            if not self._free.acquire(blocking=False):
                self._log(f"refused {host}:{port}: {CONNECTIONS} connections are open")
                connection.close()
                continue
            threading.Thread(
                target=self._serve, args=(connection, f"{host}:{port}"), daemon=True
            ).start()

    def _serve(self, connection: socket.socket, peer: str) -> None:
        assert self._service is not None
        channel = None
        try:
            who = None
            connection.settimeout(HANDSHAKE_SECONDS)
            if self._context:
                connection = self._context.wrap_socket(connection, server_side=True)
                who = keys.identity(connection)
            channel = Channel(connection, secrets.token_hex(16))
            self._converse(self._service, channel, who)
        except Gone:
            pass
        except (Malformed, Refused) as error:
            self._log(f"refused {peer}: {error}")
            self._tell(channel, str(error))
        except ssl.SSLError as error:
            self._log(f"refused {peer}: no valid certificate ({error.reason or 'TLS failed'})")
        except OSError as error:  # a time-out too
            self._log(f"closed {peer}: {error}")
        except Exception as error:
            # Whatever a stranger may have found: it costs one connection.
            self._log(f"closed {peer}: {type(error).__name__} while serving it")
        finally:
            if channel:
                channel.close()
                self._service.left(channel)
            else:
                connection.close()
            self._free.release()

    def _converse(self, service: Service, channel: Channel, who: Identity | None) -> None:
        channel.send("hello", version=VERSION, rank=self._rank)
        claimed = channel.receive("join", seconds=HANDSHAKE_SECONDS)["role"]
        # Without TLS, hence on this machine alone, there is only the claim.
        who = who or Identity(claimed, claimed)
        if who.role != claimed:
            raise Refused(f"the certificate is of a {who.role}, not of a {claimed}")
        if claimed == "worker" and self._context and who.name != keys.worker_name(0):
            raise Refused(f"{who.name} does not lead the cluster")
        service.joined(channel, who)
        channel.send("welcome")
        silence = None if claimed == "worker" else max(self._cluster.timeout, 60.0)
        while True:
            header = channel.receive(*service.kinds[claimed], seconds=silence)
            service.handle(channel, who, header)

    @staticmethod
    def _tell(channel: Channel | None, reason: str) -> None:
        if channel:
            try:
                channel.send("refused", seconds=1.0, reason=reason[:400])
            except (OSError, TimeoutError):
                pass
