"""Strangers, silent clients and short time-outs cost nobody else an answer, nor the cluster its life."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpsnn.errors import UsageError

pytest.importorskip("spu", reason="needs the extra [secure]")

from secure_cluster import digits, until  # noqa: E402
from secure_threads import Threads, guarded_cluster  # noqa: E402

from dpsnn.secure import keys, owner, places, shares  # noqa: E402
from dpsnn.secure.client import Client  # noqa: E402
from dpsnn.secure.cluster import LocalCluster  # noqa: E402
from dpsnn.secure.config import Address, to_toml  # noqa: E402
from dpsnn.secure.convert import Converted  # noqa: E402
from dpsnn.secure.dial import dial  # noqa: E402
from dpsnn.secure.keys import Identity  # noqa: E402
from dpsnn.secure.listener import listen  # noqa: E402
from dpsnn.secure.messages import Channel, ClusterFailed, Refused  # noqa: E402
from dpsnn.secure.places import Door, Places  # noqa: E402
from dpsnn.secure.worker import PENDING  # noqa: E402


@pytest.fixture
def threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Threads:
    return Threads(guarded_cluster(tmp_path), monkeypatch)


# ---------------------------------------------------------------- the door and the places


@pytest.fixture
def sockets() -> Iterator[Callable[[], socket.socket]]:
    made: list[socket.socket] = []

    def connected() -> socket.socket:
        made.extend(socket.socketpair())
        return made[-2]

    yield connected
    for end in made:
        end.close()


def is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True


def test_the_oldest_stranger_makes_way_after_its_moment(
    sockets: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "MOMENT", 0.3)
    door = Door(places=2)
    first, second, third = sockets(), sockets(), sockets()
    start = time.monotonic()
    door.enter(first)
    door.enter(second)
    door.enter(third)
    assert 0.29 < time.monotonic() - start < 5, "the first had its moment"
    assert [is_open(s) for s in (first, second, third)] == [False, True, True]
    assert [door.leave(s) for s in (first, second, third)] == [False, True, True]


def test_who_leaves_gives_its_place_at_once(
    sockets: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "MOMENT", 60.0)
    door = Door(places=1)
    first, second = sockets(), sockets()
    door.enter(first)
    threading.Timer(0.2, door.leave, [first]).start()
    door.enter(second)
    assert is_open(first) and is_open(second)


def test_strangers_go_when_their_time_is_over_or_files_are_short(
    sockets: Callable[[], socket.socket],
) -> None:
    door = Door(places=9, seconds=0.2)
    early, late = [sockets() for _ in range(3)], sockets()
    for connection in early:
        door.enter(connection)
    door.tidy()
    assert all(map(is_open, early))
    assert door.halve() == 2 and [is_open(s) for s in early] == [False, False, True]
    time.sleep(0.25)
    door.enter(late)
    door.tidy()
    assert not is_open(early[2]) and is_open(late)


def test_places_are_for_roles_and_certificates(sockets: Callable[[], socket.socket]) -> None:
    taken = Places()

    def come(role: str, name: str, certified: bool = True) -> Channel:
        channel = Channel(sockets(), "0" * 32)
        taken.take(channel, Identity(role, name), certified)
        return channel

    phones = [come("client", "phone") for _ in range(16)]
    with pytest.raises(Refused, match="16 connections of phone are open"):
        come("client", "phone")
    for number in range(48):
        come("client", f"other-{number // 16}")
    with pytest.raises(Refused, match="64 clients are connected; try again later"):
        come("client", "another")
    taken.free(phones[0])
    come("client", "another")
    owners = [come("owner", "owner") for _ in range(12)]
    assert [is_open(o.connection) for o in owners] == [False] * 4 + [True] * 8
    come("worker", "worker-0")
    open_to_all = Places()
    for _ in range(64):
        open_to_all.take(Channel(sockets(), "0" * 32), Identity("client", "client"), False)


# ---------------------------------------------------------------- strangers


def hold(address: Address, stop: threading.Event, drip: bytes) -> None:
    """A stranger who comes back as soon as it is closed, and sends a byte now and then, or nothing."""
    while not stop.is_set():
        try:
            with socket.create_connection((address.host, address.port), 5) as connection:
                connection.settimeout(0.5)
                for byte in drip * 1000 or b"\0" * 1000:
                    if drip:
                        connection.sendall(bytes([byte]))
                    try:
                        if not connection.recv(100):
                            break
                    except TimeoutError:
                        pass
                    if stop.is_set():
                        return
        except OSError:
            stop.wait(0.05)


class Strangers:
    """So many connections to each worker, all the time."""

    def __init__(self, addresses: tuple[Address, ...], count: int, drip: bytes) -> None:
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=hold, args=(address, self._stop, drip), daemon=True)
            for address in addresses
            for _ in range(count)
        ]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


# The start of a TLS handshake that announces 512 bytes, which come one by one.
SLOW = b"\x16\x03\x01\x02\x00" + b"\x01" * 8


@pytest.mark.parametrize(("count", "drip"), [(64, b""), (64, SLOW), (200, b"")])
def test_strangers_do_not_keep_a_certified_client_out(
    threads: Threads, count: int, drip: bytes
) -> None:
    with Strangers(threads.cluster.workers[:1], count, drip):
        time.sleep(1)
        for _ in range(8):
            threads.works()
        assert len(owner.status(threads.cluster)) == 3
    assert not threads.failed


def test_a_stranger_is_closed_in_time_however_it_drips(threads: Threads) -> None:
    address = threads.cluster.workers[1]
    with socket.create_connection((address.host, address.port), 5) as connection:
        connection.settimeout(0.2)
        start = time.monotonic()
        with pytest.raises((ConnectionError, AssertionError)):
            while time.monotonic() - start < 30:
                connection.sendall(SLOW[:5] if time.monotonic() - start < 0.1 else b"\x01")
                try:
                    assert connection.recv(10), "closed"
                except TimeoutError:
                    pass
        assert 4 < time.monotonic() - start < 15


def test_silent_clients_of_one_certificate_keep_out_nobody_else(threads: Threads) -> None:
    held, refused = [], 0
    for _ in range(64):
        try:
            held.append(dial(threads.cluster, 0, "client", "client"))
        except ClusterFailed as error:
            assert "16 connections of client are open; close one of them" in str(error)
            refused += 1
    assert (len(held), refused) == (16, 48)
    assert len(owner.status(threads.cluster)) == 3
    threads.works("phone")
    for channel in held:
        channel.close()
    until(lambda: _works(threads))


def _works(threads: Threads) -> bool:
    try:
        threads.works()
        return True
    except ClusterFailed:
        return False


def test_certified_but_speechless_connections_keep_out_nobody(threads: Threads) -> None:
    address, context = threads.cluster.workers[0], keys.context(threads.cluster, "client")
    held = []
    for _ in range(64):
        connection = socket.create_connection((address.host, address.port), 5)
        held.append(context.wrap_socket(connection, server_hostname=address.host))
    assert len(owner.status(threads.cluster)) == 3
    threads.works()
    for connection in held:
        connection.close()


def test_the_owner_always_gets_in(threads: Threads) -> None:
    held = [dial(threads.cluster, 0, "owner", "owner") for _ in range(20)]
    assert len(owner.status(threads.cluster)) == 3
    for channel in held:
        channel.close()


def test_who_floods_after_a_refusal_is_left_in_time() -> None:
    left, right = socket.socketpair()
    stop = threading.Event()

    def flood() -> None:
        try:
            while not stop.is_set():
                right.sendall(bytes(65536))
        except OSError:
            pass

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    start = time.monotonic()
    Channel(left, "0" * 32).close()
    assert time.monotonic() - start < 5
    stop.set()
    thread.join()
    right.close()


def test_waiting_requests_of_clients_keep_out_no_owner(threads: Threads) -> None:
    """They wait at worker 0 for shares that no other worker gets."""
    held = []
    for number in range(PENDING):
        name = ("client", "phone")[number % 2]
        held.append(dial(threads.cluster, 0, "client", name))
        held[-1].send("query", bytes(shares.size((1, 1, 2, 2))), id=f"{number:032x}", batch=1)
    until(lambda: len(threads.workers[0]._jobs) == PENDING)
    with (
        Client(threads.cluster, "tablet") as client,
        pytest.raises(UsageError, match="32 requests are waiting"),
    ):
        client.scores(np.zeros((1, 1, 2, 2), np.float32))
    plan = [
        {"op": "flatten", "weights": []},
        {"op": "linear", "weights": [[3, 4], [3]]},
    ]
    weights = [np.zeros((3, 4), np.float32), np.zeros(3, np.float32)]
    owner.share(threads.cluster, Converted(plan, weights, (1, 2, 2), 3))
    for connection in held:
        connection.close()


def test_who_is_not_the_host_of_a_worker_is_not_told_of_another_cluster() -> None:
    with pytest.raises(UsageError, match="start each worker on the machine that is") as told:
        listen(0, "192.0.2.1", 4000)  # of the documentation's addresses, nobody's
    assert "running already" not in str(told.value) and str(told.value).count("192.0.2.1") == 1


SERVER = """
import resource, sys, time
from dpsnn.secure.config import read
from dpsnn.secure.listener import Listener

