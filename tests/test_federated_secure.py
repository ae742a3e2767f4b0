"""Secure averaging in one process: uniform masks, the right average, clients that leave, servers that ask too much."""

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare, ks_2samp

pytest.importorskip("flwr", reason="needs Flower: pip install -e '.[federated]'")

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict  # noqa: E402
from flwr.client.mod.secure_aggregation import secaggplus_mod as flowers_mod  # noqa: E402
from flwr.common import (  # noqa: E402
    Code,
    FitIns,
    FitRes,
    Status,
    bytes_to_ndarray,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.common.secure_aggregation.secaggplus_constants import (  # noqa: E402
    RECORD_KEY_CONFIGS,
    Key,
    Stage,
)
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen  # noqa: E402
from flwr.compat.common import recorddict_compat as compat  # noqa: E402
from flwr.server import LegacyContext, ServerConfig, SimpleClientManager  # noqa: E402
from flwr.server.compat.grid_client_proxy import GridClientProxy  # noqa: E402
from flwr.server.strategy import FedAvg  # noqa: E402
from flwr.server.workflow.constant import (  # noqa: E402
    MAIN_CONFIGS_RECORD,
    MAIN_PARAMS_RECORD,
)
from flwr.server.workflow.constant import Key as WorkflowKey  # noqa: E402
from flwr.serverapp import Grid  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402

from dpsnn.federated import masks, secure  # noqa: E402
from dpsnn.federated.quantisation import CLIP, RING, error_bound, levels  # noqa: E402
from dpsnn.federated.secure import Refused, SurvivingWorkflow, secure_mod  # noqa: E402

Update = list[np.ndarray[Any, np.dtype[np.float64]]]
BINS = 256
SIGNIFICANT = 1e-6
"""Of tests that hold for random numbers: a false alarm in a million runs."""


@pytest.fixture(autouse=True)
def server_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are made by the server of run 1."""
    monkeypatch.setattr(TaskIdentity, "_run_id", 1)
    monkeypatch.setattr(TaskIdentity, "_node_id", 0)
    monkeypatch.setattr(TaskIdentity, "_task_id", 1)


def uniform(values: np.ndarray[Any, Any]) -> float:
    """p-value of a chi-square test that 32-bit words are uniform over the ring: the smaller of high and low byte's."""
    words = values.astype(np.uint64).ravel()
    assert words.max() < RING
    return float(
        min(
            chisquare(np.bincount((words >> shift) & 255, minlength=BINS)).pvalue
            for shift in (np.uint64(24), np.uint64(0))
        )
    )


class Client:
    """A client that returns a given update; `leaves` names the stage at which it is gone."""

    def __init__(self, node: int, update: Update, images: int, leaves: str = "") -> None:
        self.update, self.images, self.leaves = update, images, leaves
        self.context = Context(1, node, {}, RecordDict(), {})
        self.gone = False

    def train(self, message: Message, _: Context) -> Message:
        result = FitRes(
            Status(Code.OK, ""), ndarrays_to_parameters(self.update), self.images, {"secret": 7}
        )
        return Message(compat.fitres_to_recorddict(result, False), reply_to=message)

    def __call__(self, message: Message) -> Message | None:
        stage = message.content.config_records[RECORD_KEY_CONFIGS][Key.STAGE]
        self.gone |= stage == self.leaves
        if self.gone:
            return None
        try:
            return secure_mod(message, self.context, self.train)
        except Exception as error:
            return Message(Error(code=1, reason=str(error)), reply_to=message)


class Wire(Grid):
    """Carries messages to clients of this process and keeps everything that the server receives."""

    def __init__(self, clients: dict[int, Client]) -> None:
        self.clients = clients
        self.seen: list[Message] = []

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **named: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.clients)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        replies = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = "1"
            # Each client has a copy of its own, as over a wire.
            copy = Message(
                RecordDict(dict(message.content)),
                dst_node_id=message.metadata.dst_node_id,
                message_type=message.metadata.message_type,
            )
            copy.metadata.__dict__["_message_id"] = "1"
            for key, record in list(copy.content.config_records.items()):
                copy.content[key] = ConfigRecord(dict(record))
            reply = self.clients[message.metadata.dst_node_id](copy)
            if reply is not None:
                replies.append(reply)
        self.seen += replies
        return replies

    def masked(self, node: int) -> Update:
        """What the server got from one client, before any mask is off."""
        for message in self.seen:
            if message.metadata.src_node_id == node and message.has_content():
                record = message.content.config_records[RECORD_KEY_CONFIGS]
                if Key.MASKED_PARAMETERS in record:
                    parts: Any = record[Key.MASKED_PARAMETERS]
                    return [bytes_to_ndarray(part) for part in parts]
        raise AssertionError("the client sent no masked update")


