"""The control port of a worker: who comes is identified, what comes is checked, what is wrong is refused and logged.

Why not gRPC? It installs beside the engine, and 100 silent strangers do not hold it up. But tried on the promises
made here (grpcio 1.85, Python) it falls short of five: its limit of requests at a time knows no roles, so busy clients
shut out the owner; its limit of a message's size knows none either, and a message is read whole before the service
learns who sent it; TLS 1.2 cannot be refused; a client never sees whose certificate a worker has, only that it fits
the host, which all three share on one machine; and out of file descriptors it let a client wait for five seconds.
Roles, sizes, deadlines and identities would be ours again on top of it, and are fewer lines over a socket.
"""

import errno
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from dpsnn.errors import UsageError
from dpsnn.secure import keys
from dpsnn.secure.config import Cluster
from dpsnn.secure.keys import Identity
from dpsnn.secure.messages import VERSION, Channel, Gone, Header, Malformed, Refused
from dpsnn.secure.places import STRANGER_SECONDS, Door, Places

QUEUE = 128
"""Connections that the kernel holds until they are accepted."""


@runtime_checkable
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


def listen(rank: int, host: str, port: int) -> socket.socket:
    """Listen on a port of a worker.

    Raises:
        UsageError: If the port is taken or not to be had, or the host is not this machine.
    """
    try:
        return socket.create_server((host, port), backlog=QUEUE)
    except OSError as error:
        # Python's words say the address once more.
        why, *_ = str(error.strerror).split(" (while")
        if error.errno == errno.EADDRINUSE:
            do = "is a cluster running already? `dpsnn secure stop` ends it"
        else:
            do = "start each worker on the machine that is its host, on ports that you may open"
        raise UsageError(f"worker {rank} cannot listen on {host}:{port} ({why}); {do}") from error


class Listener:
    """Listens from the start, so that a taken port shows at once; answers when it is started.

    Args:
        cluster: Where to listen and how long to wait for a silent peer.
        rank: Of the worker.
        log: Called with one line for each thing worth knowing.

    Raises:
        UsageError: If a port of the worker's, its engine's too, is taken, or a certificate is missing.
    """

    def __init__(self, cluster: Cluster, rank: int, log: Callable[[str], None]) -> None:
        self._cluster, self._rank, self._log = cluster, rank, log
        self._service: Service | None = None
        name = keys.worker_name(rank)
        self._context = keys.context(cluster, name, server=True) if cluster.tls else None
        address = cluster.workers[rank]
        # The engine's port is opened by its library, which does not say why it could not.
        listen(rank, address.host, address.engine_port).close()
        self._socket = listen(rank, address.host, address.port)
        # So that strangers are shown out in time although nobody else comes.
        self._socket.settimeout(STRANGER_SECONDS / 10)
        self._door, self._places = Door(), Places()

    def start(self, service: Service) -> None:
        """Serve whoever comes, until the process ends."""
        self._service = service
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        short = False
        while True:
            self._door.tidy()
            try:
                connection, (host, port, *_) = self._socket.accept()
            except TimeoutError:
                continue
            except OSError as error:
                # Too many open files, most likely: make room, and go on when there is some.
                shown = self._door.halve()
                if not short:
                    self._log(f"cannot accept ({error.strerror}); {shown} strangers have to go")
                short = True
                time.sleep(0.1)
                continue
            short = False
            peer = f"{host}:{port}"
            try:
                if self._context:
                    connection = self._context.wrap_socket(
                        connection, server_side=True, do_handshake_on_connect=False
                    )
                self._door.enter(connection)
                threading.Thread(target=self._serve, args=(connection, peer), daemon=True).start()
            except (
                OSError,
                RuntimeError,
            ) as error:  # it has gone already, or no thread can be started
                self._log(f"closed {peer}: {error}")
                self._door.leave(connection)
                connection.close()

    def _serve(self, connection: socket.socket, peer: str) -> None:
        """The whole of one connection, in its own thread."""
        assert self._service is not None
        channel = None
        try:
            who = None
            if isinstance(connection, ssl.SSLSocket):
                connection.settimeout(STRANGER_SECONDS)
                connection.do_handshake()
                who = keys.identity(connection)
            channel = Channel(connection, secrets.token_hex(16))
            self._converse(self._service, channel, who)
        except Gone:
            pass
        except (Malformed, Refused) as error:
            self._log(f"refused {peer}: {error}")
            self._tell(channel, str(error))
        except OSError as error:  # a time-out too
            if channel:
                self._log(f"closed {peer}: {error}")
            else:
                reason = getattr(error, "reason", "") or error
                self._log(f"refused {peer}: no valid certificate ({reason})")
        except Exception as error:
            # Whatever a stranger may have found: it costs one connection.
            self._log(f"closed {peer}: {type(error).__name__} while serving it")
        finally:
            if channel:
                channel.close()
                self._service.left(channel)
            else:
                connection.close()
            self._places.free(channel)
            self._door.leave(connection)

    def _converse(self, service: Service, channel: Channel, who: Identity | None) -> None:
        channel.send("hello", seconds=STRANGER_SECONDS, version=VERSION, rank=self._rank)
        claimed = channel.receive("join", seconds=STRANGER_SECONDS)["role"]
        # Without TLS, hence on this machine alone, there is only the claim.
        who = who or Identity(claimed, claimed)
        if who.role != claimed:
            raise Refused(f"the certificate is of a {who.role}, not of a {claimed}")
        if claimed == "worker" and self._context and who.name != keys.worker_name(0):
            raise Refused(f"{who.name} does not lead the cluster")
        self._places.take(channel, who, certified=self._context is not None)
        if not self._door.leave(channel.connection):
            raise Gone("shown out")
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
