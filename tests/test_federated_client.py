"""The ClientApp and the server's door: what a client trains on, keeps and gives out, and whom the server waits for."""

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="needs Flower: pip install -e '.[federated]'")

from flwr.app import ArrayRecord, Context, Error, Message, RecordDict  # noqa: E402
from flwr.common import Parameters  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402

from dpsnn import building  # noqa: E402
from dpsnn.errors import Diverged  # noqa: E402
from dpsnn.federated import client, grid  # noqa: E402
from dpsnn.federated.client import TrainingClient, agreed_mod  # noqa: E402
from dpsnn.federated.local import get_weights  # noqa: E402
from dpsnn.federated.secure import Refused  # noqa: E402
from dpsnn.federated.server import AddAverage  # noqa: E402
from dpsnn.federated.spec import FederatedSpec, Settings  # noqa: E402
from dpsnn.metrics.privacy import dp_sgd_epsilon  # noqa: E402
from dpsnn.specs import ClassifierSpec  # noqa: E402
from dpsnn.studies.federated.study import _notes, _spent  # noqa: E402

SPEC = ClassifierSpec(network="lenet5", batch_size=32, constant_rate=True, precision="32")


def settings_in(folder: Path, **changed: Any) -> Settings:
    settings = Settings(
        classifier=SPEC,
        federated=FederatedSpec(clients=8),
        mode="secure",
        data_dir="data",
        folder=str(folder),
    )
    return replace(settings, **changed)


def context_of(settings: Settings, partition: int = 0) -> Context:
    path = str(settings.write())
    return Context(1, 2, {"settings": path, "partition": partition}, RecordDict(), {})


def start_of(settings: Settings) -> np.ndarray[Any, Any]:
    return get_weights(building.build_classifier(settings.classifier))


@pytest.mark.parametrize(("mode", "kind"), [("secure", np.float64), ("plain", np.float32)])
def test_a_client_gives_out_its_update_and_number_of_images_alone(
    tmp_path: Path, mode: str, kind: type
) -> None:
    settings = settings_in(tmp_path, mode=mode)
    start = start_of(settings)
    (update,), images, metrics = TrainingClient(context_of(settings)).fit([start], {"round": 1})
    assert (images, metrics) == (100, {})
    assert update.dtype == kind and update.shape == start.shape
    # Adam: no weight moves by much more than the step size in a step; there are four.
    assert 0 < np.abs(update).max() < 5 * SPEC.learning_rate
    assert not list(tmp_path.glob("update_*"))