class Watching(FedAvg):
    """Remembers what a strategy is handed."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[FitRes] = []

    def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> Any:
        return [(p, FitIns(parameters, {})) for p in client_manager.all().values()]

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        self.results = [result for _, result in results]
        return super().aggregate_fit(server_round, results, failures)


def average(clients: list[Client], images: int) -> tuple[Update | None, Wire, Watching]:
    """One round of secure averaging; None where it failed."""
    wire = Wire({client.context.node_id: client for client in clients})
    manager = SimpleClientManager()
    for node in wire.clients:
        manager.register(GridClientProxy(node, wire, 1))
    strategy = Watching()
    context = LegacyContext(
        Context(1, 0, {}, RecordDict(), {}), ServerConfig(num_rounds=1), strategy, manager
    )
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})
    start = ndarrays_to_parameters([np.zeros(3)])
    context.state.array_records[MAIN_PARAMS_RECORD] = compat.parameters_to_arrayrecord(start, True)
    SurvivingWorkflow(len(clients), images, 10.0)(wire, context)
    if not strategy.results:
        return None, wire, strategy
    record = context.state.array_records[MAIN_PARAMS_RECORD]
    return parameters_to_ndarrays(compat.arrayrecord_to_parameters(record, True)), wire, strategy


def clients_with(updates: list[Update], images: list[int], **leaves: str) -> list[Client]:
    nodes = [1000 - 7 * i for i in range(len(updates))]
    return [
        Client(node, update, count, leaves.get(f"client_{i}", ""))
        for i, (node, update, count) in enumerate(zip(nodes, updates, images, strict=True))
    ]


def random_updates(count: int, scale: float = 0.3) -> list[Update]:
    draws = np.random.default_rng(count)
    return [
        [draws.uniform(-scale, scale, shape) for shape in ((40, 30), (30,))] for _ in range(count)
    ]


def exact(updates: list[Update], images: list[int]) -> Update:
    total = sum(images)
    return [
        sum(update[i] * (n / total) for update, n in zip(updates, images, strict=True))
        for i in range(len(updates[0]))
    ]


def difference(one: Update, other: Update) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


# ---------------------------------------------------------------- the average


@pytest.mark.parametrize("count", [3, 5, 9])
def test_secure_average_equals_the_plain_one_within_quantisation(count: int) -> None:
    updates, images = random_updates(count), [50 + 30 * i for i in range(count)]
    found, _, _ = average(clients_with(updates, images), sum(images))
    assert found is not None
    bound = error_bound(count, 1.0, 0.3)
    assert bound < 1e-7
    assert 0 < difference(found, exact(updates, images)) <= bound


def test_what_is_clipped_is_beyond_the_bound() -> None:
    updates, images = random_updates(3), [10, 10, 10]
    updates[0][0][0, 0] = 9 * CLIP
    found, _, _ = average(clients_with(updates, images), 30)
    assert found is not None
    assert difference(found, exact(updates, images)) == pytest.approx((9 / 3 - 1) * CLIP, rel=1e-3)


# ---------------------------------------------------------------- what the server sees


ZEROS: Update = [np.zeros((300, 200))]


def test_a_masked_update_is_indistinguishable_from_uniform() -> None:
    clients = clients_with([ZEROS] * 3, [10, 10, 10])
    _, wire, _ = average(clients, 30)
    for client in clients:
        _, masked = wire.masked(client.context.node_id)
        assert masked.dtype == np.uint32
        assert uniform(masked) > SIGNIFICANT


def test_without_masks_the_same_test_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_masks(seed: bytes, ring: int, shapes: Any) -> Any:
        return [np.zeros(shape, np.int64) for shape in shapes]

    place = import_module(masks.PLACES[0])
    monkeypatch.setattr(place, masks.NAME, no_masks)
    clients = clients_with([ZEROS] * 3, [10, 10, 10])
    _, wire, _ = average(clients, 30)
    assert uniform(wire.masked(clients[0].context.node_id)[1]) < SIGNIFICANT


def test_masked_updates_of_two_rounds_and_of_other_values_look_alike() -> None:
    ones: Update = [np.full((300, 200), 0.9)]
    seen = []
    for update in (ZEROS, ZEROS, ones):
        clients = clients_with([update, ZEROS, ZEROS], [10, 10, 10])
        _, wire, _ = average(clients, 30)
        seen.append(wire.masked(clients[0].context.node_id)[1].ravel().astype(float))
    first, again, other = seen
    assert (first == again).mean() < 1e-3
    assert abs(np.corrcoef(first, again)[0, 1]) < 0.03
    assert ks_2samp(first, other).pvalue > SIGNIFICANT


def test_the_weight_is_masked_too() -> None:
    weights = []
    for _ in range(30):
        clients = clients_with([[np.zeros(1)]] * 3, [10, 10, 10])
        _, wire, _ = average(clients, 30)
        weights += [int(wire.masked(c.context.node_id)[0][0]) for c in clients]
    high = np.bincount(np.array(weights, np.uint64) >> np.uint64(30), minlength=4)
    assert chisquare(high).pvalue > SIGNIFICANT


def test_strategy_sees_the_aggregate_alone() -> None:
    updates, images = random_updates(3), [10, 20, 30]
    found, wire, strategy = average(clients_with(updates, images), 60)
    assert found is not None
    for result in strategy.results:
        assert difference(parameters_to_ndarrays(result.parameters), found) < 1e-12
        assert (result.num_examples, result.metrics) == (1, {})
    for message in wire.seen:
        assert not any(record for record in message.content.array_records.values())


# ---------------------------------------------------------------- clients that leave


@pytest.mark.parametrize("stage", Stage.all())
@pytest.mark.parametrize("leaving", [1, 2])
def test_clients_may_leave_at_any_stage(stage: str, leaving: int) -> None:
    updates, images = random_updates(6), [50 + 30 * i for i in range(6)]
    clients = clients_with(updates, images, **{f"client_{i}": stage for i in range(leaving)})
    found, _, _ = average(clients, sum(images))
    assert found is not None
    # Whose masked update had arrived before it left is part of the average.
    first = 0 if stage == Stage.UNMASK else leaving
    share = sum(images[first:]) / sum(images)
    bound = error_bound(6 - first, share, 0.3, most=6)
    assert difference(found, exact(updates[first:], images[first:])) <= bound


def test_clients_leaving_at_several_stages() -> None:
    updates, images = random_updates(7), [40] * 7
    leaves = {"client_0": Stage.SETUP, "client_3": Stage.COLLECT_MASKED_VECTORS}
    found, _, _ = average(clients_with(updates, images, **leaves), 280)
    left = [u for i, u in enumerate(updates) if i not in (0, 3)]
    assert found is not None
    assert difference(found, exact(left, [40] * 5)) <= error_bound(5, 5 / 7, 0.3, most=7)


@pytest.mark.parametrize("stage", Stage.all())
def test_with_too_few_left_there_is_no_average(stage: str) -> None:
    updates = random_updates(5)
    clients = clients_with(updates, [10] * 5, **{f"client_{i}": stage for i in range(3)})
    found, _, strategy = average(clients, 50)
    assert found is None and strategy.results == []


# ---------------------------------------------------------------- servers that ask too much


def asked(stage: str, configs: dict[str, Any]) -> Message:
    made = Message(
        RecordDict({RECORD_KEY_CONFIGS: ConfigRecord({Key.STAGE: stage, **configs})}), 5, "train"
    )
    made.metadata.__dict__["_message_id"] = "1"
    return made


def setup_of(**changed: Any) -> dict[str, Any]:
    agreed = {
        Key.SAMPLE_NUMBER: 5,
        Key.SHARE_NUMBER: 5,
        Key.THRESHOLD: 3,
        Key.CLIPPING_RANGE: CLIP,
        Key.TARGET_RANGE: levels(5),
        Key.MOD_RANGE: RING,
        Key.MAX_WEIGHT: 100.0,
    }
    return {**agreed, **changed}


@pytest.fixture
def client() -> Client:
    return Client(5, ZEROS, 10)


def test_agreed_set_up_is_accepted(client: Client) -> None:
    reply = secure_mod(asked(Stage.SETUP, setup_of()), client.context, client.train)
    assert Key.PUBLIC_KEY_1 in reply.content.config_records[RECORD_KEY_CONFIGS]


@pytest.mark.parametrize(
    "changed",
    [
        {Key.THRESHOLD: 2},
        {Key.SAMPLE_NUMBER: 2, Key.SHARE_NUMBER: 2, Key.THRESHOLD: 2},
        {Key.SHARE_NUMBER: 3},
        {Key.MOD_RANGE: 2**20},
        {Key.CLIPPING_RANGE: 8.0},
    ],
    ids=str,
)
def test_set_ups_that_weaken_the_masks_are_refused(client: Client, changed: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        secure_mod(asked(Stage.SETUP, setup_of(**changed)), client.context, client.train)


def test_both_secrets_of_one_client_are_refused(client: Client) -> None:
    both = {Key.ACTIVE_NODE_ID_LIST: [1, 2, 3], Key.DEAD_NODE_ID_LIST: [3]}
    with pytest.raises(Refused, match="both secrets of 1"):
        secure_mod(asked(Stage.UNMASK, both), client.context, client.train)


def test_an_update_in_the_open_is_refused(client: Client) -> None:
    message = Message(RecordDict(), 5, "train")
    with pytest.raises(Refused, match="without secure averaging"):
        secure_mod(message, client.context, client.train)


def test_a_second_update_under_the_same_masks_is_refused(client: Client) -> None:
    secure_mod(asked(Stage.SETUP, setup_of()), client.context, client.train)
    collect = {Key.CIPHERTEXT_LIST: [], Key.SOURCE_LIST: []}
    with pytest.raises(ValueError, match="expect share_keys"):
        secure_mod(asked(Stage.COLLECT_MASKED_VECTORS, collect), client.context, client.train)


# ---------------------------------------------------------------- masks


Expand = Callable[[bytes, int, Any], Any]


def test_masks_are_uniform_and_determined_by_the_secret() -> None:
    (mask,) = masks.expand(b"k" * 32, RING, [(300, 200)])
    assert uniform(mask) > SIGNIFICANT
    assert np.array_equal(mask, masks.expand(b"k" * 32, RING, [(300, 200)])[0])
    (other,) = masks.expand(b"k" * 31 + b"j", RING, [(300, 200)])
    assert (mask == other).mean() < 1e-3


def test_masks_are_the_key_stream_of_chacha20() -> None:
    # pycryptodome, another implementation; it comes with Flower.
    from Crypto.Cipher import ChaCha20
    from Crypto.Hash import SHA256
    from Crypto.Protocol.KDF import HKDF

    secret = bytes(range(44))
    key = HKDF(secret, 32, b"", SHA256, context=b"dpsnn mask of secure averaging")
    stream = ChaCha20.new(key=key, nonce=bytes(12)).encrypt(bytes(4 * 11))
    expected = np.frombuffer(stream, "<u4").astype(np.int64)
    first, second = masks.expand(secret, RING, [(2, 5), ()])
    assert np.array_equal(first.ravel(), expected[:10]) and second == expected[10]
    (small,) = masks.expand(secret, 2**10, [(11,)])
    assert np.array_equal(small, expected % 2**10)


def test_flowers_own_masks_come_from_32_bits_and_miss_values() -> None:
    # Why they are replaced: other secrets with the same XOR of words give the same mask.
    one, other = bytes(32), b"abcd" * 2 + bytes(24)
    same = [pseudo_rand_gen(secret, RING, [(50,)])[0] for secret in (one, other)]
    assert np.array_equal(*same)
    assert pseudo_rand_gen(one, 4, [(2000,)])[0].max() == 2
    assert masks.expand(one, 4, [(2000,)])[0].max() == 3


def test_both_halves_expand_masks_by_chacha20() -> None:
    for place in masks.PLACES:
        module = import_module(place)
        assert getattr(module, masks.NAME) is masks.expand
    assert secure.secaggplus_mod is flowers_mod


def test_a_flower_that_expands_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "NAME", "expand_masks")
    with pytest.raises(RuntimeError, match="not known"):
        masks.install()


@pytest.mark.parametrize("ring", [1, 3, 2**33])
def test_other_rings_are_refused(ring: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        masks.expand(bytes(32), ring, [(1,)])
