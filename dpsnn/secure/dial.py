"""Connect to a worker, and make sure that it is the right one."""

import socket
import ssl

from dpsnn.secure import keys
from dpsnn.secure.config import Cluster, Seconds
from dpsnn.secure.keys import Identity
from dpsnn.secure.messages import Channel, ClusterFailed, Gone, Malformed, NotAdmitted


def dial(cluster: Cluster, rank: int, role: str, name: str, seconds: Seconds = 10.0) -> Channel:
    """A connection to worker `rank`, in the given role and, with TLS, with the certificate of `name`.

    Raises:
        ClusterFailed: If it cannot be reached, is another one, or does not let us in (then it is NotAdmitted).
        UsageError: If there is no certificate of `name`.
    """
    address = cluster.workers[rank]
    where = f"worker {rank} at {address.host}:{address.port}"
    try:
        connection = socket.create_connection((address.host, address.port), seconds)
    except OSError as error:
        raise ClusterFailed(
            f"{where} cannot be reached ({error.strerror or error}); start the cluster with `dpsnn secure serve`"
        ) from error
    try:
        if cluster.tls:
            context = keys.context(cluster, name)
            connection = context.wrap_socket(connection, server_hostname=address.host)
            # Whoever posed as two workers would hold two shares, which is all it takes.
            who = keys.identity(connection)
            if who != Identity("worker", keys.worker_name(rank)):
                raise ClusterFailed(f"{where} has the certificate of {who.name}; check the ports")
        channel = Channel(connection)
        if channel.receive("hello", seconds=seconds)["rank"] != rank:
            raise ClusterFailed(f"{where} is another worker; check the ports")
        channel.send("join", role=role)
        answer = channel.receive("welcome", "refused", seconds=seconds)
        if answer["kind"] == "refused":
            raise NotAdmitted(f"{where} does not let {name} in: {answer['reason']}")
        return channel
    except ssl.SSLError as error:
        connection.close()
        reason = getattr(error, "verify_message", "") or error.reason or error
        raise ClusterFailed(f"no TLS with {where}: {reason}") from error
    except (Gone, Malformed, TimeoutError) as error:
        connection.close()
        raise ClusterFailed(f"{where} does not let {name} in: {error}") from error
    except BaseException:
        connection.close()
        raise
