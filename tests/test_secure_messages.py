"""The wire: only messages of the protocol, each once, of the size that they announce, in time."""

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dpsnn.secure.messages import HEADER_LIMIT, SCHEMAS, Channel, Gone, Malformed, checked

NONCE = "0123456789abcdef" * 2
STATUS = {"kind": "status", "nonce": NONCE, "number": 0, "size": 0}


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    left, right = socket.socketpair()
    ends = Channel(left, NONCE), Channel(right, NONCE)
    yield ends
    for end in ends:
        end.connection.close()


def frame(header: Any, body: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("!I", len(raw)) + raw + body


def test_a_message_arrives_with_its_body(pair: tuple[Channel, Channel]) -> None:
    left, right = pair
    body = bytes(range(256)) * 4096
    sending = threading.Thread(
        target=left.send, args=("query", body), kwargs={"id": NONCE, "batch": 2}
    )
    sending.start()
    header = right.receive("query", seconds=5)
    assert (header["id"], header["batch"]) == (NONCE, 2)
    assert right.body(header, len(body), 5) == body
    sending.join()
    right.send("refused", reason="none")
    assert left.receive("refused", seconds=5)["reason"] == "none"
    assert left.sent_bytes == right.received_bytes > len(body)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"[" * 20_000,
        b'{"kind": NaN}',
        b'{"kind": 1}',
        b"1" * 5_000,
        json.dumps(STATUS | {"kind": "pickle"}).encode(),
        json.dumps(STATUS | {"extra": 1}).encode(),
        json.dumps({k: v for k, v in STATUS.items() if k != "size"}).encode(),
        json.dumps(STATUS | {"size": -1}).encode(),
        json.dumps(STATUS | {"size": True}).encode(),
        json.dumps(STATUS | {"size": 1.5}).encode(),
        json.dumps(STATUS | {"size": 2**70}).encode(),
        json.dumps(STATUS | {"nonce": "A" * 32}).encode(),
        json.dumps(STATUS | {"number": "0"}).encode(),
        json.dumps(STATUS | {"kind": "query", "id": NONCE, "batch": 0}).encode(),
        json.dumps(STATUS | {"kind": "query", "id": NONCE + "\n", "batch": 1}).encode(),
        json.dumps(STATUS | {"kind": "refused", "reason": "x" * 401}).encode(),
        json.dumps(STATUS | {"kind": "model", "input_shape": [1] * 9}).encode(),
    ],
)
def test_what_is_no_message_is_refused(raw: bytes) -> None:
    with pytest.raises(Malformed):
        checked(raw)


def test_every_kind_has_a_message_that_passes() -> None:
    samples: dict[str, Any] = {
        "version": 1, "rank": 2, "role": "owner", "input_shape": [1, 28, 28], "content": "images", "classes": 10,
        "pairing": "", "max_batch": 64, "id": NONCE, "batch": 1, "plan": [{"op": "relu"}], "served": 0,
        "engine_bytes": -1, "engine_seconds": 0.5, "peak_bytes": 1, "graphs": 1, "digest": NONCE, "reason": "why",
    }  # fmt: skip
    for kind, schema in SCHEMAS.items():
        header = STATUS | {"kind": kind} | {name: samples[name] for name in schema}
        assert checked(json.dumps(header).encode()) == header


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (STATUS | {"nonce": "f" * 32}, "another connection: replayed"),
        (STATUS | {"number": 1}, "out of turn: replayed or lost"),
        (STATUS | {"kind": "stop"}, "stop may not come here"),
    ],
)
def test_replayed_and_misplaced_messages_are_refused(
    pair: tuple[Channel, Channel], header: dict[str, Any], message: str
) -> None:
    pair[0].connection.sendall(frame(header))
    with pytest.raises(Malformed, match=message):
        pair[1].receive("status", seconds=5)


def test_a_recorded_message_counts_once(pair: tuple[Channel, Channel]) -> None:
    recorded = frame(STATUS)
    pair[0].connection.sendall(recorded * 2)
    assert pair[1].receive("status", seconds=5)["kind"] == "status"
    with pytest.raises(Malformed, match="out of turn"):
        pair[1].receive("status", seconds=5)


@pytest.mark.parametrize("length", [0, HEADER_LIMIT + 1, 2**32 - 1])
def test_a_header_has_a_limit(pair: tuple[Channel, Channel], length: int) -> None:
    pair[0].connection.sendall(struct.pack("!I", length))
    with pytest.raises(Malformed, match=f"a header of {length} bytes"):
        pair[1].receive("status", seconds=5)


def test_a_body_of_another_size_is_not_even_read(pair: tuple[Channel, Channel]) -> None:
    pair[0].connection.sendall(frame(STATUS | {"size": 2**33}))
    header = pair[1].receive("status", seconds=5)
    with pytest.raises(Malformed, match="bytes instead of 16"):
        pair[1].body(header, 16, 5)


@pytest.mark.parametrize("part", [b"", b"\0", frame(STATUS)[:9]])
def test_who_is_silent_or_leaves_holds_up_nobody(
    pair: tuple[Channel, Channel], part: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpsnn.secure.messages.HEADER_SECONDS", 0.2)
    pair[0].connection.sendall(part)
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        pair[1].receive("status", seconds=0.2)
    assert time.monotonic() - start < 5
    pair[0].connection.close()
    with pytest.raises(Gone):
        pair[1].receive("status", seconds=5)


def test_a_peer_that_does_not_read_is_given_up(pair: tuple[Channel, Channel]) -> None:
    with pytest.raises(TimeoutError):
        pair[0].send("query", bytes(64 * 1024**2), 0.3, id=NONCE, batch=1)