class Service:
    kinds = {"client": ("describe",), "owner": (), "worker": ()}
    def joined(self, channel, who): pass
    def left(self, channel): pass
    def handle(self, channel, who, header):
        channel.body(header, 0, 1.0)
        channel.send("model", input_shape=[1], content="images", classes=1, pairing="", max_batch=1)

listener = Listener(read(sys.argv[1]), 0, lambda line: print(line, flush=True))
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
listener.start(Service())
print("listening", flush=True)
time.sleep(600)
"""


def test_a_listener_out_of_files_goes_on(tmp_path: Path) -> None:
    cluster = guarded_cluster(tmp_path)
    (tmp_path / "cluster.toml").write_text(to_toml(cluster))
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path / "cluster.toml")], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"listening\n"
            with Strangers(cluster.workers[:1], 100, b""):
                time.sleep(1)
                for _ in range(3):
                    channel = dial(cluster, 0, "client", "client")
                    channel.send("describe")
                    assert channel.receive("model", seconds=10)["classes"] == 1
                    channel.close()
            assert process.poll() is None
        finally:
            process.kill()
        assert b"cannot accept (Too many open files)" in process.stdout.read()


# ---------------------------------------------------------------- a time-out is no failure


def test_a_batch_that_outlasts_its_time_out_is_told_so_and_the_cluster_is_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = Threads(guarded_cluster(tmp_path, timeout=1.5), monkeypatch)
    threads.works()
    for engine in threads.engines:
        engine.takes = 5.0
    with Client(threads.cluster) as client, pytest.raises(ClusterFailed) as failed:
        client.scores(np.zeros((2, 1, 2, 2), np.float32))
    text = str(failed.value)
    assert "not computed within 1.5 s" in text and "all workers are there" in text
    assert "--timeout" in text and "share" not in text
    # One behind it, whose asker has gone too, is not computed for nobody.
    with Client(threads.cluster) as client, pytest.raises(ClusterFailed, match="within 1.5 s"):
        client.scores(np.zeros((1, 1, 2, 2), np.float32))
    for engine in threads.engines:
        engine.takes = 0.0
    until(lambda: threads.workers[0].served == threads.workers[2].served == 2, 20)
    threads.works()
    assert not threads.failed
    assert "it has waited too long" in threads.log()


def test_a_client_less_patient_than_the_workers_is_told_the_truth(threads: Threads) -> None:
    for engine in threads.engines:
        engine.takes = 8.0
    hasty = replace(threads.cluster, timeout=0.5)
    with Client(hasty) as client, pytest.raises(ClusterFailed) as failed:
        client.scores(np.zeros((1, 1, 2, 2), np.float32))
    assert "no answer in time" in str(failed.value) and "raise --timeout" in str(failed.value)


def test_a_connection_closed_for_its_silence_is_no_failure_of_the_cluster(
    threads: Threads,
) -> None:
    with Client(threads.cluster) as client:
        client._channels[1].abort()
        with pytest.raises(ClusterFailed, match="all workers are there: ask again"):
            client.scores(np.zeros((1, 1, 2, 2), np.float32))
    threads.works()


# ---------------------------------------------------------------- with the engine


def test_workers_go_on_when_nobody_reads_what_they_log(tmp_path: Path) -> None:
    cluster = guarded_cluster(tmp_path)
    read, write = os.pipe()
    with os.fdopen(write, "wb") as log, LocalCluster(cluster, tmp_path, log=log) as processes:
        os.close(read)
        for address in cluster.workers * 3:
            with socket.create_connection((address.host, address.port), 5) as connection:
                try:  # it may be closed before all is said
                    connection.sendall(b"rubbish")
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(100):
                        pass
                except OSError:
                    pass
        assert len(owner.status(cluster)) == 3
        assert all(process.poll() is None for process in processes.processes)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "drip"), [(100, b""), (100, SLOW)])
def test_a_minute_of_strangers(tmp_path: Path, count: int, drip: bytes) -> None:
    """At every worker's port; the client connects anew for each query, and must be answered all the while."""
    from test_secure_cluster import Running

    made = Running(guarded_cluster(tmp_path), tmp_path)
    with made.processes:
        made.works()
        waited, end = [], time.monotonic() + 60
        with Strangers(made.cluster.workers, count, drip):
            while time.monotonic() < end:
                start = time.monotonic()
                made.works()
                waited.append(time.monotonic() - start)
            assert len(owner.status(made.cluster)) == 3
        print(f"{len(waited)} queries of a new client, the slowest took {max(waited):.1f} s")
        assert len(waited) >= 8
        assert max(waited) < 10


@pytest.mark.slow
def test_more_batches_than_fit_into_the_time_out(tmp_path: Path) -> None:
    from test_secure_cluster import Running

    made = Running(guarded_cluster(tmp_path, timeout=10.0), tmp_path)
    images = digits(64).numpy()

    def ask(number: int) -> str:
        try:
            with Client(made.cluster) as client:
                client.scores(images)
            return "answered"
        except (UsageError, ClusterFailed) as error:
            return str(error)

    with made.processes:
        made.works()
        with ThreadPoolExecutor(16) as pool:
            told = set(pool.map(ask, range(16)))
        assert any("within 10 s" in text and "all workers are there" in text for text in told)
        assert not any("serve and share" in text for text in told)
        until(lambda: _answers(made))
        assert all(process.poll() is None for process in made.processes.processes)
        made.works()


def _answers(made: Any) -> bool:
    try:
        made.works()
        return True
    except ClusterFailed:
        return False
