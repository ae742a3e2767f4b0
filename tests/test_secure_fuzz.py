"""Messages that are nearly right: each is answered or its connection closed, and no worker or client comes to harm."""

import json
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dpsnn.errors import UsageError

pytest.importorskip("spu", reason="needs the extra [secure]")

from secure_cluster import free_cluster  # noqa: E402
from secure_threads import MODEL, Threads, guarded_cluster  # noqa: E402

from dpsnn.secure import shares  # noqa: E402
from dpsnn.secure.client import Client  # noqa: E402
from dpsnn.secure.config import Address  # noqa: E402
from dpsnn.secure.messages import ClusterFailed  # noqa: E402

ID = "0123456789abcdef" * 2

PLAN: list[dict[str, Any]] = [
    {"op": "pad", "weights": [], "borders": [[1, 1], [1, 1]]},
    {
        "op": "conv",
        "weights": [[2, 1, 2, 2], [2]],
        "stride": [1, 1],
        "padding": [0, 0],
        "dilation": [1, 1],
        "groups": 1,
    },
    {"op": "groupnorm", "weights": [[2], [2]], "groups": 1, "eps": 1e-5},
    {"op": "relu", "weights": []},
    {
        "op": "maxpool",
        "weights": [],
        "kernel": [2, 2],
        "stride": [2, 2],
        "before": [0, 0],
        "after": [1, 1],
    },
    {"op": "flatten", "weights": []},
    {"op": "linear", "weights": [[3, 8], [3]]},
]
WEIGHTS = sum(shares.size(shape) for layer in PLAN for shape in layer["weights"])

BASES: list[tuple[str, dict[str, Any], int]] = [
    ("client", {"kind": "describe"}, 0),
    ("client", {"kind": "query", "id": ID, "batch": 2}, shares.size((2, *MODEL.input_shape))),
    ("owner", {"kind": "status"}, 0),
    (
        "owner",
        {"kind": "share", "id": ID, "plan": PLAN, "input_shape": [1, 2, 2], "content": "images", "pairing": ""},
        WEIGHTS,
    ),
    ("worker", {"kind": "run", "id": ID}, 0),
]  # fmt: skip

DEEP: Any = []
for _ in range(400):
    DEEP = [DEEP]

ODD: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**53, 2**64, 10**300, 0.5, float("nan"), float("inf"), -0.0, "", "x", "\0", "\ud800",
    "a" * 50_000, "../../etc/passwd", [], [[]], [0] * 20_000, [1] * 7, [2**20] * 6, {}, {"op": []}, DEEP, ID,
]  # fmt: skip


