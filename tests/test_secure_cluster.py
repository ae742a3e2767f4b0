"""Encrypted inference by real processes on the loopback: right, refused what is wrong, and alive after it."""

import os
import re
import secrets
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpsnn.cli import main
from dpsnn.errors import UsageError
from dpsnn.evaluation import tables

pytest.importorskip("spu", reason="needs the extra [secure]")

from scipy import stats  # noqa: E402
from secure_cluster import digits, free_cluster, resident, trained, until  # noqa: E402

from dpsnn.networks import SplitNetwork  # noqa: E402
from dpsnn.secure import keys, owner, shares  # noqa: E402
from dpsnn.secure.client import Client  # noqa: E402
from dpsnn.secure.cluster import LocalCluster  # noqa: E402
from dpsnn.secure.config import Address, Cluster, to_toml  # noqa: E402
from dpsnn.secure.dial import dial  # noqa: E402
from dpsnn.secure.messages import ClusterFailed, Gone  # noqa: E402

TOLERANCE = 0.02


class Running:
    """A cluster, the network that it serves, and what its workers have logged."""

    def __init__(self, cluster: Cluster, folder: Path, num_requests: int = 0) -> None:
        self.cluster = cluster
        self.log_file = folder / "log"
        with open(self.log_file, "wb") as log:
            self.processes = LocalCluster(cluster, folder, num_requests, log)
        self.network = trained()
        self.share()

    def share(self) -> None:
        owner.share(self.cluster, owner.whole(self.network))

    def log(self) -> str:
        return self.log_file.read_text()

    def plain(self, images: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return self.network(images).numpy()

    def works(self) -> None:
        images = digits(1)
        with Client(self.cluster) as client:
            assert np.abs(client.scores(images.numpy()) - self.plain(images)).max() < TOLERANCE


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = Running(free_cluster(), tmp_path_factory.mktemp("cluster"))
    with made.processes:
        yield made


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The same with TLS."""
    folder = tmp_path_factory.mktemp("guarded")
    cluster = free_cluster(tls=True, keys=folder / "keys")
    keys.make(cluster)
    made = Running(cluster, folder)
    with made.processes:
        yield made


# ---------------------------------------------------------------- the answer


@pytest.mark.parametrize("batch", [1, 7])
def test_encrypted_equals_plaintext(running: Running, batch: int) -> None:
    images = digits(14 if batch > 1 else 3)
    with Client(running.cluster) as client:
        assert client.model.input_shape == (1, 28, 28) and client.model.classes == 10
        made = np.concatenate(list(client.all_scores(images.numpy(), batch)))
    expected = running.plain(images)
    assert np.abs(made - expected).max() <= TOLERANCE
    assert (made.argmax(1) == expected.argmax(1)).all()
    assert batch == 1 or len(set(expected.argmax(1))) > 2, "a network that has learnt something"


def test_graphs_are_compiled_once_for_each_size_and_weights_sent_once(running: Running) -> None:
    images = digits(2).numpy()
    with Client(running.cluster) as client:
        client.scores(images)
        before = owner.status(running.cluster)
        sent = client.traffic[0]
        client.scores(images)
        after = owner.status(running.cluster)
        assert client.traffic[0] - sent < 3 * (shares.size(images.shape) + 512)
    assert [state.graphs for state in before] == [state.graphs for state in after]
    assert [state.served + 1 for state in before] == [state.served for state in after]
    assert all(state.peak_bytes < 2 * 1024**3 for state in after)


def test_several_clients_at_once_each_get_their_own_answer(running: Running) -> None:
    images = digits(6)
    expected = running.plain(images)

    def ask(number: int) -> np.ndarray:
        with Client(running.cluster) as client:
            return client.scores(images[number : number + 1].numpy())

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, range(6)))
    assert np.abs(np.concatenate(answers) - expected).max() <= TOLERANCE


def test_mixed_mode_and_another_model_in_place_of_the_first(running: Running) -> None:
    network = running.network.at("conv2")
    images = digits(2)
    with torch.no_grad():
        smashed, expected = network.client(images), network(images).numpy()
    try:
        owner.share(running.cluster, owner.server_half(network), "a" * 32)
        with Client(running.cluster) as client:
            assert client.model.input_shape == tuple(network.cut_shape)
            assert (client.model.content, client.model.pairing) == ("smashed", "a" * 32)
            assert np.abs(client.scores(smashed.numpy()) - expected).max() <= TOLERANCE
            with pytest.raises(UsageError, match="values of shape"):
                client.scores(images.numpy())
    finally:
        running.share()


@pytest.mark.parametrize("values", [np.zeros((65, 1, 28, 28)), np.full((1, 1, 28, 28), np.inf)])
def test_a_client_refuses_what_cannot_be_asked(running: Running, values: np.ndarray) -> None:
    with Client(running.cluster) as client, pytest.raises(UsageError):
        client.scores(values.astype(np.float32))


# ---------------------------------------------------------------- what a worker sees


class Tap:
    """Stands between clients and the workers and keeps what each worker receives."""

    def __init__(self, cluster: Cluster) -> None:
        self.seen: list[bytearray] = []
        addresses = []
        for address in cluster.workers:
            listening = socket.create_server(("127.0.0.1", 0))  # held from now on
            addresses.append(Address("127.0.0.1", listening.getsockname()[1], address.engine_port))
            self.seen.append(bytearray())
            threading.Thread(
                target=self._pass_on, args=(listening, address, self.seen[-1]), daemon=True
            ).start()
        self.cluster = replace(cluster, workers=tuple(addresses))

    def _pass_on(self, listening: socket.socket, address: Address, kept: bytearray) -> None:
        while True:
            client, _ = listening.accept()
            worker = socket.create_connection((address.host, address.port))
            for source, target, seen in ((client, worker, kept), (worker, client, None)):
                threading.Thread(
                    target=self._pump, args=(source, target, seen), daemon=True
                ).start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket, seen: bytearray | None) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
                if seen is not None:
                    seen += data
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def bodies(seen: bytes) -> list[bytes]:
    """The bodies of what was recorded, header after header."""
    found = []
    while seen:
        (length,) = struct.unpack("!I", seen[:4])
        match = re.search(rb'"size": (\d+)', seen[4 : 4 + length])
        assert match
        end = 4 + length + int(match[1])
        found.append(seen[4 + length : end])
        seen = seen[end:]
    return [body for body in found if body]


def uniform(data: bytes) -> bool:
    """Chi-square over bytes, and over the upper and lower byte of words, at a level of one in ten thousand."""
    words = np.frombuffer(data, np.uint64)
    samples = (np.frombuffer(data, np.uint8), words >> np.uint64(56), words & np.uint64(255))
    return all(
        stats.chisquare(np.bincount(sample.astype(np.int64), minlength=256)).pvalue > 1e-4
        for sample in samples
    )


def test_what_a_worker_gets_is_uniform_and_another_each_time(running: Running) -> None:
    tap = Tap(running.cluster)
    # The same images twice, mostly black: as far from uniform as can be.
    images = digits(1).numpy().repeat(8, axis=0)
    assert not uniform(images.tobytes())
    for _ in range(2):
        owner.share(tap.cluster, owner.whole(running.network))
        with Client(tap.cluster) as client:
            client.scores(images)
    for rank, seen in enumerate(tap.seen):
        weights, asked, again_weights, again = bodies(bytes(seen))
        assert len(weights) == len(again_weights) > 16 * 20_000
        assert len(asked) == len(again) == shares.size(images.shape)
        for once, more in ((weights, again_weights), (asked, again)):
            assert uniform(once) and uniform(more)
            same = np.frombuffer(once, np.uint64) == np.frombuffer(more, np.uint64)
            assert not same.any(), f"worker {rank}"
        # Neither the fixed-point words nor the floats themselves are anywhere in it.
        assert images[0].tobytes() not in bytes(seen)
    # All three together are the image: what was recorded is not just noise.
    every = [bodies(bytes(seen))[1] for seen in tap.seen]
    assert np.abs(shares.join(every, images.shape) - images).max() < 1e-4


def test_what_a_worker_stores_is_what_it_got() -> None:
    from spu import libspu

    from dpsnn.secure.engine import Engine, Model

    converted = owner.whole(trained(steps=1))
    model = Model("0" * 32, converted.plan, (1, 28, 28), 10, "images", "")
    description = libspu.link.Desc()
    for rank in range(3):
        description.add_party(f"worker-{rank}", f"thread-{rank}")

    def stored(rank: int, body: bytes) -> bytes:
        engine = Engine(libspu.link.create_mem(description, rank))
        engine.load(model, body)
        kept = [f"weight-{number}" for number in range(len(converted.weights))]
        return b"".join(shares.unwrap(engine._runtime.get_var(name)) for name in kept)

    parts = [shares.split(weight) for weight in converted.weights]
    sent = [b"".join(part[rank] for part in parts) for rank in range(3)]
    with ThreadPoolExecutor(3) as pool:
        kept = list(pool.map(stored, range(3), sent))
    assert kept == sent
    assert all(map(uniform, kept))


def test_contradicting_shares_are_noticed(running: Running) -> None:
    from dpsnn.secure.messages import Malformed

    parts = shares.split(np.ones((2, 3), np.float32))
    forged = bytearray(parts[1])
    forged[8] ^= 1
    with pytest.raises(Malformed, match="contradict"):
        shares.join([parts[0], bytes(forged), parts[2]], (2, 3))
    with pytest.raises(Malformed, match="wrong size"):
        shares.join([parts[0], parts[1][:-1], parts[2]], (2, 3))


# ---------------------------------------------------------------- what is wrong


def query(**changes: Any) -> dict[str, Any]:
    return {"id": secrets.token_hex(16), "batch": 1} | changes


@pytest.mark.parametrize(
    ("body", "changes", "reason"),
    [
        (bytes(16), {}, "query of 16 bytes instead of 12544"),
        (bytes(2 * 12544), {}, "query of 25088 bytes instead of 12544"),
        (bytes(12544), {"batch": 2}, "query of 12544 bytes instead of 25088"),
        (b"", {"batch": 65}, "a batch of 65; at most 64"),
        (b"", {"batch": -1}, "query with a wrong batch"),
        (b"", {"id": "../../etc"}, "query with a wrong id"),
        (b"", {"weights": 1}, "query with missing or unknown fields"),
    ],
)
def test_shares_of_a_wrong_shape_are_refused_and_logged(
    running: Running, body: bytes, changes: dict[str, Any], reason: str
) -> None:
    channel = dial(running.cluster, 1, "client", "client")
    channel.send("query", body, **query(**changes))
    assert reason in channel.receive("refused", seconds=10)["reason"]
    channel.close()
    assert reason in running.log()
    running.works()


@pytest.mark.parametrize("kind", ["status", "stop", "share", "run", "drop", "failed"])
def test_a_client_may_only_ask(running: Running, kind: str) -> None:
    values: dict[str, Any] = {
        "share": {
            "id": "0" * 32,
            "plan": [],
            "input_shape": [1],
            "content": "images",
            "pairing": "",
        },
        "run": {"id": "0" * 32},
        "drop": {"id": "0" * 32, "reason": "none"},
        "failed": {"reason": "none"},
    }.get(kind, {})
    channel = dial(running.cluster, 1, "client", "client")
    channel.send(kind, **values)
    assert "may not come here" in channel.receive("refused", seconds=10)["reason"]
    channel.close()
    running.works()


def test_a_request_made_before_is_refused(running: Running) -> None:
    values = query()
    parts = shares.split(digits(1).numpy())

    def ask(rank: int) -> dict[str, Any]:
        channel = dial(running.cluster, rank, "client", "client")
        channel.send("query", parts[rank], **values)
        answer = channel.receive("result", "refused", seconds=30)
        channel.close()
        return answer

    with ThreadPoolExecutor(3) as pool:
        assert [answer["kind"] for answer in pool.map(ask, range(3))] == ["result"] * 3
    assert "replayed" in ask(0)["reason"]
    assert "replayed" in ask(2)["reason"]


def test_workers_that_are_told_different_things_compute_nothing(running: Running) -> None:
    values = query()

    def ask(rank: int) -> str:
        batch = 2 if rank == 2 else 1
        channel = dial(running.cluster, rank, "client", "client")
        channel.send("query", bytes(shares.size((batch, 1, 28, 28))), **values | {"batch": batch})
        reason = channel.receive("refused", seconds=30)["reason"]
        channel.close()
        return str(reason)

    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(ask, range(3))) == {"the workers were told different things"}
    running.works()


def test_a_model_that_does_not_fit_is_refused_and_the_one_before_stays(running: Running) -> None:
    converted = owner.whole(running.network)
    wrong = converted._replace(input_shape=(3, 28, 28))
    with pytest.raises(UsageError, match="the workers refuse the model: .*do not fit"):
        owner.share(running.cluster, wrong)
    running.works()


def malformed(number: int) -> bytes:
    """Random bytes, wrong lengths, and nearly right messages, in turn."""
    raw = secrets.token_bytes(40)
    header = b'{"kind": "join", "nonce": "%s", "number": 0, "size": %d, "role": "client"}'
    match number % 5:
        case 0:
            return raw
        case 1:
            return struct.pack("!I", 0xFFFFFFFF) + raw
        case 2:
            return struct.pack("!I", 40) + raw
        case 3:
            return struct.pack("!I", 100) + b"[" * 100
        case _:
            text = header % (secrets.token_hex(16).encode(), 2**32)
            return struct.pack("!I", len(text)) + text


def test_a_thousand_malformed_messages_cost_nothing(running: Running) -> None:
    processes = [process.pid for process in running.processes.processes]

    def throw(numbers: range) -> None:
        for number in numbers:
            address = running.cluster.workers[number % 3]
            with socket.create_connection((address.host, address.port), 10) as connection:
                connection.sendall(malformed(number // 3))
                connection.shutdown(socket.SHUT_WR)
                try:
                    while connection.recv(4096):
                        pass
                except OSError:
                    pass

    throw(range(150))
    before = [resident(process) for process in processes]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(throw, [range(n, 1000, 4) for n in range(4)]))
    grown = [resident(process) - held for process, held in zip(processes, before)]
    assert all(process.poll() is None for process in running.processes.processes)
    assert max(grown) < 8 * 1024**2
    assert running.log().count("refused 127.0.0.1") >= 900
    running.works()


def test_connections_that_say_nothing_keep_nobody_out(running: Running) -> None:
    address = running.cluster.workers[2]
    held = [socket.create_connection((address.host, address.port), 10) for _ in range(80)]
    running.works()
    for connection in held:
        connection.close()


# ---------------------------------------------------------------- TLS


def test_with_certificates_the_answer_is_the_same(guarded: Running) -> None:
    guarded.works()


def test_a_stranger_is_refused(guarded: Running, tmp_path: Path) -> None:
    cluster = guarded.cluster
    # Without TLS, without a certificate, and with one of another authority.
    with pytest.raises(ClusterFailed):
        dial(replace(cluster, tls=False), 0, "client", "client", 5)
    address = cluster.workers[0]
    bare = ssl.create_default_context(cafile=str(cluster.keys / "client" / "ca.pem"))
    with socket.create_connection((address.host, address.port), 5) as connection:
        with pytest.raises((ssl.SSLError, OSError)):
            with bare.wrap_socket(connection, server_hostname=address.host) as wrapped:
                assert wrapped.recv(1) == b"", "nothing is said to who shows no certificate"
                raise ssl.SSLError("closed")
    other = replace(cluster, keys=tmp_path / "other")
    keys.make(other)
    (other.keys / "client" / "ca.pem").write_bytes(
        (cluster.keys / "client" / "ca.pem").read_bytes()
    )
    with pytest.raises(ClusterFailed, match="worker 0"):
        dial(other, 0, "client", "client", 5)
    until(lambda: guarded.log().count("no valid certificate") >= 3)
    guarded.works()


@pytest.mark.parametrize(
    ("name", "role"), [("client", "owner"), ("owner", "client"), ("client", "worker")]
)
def test_a_role_is_that_of_the_certificate(guarded: Running, name: str, role: str) -> None:
    with pytest.raises(ClusterFailed, match=f"the certificate is of a {name}, not of a {role}"):
        dial(guarded.cluster, 1, role, name)


def test_a_follower_cannot_lead(guarded: Running) -> None:
    with pytest.raises(ClusterFailed, match="worker-1 does not lead"):
        dial(guarded.cluster, 2, "worker", "worker-1")


def test_a_worker_cannot_pose_as_another(guarded: Running) -> None:
    first, second, third = guarded.cluster.workers
    swapped = replace(guarded.cluster, workers=(second, first, third))
    with pytest.raises(ClusterFailed, match="worker 0 .* has the certificate of worker-1"):
        dial(swapped, 0, "client", "client")


def test_the_engines_speak_tls_with_engines_alone(guarded: Running) -> None:
    address = guarded.cluster.workers[1]

    def shake(party: str, stem: str) -> None:
        home = guarded.cluster.keys / party
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(guarded.cluster.keys / "worker-0" / "engine-ca.pem")
        context.load_cert_chain(home / f"{stem}.pem", home / f"{stem}.key")
        with socket.create_connection((address.host, address.engine_port), 5) as connection:
            with context.wrap_socket(connection) as wrapped:
                wrapped.settimeout(1)
                try:
                    assert wrapped.recv(1), "closed"
                except TimeoutError:
                    return

    shake("worker-0", "engine")
    for party in ("client", "owner", "worker-0"):
        with pytest.raises((ssl.SSLError, OSError, AssertionError)):
            shake(party, "cert")


# ---------------------------------------------------------------- the end


def test_exactly_so_many_requests_are_served(tmp_path: Path) -> None:
    made = Running(free_cluster(), tmp_path, num_requests=3)
    images = digits(1)
    expected = made.plain(images)

    def ask(number: int) -> bool | str:
        try:
            with Client(made.cluster) as client:
                right = np.abs(client.scores(images.numpy()) - expected).max() <= TOLERANCE
            return bool(right)
        except (UsageError, ClusterFailed) as error:
            return str(error)

    with made.processes, ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(ask, range(5)))
        assert made.processes.wait() == 0
    assert answers.count(True) == 3
    refused = [answer for answer in answers if isinstance(answer, str)]
    assert len(refused) == 2 and all(refused)
    assert "has served its 3 requests" in made.log()


def busy(running: Running) -> threading.Thread:
    """A client with a question that takes a while; how it ends is in its `outcome`."""

    def ask() -> None:
        try:
            with Client(running.cluster) as client:
                for _ in range(200):
                    client.scores(digits(8).numpy())
            thread.outcome = "answered"  # type: ignore[attr-defined]
        except (UsageError, ClusterFailed) as error:
            thread.outcome = error  # type: ignore[attr-defined]

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    until(lambda: owner.status(running.cluster)[0].graphs > 1)
    return thread


@pytest.mark.parametrize(
    "rank", [2, pytest.param(0, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.slow)]
)
def test_a_worker_dies(tmp_path: Path, rank: int) -> None:
    made = Running(free_cluster(), tmp_path)
    with made.processes:
        client = busy(made)
        time.sleep(0.3)
        made.processes.processes[rank].kill()
        client.join(made.cluster.timeout / 2)
        assert not client.is_alive()
        error = client.outcome  # type: ignore[attr-defined]
        assert isinstance(error, ClusterFailed) and "worker" in str(error)
        assert len(str(error).splitlines()) == 1
        # Nobody is left behind to hold the ports.
        assert made.processes.wait() == 1
        codes = [process.returncode for process in made.processes.processes]
        assert codes == [-signal.SIGKILL if number == rank else 1 for number in range(3)]
    again = Running(made.cluster, tmp_path)
    with again.processes:
        again.works()


STARTER = """
import sys, time
from pathlib import Path
from dpsnn.secure.cluster import LocalCluster
from dpsnn.secure.config import read
folder = Path(sys.argv[1])
with LocalCluster(read(folder / "cluster.toml"), folder):
    print("ready", flush=True)
    time.sleep(600)
"""


def script(code: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)


@pytest.mark.parametrize("role", ["owner", "client"])
def test_who_asks_dies_and_the_cluster_lives_on(
    running: Running, tmp_path: Path, role: str
) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(to_toml(running.cluster))
    message = {
        "owner": "'share', bytes(16 * 10 ** 6), id='1' * 32, input_shape=[1, 1, 10 ** 6], content='images', pairing='',"
        " plan=[{'op': 'flatten', 'weights': []}, {'op': 'linear', 'weights': [[10, 10 ** 6], [10]]}]",
        "client": "'query', bytes(12544), id='2' * 32, batch=1",
    }[role]
    # It has begun with one worker, then is killed where it stands.
    process = script(f"""
import threading, time
from dpsnn.secure.config import read
from dpsnn.secure.dial import dial
channel = dial(read({str(path)!r}), 0, {role!r}, {role!r})
threading.Thread(target=lambda: channel.send({message})).start()
time.sleep(0.3)
print("begun", flush=True)
time.sleep(60)
""")
    assert process.stdout is not None and process.stdout.readline() == b"begun\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    running.works()


@pytest.mark.slow
def test_a_worker_that_hangs_costs_the_time_out_and_no_more(tmp_path: Path) -> None:
    made = Running(free_cluster(timeout=6.0), tmp_path)
    with made.processes:
        with Client(made.cluster) as client:
            made.processes.processes[1].send_signal(signal.SIGSTOP)
            start = time.monotonic()
            # Worker 0 notices that a share is missing, or the client that an answer is.
            with pytest.raises((ClusterFailed, UsageError), match="in time|went away"):
                client.scores(digits(1).numpy())
            assert time.monotonic() - start < 20


def test_workers_end_with_who_started_them(tmp_path: Path) -> None:
    (tmp_path / "cluster.toml").write_text(to_toml(free_cluster()))
    process = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    finally:
        process.kill()
    # The workers hold its standard error too: it ends with the last of them.
    process.communicate(timeout=60)


def test_the_cluster_stops_when_told(tmp_path: Path) -> None:
    made = Running(free_cluster(), tmp_path)
    with made.processes:
        # Any of them takes the word; here not the one that leads.
        channel = dial(made.cluster, 2, "owner", "owner")
        channel.send("stop")
        channel.close()
        assert made.processes.wait() == 0
        with pytest.raises(ClusterFailed, match="cannot be reached"):
            Client(made.cluster)


def test_a_cluster_in_a_folder_with_an_awkward_name(tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s "here"\n☃ $x'
    cluster = free_cluster(tls=True, keys=folder / "keys")
    keys.make(cluster)
    made = Running(cluster, folder)
    with made.processes:
        made.works()


@pytest.mark.parametrize("kind", ["port", "engine_port"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_taken_port_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str, rank: int
) -> None:
    cluster = free_cluster()
    taken = getattr(cluster.workers[rank], kind)
    with socket.create_server(("127.0.0.1", taken)):
        with pytest.raises(ClusterFailed, match="a worker did not start"):
            LocalCluster(cluster, tmp_path)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("dpsnn:")]
    assert len(lines) == 1 and "dpsnn secure stop" in lines[0]
    assert f"worker {rank} cannot listen on 127.0.0.1:{taken} (Address already in use)" in lines[0]


# ---------------------------------------------------------------- the command line


def command(*words: str, place: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "dpsnn.cli", "secure", *words],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("split", [False, True])
def test_the_commands_from_end_to_end(place: Path, classifier_file: Any, split: bool) -> None:
    cluster = free_cluster(tls=True, keys=place / "keys")
    (place / "cluster.toml").write_text(to_toml(cluster))
    classifier_file(place / "models", network="keydana", noise_scale=0.1 if split else 0.0)
    config = ["--config", "cluster.toml"]

    def done(*words: str) -> list[str]:
        process = command(*words, *config, place=place)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return out.splitlines()

    assert done("keys") == [str(cluster.keys)]
    model = "digits_01noise_00nopeek_keydana" if split else "digits_00noise_00nopeek_keydana"
    serving = command(
        "serve", "--num_requests", "2", "--model", model, *(["--split"] if split else []), *config, place=place
    )  # fmt: skip
    assert serving.stdout is not None
    given = serving.stdout.readline().strip()
    device = ["--device", given] if split else []
    assert len(done("status")) == 3
    lines = done("query", "--images", "digits", "--count", "6", "--batch_size", "3", *device)
    assert lines[-1] == "results/secure/scores.csv" and "6 right" in lines[-2]
    table = (place / lines[-1]).read_text().splitlines()
    assert len(table) == 7 and table[0].startswith("Image,Predicted,Actual,Score0")
    serving.communicate(timeout=60)
    assert serving.returncode == 0


@pytest.mark.slow
def test_the_group_on_digits(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dpsnn.studies.secure import study as group

    monkeypatch.setattr(group, "IMAGES", 40)
    monkeypatch.setattr(group, "PORT", free_cluster().workers[0].port)
    earlier = {
        "Model": "digits_00noise_00nopeek_keydana_2epochs_0003rate_32batch_epoch=77",
        "Mode": "whole",
    }
    tables.upsert(group.secure_table("results"), [earlier], group.KEY)
    assert main(["secure", "--dataset", "digits", "--max_epochs", "2"]) == 0
    rows = (place / "results/quantitative_measures/secure.csv").read_text().splitlines()
    columns = rows[0].split(",")
    for line in rows[1:]:
        row = dict(zip(columns, line.split(",")))
        assert row["Agreement"] == "100" and float(row["MaxScoreError"]) <= TOLERANCE
        assert row["StoppedByItself"] == "True" and float(row["PeakGiB"]) < 2
        assert float(row["ShareUniformP"]) > 1e-4
    assert len(rows) == 3, "one of an earlier training is gone"
    assert (place / "results/figures/secure_digits.png").exists()


@pytest.mark.slow
def test_mnist_agrees_on_200_images(mirror: Path, running: Running) -> None:
    from torch.nn import functional as F

    from dpsnn.batches import to_unit
    from dpsnn.data import MNIST
    from dpsnn.networks import NETWORKS

    data = MNIST("data")
    torch.manual_seed(0)
    network: SplitNetwork = NETWORKS["keydana"](MNIST.image_shape, 10)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for images, labels in list(data.batches("train", shuffle_seed=0)):
        loss = F.cross_entropy(network(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()
    pixels, labels = data.tensors("test")
    images = to_unit(pixels[:200])
    with torch.no_grad():
        expected = network(images).numpy()
    try:
        owner.share(running.cluster, owner.whole(network))
        with Client(running.cluster) as client:
            made = np.concatenate(list(client.all_scores(images.numpy(), 20)))
    finally:
        running.share()
    assert (made.argmax(1) == expected.argmax(1)).sum() == 200
    assert np.abs(made - expected).max() <= TOLERANCE
    accuracy = [(scores.argmax(1) == labels[:200].numpy()).mean() for scores in (made, expected)]
    assert accuracy[0] == accuracy[1] > 0.8
    print(
        f"agreement 200/200, accuracy {accuracy[0]:.3f}, largest error {np.abs(made - expected).max():.6f}"
    )


def test_a_lost_connection_is_an_error_of_the_connection() -> None:
    assert issubclass(Gone, OSError), "which every reader of a socket catches"