def test_same_round_same_update_other_round_or_client_another(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    start = start_of(settings)

    def update(partition: int, current: int) -> bytes:
        made = TrainingClient(context_of(settings, partition)).fit([start], {"round": current})
        return made[0][0].tobytes()

    assert update(0, 1) == update(0, 1)
    assert len({update(0, 1), update(0, 2), update(1, 1)}) == 3


@pytest.mark.parametrize("mode", ["secure", "plain"])
def test_a_client_that_diverges_says_so_and_gives_nothing(tmp_path: Path, mode: str) -> None:
    settings = settings_in(tmp_path, mode=mode, classifier=replace(SPEC, learning_rate=1e30))
    with pytest.raises(Diverged, match="on a client: network.* is not finite"):
        TrainingClient(context_of(settings)).fit([start_of(settings)], {"round": 1})
    assert not list(tmp_path.glob("*.jsonl")) and not list(tmp_path.glob("*.npy"))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_round_whose_average_is_not_finite_ends_the_run(bad: float) -> None:
    classifier, rounds = building.build_classifier(SPEC), []
    strategy = AddAverage(classifier, lambda *event: rounds.append(event))
    before = strategy.weights.copy()
    strategy.update = np.zeros_like(before)
    strategy.weights = before + np.where(np.arange(len(before)) == 5, bad, 0).astype(np.float32)
    with pytest.raises(Diverged, match="average of round 3 is not finite"):
        strategy.evaluate(3, Parameters([], ""))
    assert rounds == [] and np.array_equal(get_weights(classifier), before)


def test_an_audited_client_leaves_its_update(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, audit=True)
    made = TrainingClient(context_of(settings, 3)).fit([start_of(settings)], {"round": 2})
    assert np.array_equal(np.load(tmp_path / "update_2_3.npy"), made[0][0])


def test_epsilon_of_a_client_is_the_accountants_over_all_rounds(tmp_path: Path) -> None:
    private = replace(SPEC, dp_noise_multiplier=1.2)
    federated = FederatedSpec(clients=8, local_epochs=2)
    settings = settings_in(tmp_path, classifier=private, federated=federated)
    context, start = context_of(settings), start_of(settings)
    updates = []
    for current in (1, 2):
        # A new client object each time: what was spent is in the context.
        made = TrainingClient(context).fit([start], {"round": current})
        updates.append(made[0][0])
        assert made[2] == {}
    # 100 images in lots of 32 on average: 4 steps in an epoch, 2 epochs in a round, 2 rounds.
    expected = dp_sgd_epsilon([(1.2, 32 / 100, 16)], private.dp_delta)
    spent = _spent(_notes(tmp_path))
    assert spent["dp_steps"] == 16
    assert spent["dp_epsilon"] == pytest.approx(expected, rel=1e-9)
    assert spent["dp_epsilon_by_client"] == {"0": spent["dp_epsilon"]}
    assert [note["dp_steps"] for note in _notes(tmp_path, 1)] == [8]


def test_noise_of_dp_sgd_is_nothing_that_the_seed_of_the_run_tells(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, classifier=replace(SPEC, dp_noise_multiplier=1.0))
    start = start_of(settings)
    first, again = (
        TrainingClient(context_of(settings)).fit([start], {"round": 1})[0][0] for _ in range(2)
    )
    assert not np.array_equal(first, again)


def test_the_worst_client_stands_for_all() -> None:
    notes = [
        {"client": i, "dp_epsilon": epsilon, "dp_noise_multiplier": 1.0, "dp_steps": 4}
        for i, epsilon in enumerate((2.0, 5.0, 3.0))
    ]
    spent = _spent(notes)
    assert spent["dp_epsilon"] == 5.0
    assert spent["dp_epsilon_by_client"] == {"0": 2.0, "1": 5.0, "2": 3.0}
    assert _spent([{"client": 0}]) == {}


# ---------------------------------------------------------------- whose choice it is


def test_a_client_that_agreed_to_masks_gives_nothing_without(tmp_path: Path) -> None:
    message = Message.__new__(Message)
    message.__dict__["_content"] = RecordDict()
    context = context_of(settings_in(tmp_path))
    with pytest.raises(Refused):
        agreed_mod(message, context, lambda *_: pytest.fail("it trained"))


def test_a_plain_client_answers_as_it_is(tmp_path: Path) -> None:
    message = Message.__new__(Message)
    context = context_of(settings_in(tmp_path, mode="plain"))
    assert agreed_mod(message, context, lambda message, _: message) is message
    assert client.app is not None


# ---------------------------------------------------------------- whom the server waits for


class Replies(grid.Grid):
    """Clients 1 to 5; each replies after its number of looks, with an error, or never."""

    def __init__(self, looks: dict[int, float], failing: Iterable[int] = ()) -> None:
        self.looks, self.failing = looks, set(failing)
        self.sent: dict[str, Message] = {}

    run = property(lambda self: None)  # type: ignore[assignment]

    def set_run(self, run: Any) -> None:
        pass

    def create_message(self, *args: Any, **named: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.looks)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(message.metadata.dst_node_id)
        self.sent = {m.metadata.message_id: m for m in messages}
        return list(self.sent)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        ready = []
        for name in message_ids:
            node = int(name)
            self.looks[node] -= 1
            if self.looks[node] <= 0:
                content: Any = Error(1, "cannot") if node in self.failing else content_of(10)
                ready.append(Message(content, reply_to=self.sent[name]))
        return ready

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        raise NotImplementedError


def content_of(values: int) -> RecordDict:
    return RecordDict({"arrays": ArrayRecord([np.zeros(values, np.float32)])})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "GRACE", 0.2)
    monkeypatch.setattr(grid, "POLL", 0.01)
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def exchange(wire: Replies, timeout: float = 30) -> tuple[grid.PatientGrid, set[int], float]:
    patient = grid.PatientGrid(wire, timeout)
    start = time.monotonic()
    replies = patient.send_and_receive([Message(content_of(100), n, "train") for n in wire.looks])
    return patient, {r.metadata.src_node_id for r in replies}, time.monotonic() - start


def test_all_replies_are_waited_for(quick: None) -> None:
    patient, replied, _ = exchange(Replies({1: 1, 2: 2, 3: 3, 4: 4, 5: 5}))
    assert replied == {1, 2, 3, 4, 5} and patient.lost == set()


def test_who_is_silent_long_after_the_others_is_asked_no_more(quick: None) -> None:
    patient, replied, seconds = exchange(Replies({1: 1, 2: 1, 3: 1, 4: 1, 5: float("inf")}))
    assert replied == {1, 2, 3, 4} and patient.lost == {5}
    assert seconds < 10
    assert list(patient.get_node_ids()) == [1, 2, 3, 4]


def test_without_enough_replies_the_whole_timeout_is_waited(quick: None) -> None:
    patient, replied, seconds = exchange(Replies({n: float("inf") for n in range(1, 6)}), 0.5)
    assert replied == set() and len(patient.lost) == 5
    assert seconds >= 0.5


def test_who_fails_is_lost_with_its_reason(quick: None) -> None:
    patient, _, _ = exchange(Replies(dict.fromkeys(range(1, 6), 1), failing=[2]))
    assert patient.lost == {2} and patient.reasons == ["cannot"]


def test_bytes_are_counted(quick: None) -> None:
    patient, _, _ = exchange(Replies(dict.fromkeys(range(1, 6), 1)))
    assert 5 * 400 < patient.sent < 5 * 1500
    assert 5 * 40 < patient.received < patient.sent