def places_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something in a header can be replaced."""
    if path:
        yield path
    inside: Any = enumerate(value) if isinstance(value, list) else ()
    if isinstance(value, dict):
        inside = value.items()
    for key, part in inside:
        yield from places_of(part, (*path, key))


def mutated_header(header: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """One value in it is replaced, removed or added."""
    made: dict[str, Any] = json.loads(json.dumps(header))
    *path, last = draw.choice(list(places_of(made)))
    inside: Any = made
    for key in path:
        inside = inside[key]
    match draw.randrange(4):
        case 0:
            del inside[last]
        case 1 if isinstance(inside, dict):
            inside[draw.choice(["extra", "__class__", ""])] = draw.choice(ODD)
        case _:
            inside[last] = draw.choice(ODD)
    return made


def framed(header: Any, body: bytes) -> bytes:
    raw = json.dumps(header).encode()
    return struct.pack("!I", len(raw)) + raw + body


def mutated(nonce: str, draw: random.Random) -> bytes:
    """What a client, an owner or a worker says after the greeting, with something wrong in it."""
    role, values, size = draw.choice(BASES)
    join = {"kind": "join", "nonce": nonce, "number": 0, "size": 0, "role": role}
    header = {"nonce": nonce, "number": 1, "size": size} | values
    way = draw.randrange(8)
    if way < 3:
        header = mutated_header(header, draw)
    elif way == 3:
        join = mutated_header(join, draw)
    raw = framed(join, b"") + framed(header, bytes(size))
    match way:
        case 4:
            return raw[: draw.randrange(len(raw))]
        case 5:
            start = len(framed(join, b""))
            length = draw.choice([0, 1, 2**16, 2**16 + 1, 2**31 - 1, 2**31, 2**32 - 1])
            return raw[:start] + struct.pack("!I", length) + raw[start + 4 :]
        case 6:
            changed = bytearray(raw)
            for _ in range(draw.choice([1, 1, 4])):
                changed[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
            return bytes(changed)
        case 7:
            at = draw.randrange(len(raw))
            return raw[:at] + draw.randbytes(draw.choice([1, 16, 4000])) + raw[at:]
    return raw


def spoken(address: Address, number: int) -> bytes:
    """Say one mutation, and wait until the worker has closed."""
    draw = random.Random(number)
    with socket.create_connection((address.host, address.port), 10) as connection:
        connection.settimeout(15)
        heard = connection.recv(4096)
        nonce = json.loads(heard[4:])["nonce"]
        try:
            connection.sendall(mutated(nonce, draw))
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                heard += part
        except TimeoutError:
            raise
        except OSError:  # closed while there was more to come
            pass
    return heard


@pytest.mark.parametrize("count", [250, pytest.param(4000, marks=pytest.mark.slow)])
def test_no_message_harms_a_worker(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(free_cluster(timeout=1.0), monkeypatch)
    slowest = 0.0
    for number in range(count):
        start = time.monotonic()
        spoken(threads.cluster.workers[number % 3], number)
        slowest = max(slowest, time.monotonic() - start)
        assert not threads.failed, f"mutation {number}"
    assert slowest < 10
    assert "while serving it" not in threads.log(), "an error that nobody has thought of"
    assert threads.log().count("refused ") > count / 3
    for engine in threads.engines:
        engine.model = MODEL  # whatever a mutation has shared
    threads.works()


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_stranger_s_bytes_harm_a_worker(
    count: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = Threads(guarded_cluster(tmp_path), monkeypatch)
    hello = bytes.fromhex("160301006a010000660303") + bytes(range(32)) + bytes(64)
    for number in range(count):
        draw = random.Random(number)
        changed = bytearray(hello)
        for _ in range(draw.randrange(5)):
            changed[draw.randrange(len(hello))] = draw.randrange(256)
        address = threads.cluster.workers[number % 3]
        with socket.create_connection((address.host, address.port), 10) as connection:
            connection.settimeout(15)
            try:
                connection.sendall(draw.choice([bytes(changed), draw.randbytes(300), b""]))
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass
            except TimeoutError:
                raise
            except OSError:  # closed before we were done
                pass
    assert "while serving it" not in threads.log() and not threads.failed
    threads.works()


class Falsifier:
    """Stands before a worker and changes what it answers, from a byte on that is drawn anew for each connection."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self.number = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = replace(address, port=self._listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listening.accept()
            worker = socket.create_connection((self._address.host, self._address.port))
            draw = random.Random(self.number)
            threading.Thread(target=self._pass, args=(client, worker, None), daemon=True).start()
            threading.Thread(target=self._pass, args=(worker, client, draw), daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket, draw: random.Random | None) -> None:
        left = draw.randrange(900) if draw else 2**60
        try:
            while data := source.recv(65536):
                if draw and left < len(data):
                    changed = bytearray(data)
                    changed[left] ^= 1 << draw.randrange(8)
                    data, left = bytes(changed), 2**60
                left -= len(data)
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


@pytest.mark.parametrize("count", [30, pytest.param(600, marks=pytest.mark.slow)])
def test_no_answer_harms_a_client(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets the right scores, or one line."""
    monkeypatch.setattr("dpsnn.secure.messages.HEADER_SECONDS", 0.3)
    monkeypatch.setattr("dpsnn.secure.client.GRACE_SECONDS", 0.3)
    monkeypatch.setattr("dpsnn.secure.client.PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr("dpsnn.secure.client.PROBE_SECONDS", 0.3)
    threads = Threads(free_cluster(timeout=1.0), monkeypatch)
    falsifier = Falsifier(threads.cluster.workers[0])
    cluster = replace(threads.cluster, workers=(falsifier.address, *threads.cluster.workers[1:]))
    outcomes = []
    for number in range(count):
        falsifier.number = number
        try:
            with Client(cluster) as client:
                assert not client.scores(np.zeros((2, 1, 2, 2), np.float32)).any()
            outcomes.append("right")
        except (ClusterFailed, UsageError) as error:
            assert len(str(error).splitlines()) == 1
            outcomes.append("told")
    assert outcomes.count("told") > count / 4 and not threads.failed
    threads.works()
