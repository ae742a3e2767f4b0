"""The owner of a model: shares its weights among the workers once, and may leave."""

import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from torch import nn

from dpsnn.errors import UsageError
from dpsnn.networks import SplitNetwork
from dpsnn.secure import shares
from dpsnn.secure.config import PARTIES, Cluster
from dpsnn.secure.convert import Converted, convert
from dpsnn.secure.dial import dial
from dpsnn.secure.messages import Channel, ClusterFailed, Gone, Malformed

OWNER = "owner"


def whole(network: SplitNetwork) -> Converted:
    """The whole network, from images to scores. Defences are left out: nothing crosses a wire in clear."""
    return convert(nn.Sequential(network.client, network.server), network.image_shape)


def server_half(network: SplitNetwork) -> Converted:
    """The server alone, from what the client's device sends to scores."""
    return convert(network.server, network.cut_shape)


def share(cluster: Cluster, model: Converted, pairing: str = "") -> None:
    """Give each worker its share of the weights, in place of any model before.

    Args:
        cluster: The workers.
        model: What to share.
        pairing: Names the client half that belongs to a `server_half`; empty for a whole network.

    Raises:
        UsageError: If the workers refuse it.
        ClusterFailed: If one cannot be reached or breaks off; then no model is shared.
    """
    header = {
        "id": secrets.token_hex(16),
        "plan": model.plan,
        "input_shape": list(model.input_shape),
        "content": "smashed" if pairing else "images",
        "pairing": pairing,
    }
    parts = [shares.split(weight) for weight in model.weights]
    bodies = [b"".join(part[rank] for part in parts) for rank in range(PARTIES)]
    channels = [dial(cluster, rank, "owner", OWNER) for rank in range(PARTIES)]

    def send(channel: Channel, body: bytes) -> dict[str, Any]:
        channel.send("share", body, cluster.timeout, **header)
        return channel.receive("shared", "refused", "late", "failed", seconds=cluster.timeout + 5)

    try:
        with ThreadPoolExecutor(PARTIES) as pool:
            answers = list(pool.map(send, channels, bodies))
    except (Gone, Malformed, TimeoutError) as error:
        raise ClusterFailed(f"a worker broke off while the model was shared: {error}") from error
    finally:
        for channel in channels:
            channel.close()
    for answer in answers:
        if answer["kind"] == "refused":
            raise UsageError(f"the workers refuse the model: {answer['reason']}")
        if answer["kind"] == "late":
            raise ClusterFailed(
                f"the model is {answer['reason']}, but all workers are there: raise --timeout of `serve` (`timeout` in"
                " cluster.toml) and share it again"
            )
        if answer["kind"] == "failed":
            raise ClusterFailed(f"the model is not shared: {answer['reason']}")


class Status(NamedTuple):
    """What one worker tells the owner of its work; nothing of any request."""

    served: int
    engine_bytes: int
    """Sent to the other workers; -1 where the system does not tell."""
    engine_seconds: float
    peak_bytes: int
    """The most memory that it has held."""
    graphs: int
    """Compiled."""


def status(cluster: Cluster) -> list[Status]:
    """The state of each worker.

    Raises:
        ClusterFailed: If one cannot be reached.
    """
    made = []
    for rank in range(PARTIES):
        channel = dial(cluster, rank, "owner", OWNER)
        try:
            channel.send("status")
            state = channel.receive("state", seconds=cluster.timeout)
        except (Gone, Malformed, TimeoutError) as error:
            raise ClusterFailed(f"worker {rank} broke off: {error}") from error
        finally:
            channel.close()
        made.append(Status(**{name: state[name] for name in Status._fields}))
    return made


def stop(cluster: Cluster) -> None:
    """End the cluster, after the request that it computes just now.

    Raises:
        ClusterFailed: If no worker can be reached.
    """
    failed = None
    for rank in range(PARTIES):
        try:
            channel = dial(cluster, rank, "owner", OWNER)
        except ClusterFailed as error:
            failed = failed or error
            continue
        channel.send("stop")
        channel.close()
        # Any one tells the others.
        return
    assert failed is not None
    raise failed
