"""SecAgg+ as this project runs it: the ring, the error of its average, and both halves of the protocol.

Flower's protocol (Bonawitz et al. 2017, with the sparse graph of Bell et al. 2020; here every client is everyone's
neighbour) is kept. Around it: masks by ChaCha20, a client that answers nothing but what it agreed to, replies that
say nothing beside the masked update, and a server that copes with clients lost at any stage.
"""

from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, MetricRecord
from flwr.client.mod import secaggplus_mod
from flwr.clientapp.typing import ClientAppCallable
from flwr.common import bytes_to_ndarray, ndarray_to_bytes
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.server import LegacyContext
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import WorkflowState
from flwr.serverapp import Grid

from dpsnn.federated import masks
from dpsnn.federated.quantisation import CLIP, RING, levels
from dpsnn.federated.spec import FEWEST, threshold

masks.install()


class Refused(ValueError):
    """The server asked for what a client of a secure average does not do; Flower sends the reason back."""


def secure_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """A client's half: check what the server asks for, let Flower do its part, send nothing else.

    Flower's reply carries the number of examples and the metrics in the open; they are left out, as the masked vector
    holds the weight already. Masked values travel as 32 bits, not 64.
    """
    configs = message.content.config_records.get(RECORD_KEY_CONFIGS)
    if configs is None:
        raise Refused("asked for an update without secure averaging")
    stage = configs.get(Key.STAGE)
    _check(stage, configs)
    reply = secaggplus_mod(message, context, call_next)
    if stage == Stage.COLLECT_MASKED_VECTORS and reply.has_content():
        content = reply.content
        content.metric_records["fitres.num_examples"] = MetricRecord({"num_examples": 1})
        content.config_records["fitres.metrics"] = ConfigRecord({})
        vectors: Any = content.config_records[RECORD_KEY_CONFIGS]
        vectors[Key.MASKED_PARAMETERS] = [
            ndarray_to_bytes(bytes_to_ndarray(part).astype(np.uint32))
            for part in vectors[Key.MASKED_PARAMETERS]
        ]
    return reply


def _check(stage: Any, configs: ConfigRecord) -> None:
    """Refuse set-ups and requests with which a server could single out one client's update."""
    values: dict[str, Any] = dict(configs)
    if stage == Stage.SETUP:
        clients, shares = values[Key.SAMPLE_NUMBER], values[Key.SHARE_NUMBER]
        if clients < FEWEST or shares != clients or values[Key.THRESHOLD] < threshold(clients):
            raise Refused(
                f"asked to share a key among {shares} of {clients} clients, {values[Key.THRESHOLD]} of which could"
                f" rebuild it; at least {FEWEST} take part, all share, and {threshold(clients)} are needed"
            )
        if values[Key.MOD_RANGE] != RING or values[Key.CLIPPING_RANGE] != CLIP:
            raise Refused("asked to mask in another ring, or to clip elsewhere, than agreed")
    if stage == Stage.UNMASK:
        # Both secrets of one client would take both its masks off.
        if both := set(values[Key.ACTIVE_NODE_ID_LIST]) & set(values[Key.DEAD_NODE_ID_LIST]):
            raise Refused(f"asked for both secrets of {len(both)} clients")


class SurvivingWorkflow(SecAggPlusWorkflow):
    """The server's half, which a client may leave at any stage.

    Args:
        clients: The most that take part.
        images: Training images of all clients together, or more: the largest weight that one could have.
        timeout: Seconds to wait in each exchange.
    """

    def __init__(self, clients: int, images: int, timeout: float) -> None:
        super().__init__(
            1.0,
            1.0,
            max_weight=float(images),
            clipping_range=CLIP,
            quantization_range=levels(clients),
            modulus_range=RING,
            timeout=timeout,
        )

    def setup_stage(self, grid: Grid, context: LegacyContext, state: WorkflowState) -> bool:
        # Flower rounds a share of the clients; who is left decides how many of them are two thirds.
        present = context.client_manager.num_available()
        self.reconstruction_threshold = threshold(present) / present
        return super().setup_stage(grid, context, state)

    def share_keys_stage(self, grid: Grid, context: LegacyContext, state: WorkflowState) -> bool:
        """Forget who left before sharing its keys: no mask is shared with it, and nobody could rebuild its key.

        Flower would ask for it in the end, and every client would fail for want of a share.
        """
        enough = super().share_keys_stage(grid, context, state)
        state.sampled_node_ids = set(state.active_node_ids)
        state.nid_to_neighbours = {
            node: neighbours & state.sampled_node_ids
            for node, neighbours in state.nid_to_neighbours.items()
            if node in state.sampled_node_ids
        }
        return enough
