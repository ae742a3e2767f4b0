"""What is read is what was written, to the last bit, or the file is refused; and nothing outgrows it."""

import hashlib
import math
import pickle
import random
import struct
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dpsnn import sealed
from dpsnn.errors import UsageError

CONTENT: dict[str, Any] = {
    "none": None,
    "flags": [True, False],
    "numbers": (0, -1, 2**70, 0.1, -0.0, math.inf, 5e-324),
    "text": "ε = ∞, 'quoted'\n",
    "bytes": bytes(range(256)),
    "empty": {"list": [], "tuple": (), "dict": {}, "text": "", 3: "by number"},
    "weights": {
        "matrix": torch.arange(6.0).reshape(2, 3),
        "scalar": torch.tensor(3),
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "mask": torch.tensor([[True], [False]]),
        "none": torch.zeros(0, 4),
        "images last": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
    },
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    sealed.write(tmp_path / "a.ckpt", CONTENT)
    return tmp_path / "a.ckpt"


def read(path: Path) -> tuple[dict[str, Any], bool]:
    return sealed.read(path, "a file of the test", "make it again")


def refused(path: Path, part: str = "") -> str:
    """The one line with which a file is refused."""
    with pytest.raises(UsageError) as raised:
        read(path)
    line = str(raised.value)
    assert line.splitlines() == [line] and str(path) in line and part in line, line
    return line


def same(one: Any, other: Any) -> bool:
    """Equal in type and to the bit; independent of the digest."""
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, float):
        return type(other) is float and struct.pack("d", one) == struct.pack("d", other)
    return type(one) is type(other) and one == other


def test_what_is_read_is_what_was_written(path: Path) -> None:
    content, is_sealed = read(path)
    assert is_sealed and same(content, CONTENT)
    assert content["weights"]["images last"].stride() == (24, 1, 8, 2)


def test_bytes_may_be_none_at_all(tmp_path: Path) -> None:
    sealed.write(tmp_path / "a.ckpt", {"bytes": b""})
    assert read(tmp_path / "a.ckpt") == ({"bytes": b""}, True)


def test_torch_reads_the_same(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    assert content.pop("digest") == sealed.fingerprint(CONTENT)
    assert same(content, CONTENT)


# ---------------------------------------------------------------- the digest


def test_the_digest_is_a_sha_256_of_types_lengths_and_values() -> None:
    value = {
        "a": [1.5, (True, None, -7)],
        "ε": b"\0",
        "t": torch.tensor([[1, 2]], dtype=torch.int16),
    }
    spelled = (
        b"d3:" + b"s1:a" + b"l2:" + b"f" + struct.pack("<d", 1.5) + b"t3:True;None;-7;"
        b"s2:" + "ε".encode() + b"b1:\0" + b"s1:t" + b"xtorch.int16(1, 2):" + b"\1\0\2\0"
    )
    assert sealed.fingerprint(value) == hashlib.sha256(spelled).hexdigest()


@pytest.mark.parametrize(
    "one, other",
    [
        (1, True),
        (1, 1.0),
        ("1", 1),
        ("a", b"a"),
        ("None", None),
        ([], ()),
        ([[1], 2], [[1, 2]]),
        (["ab"], ["a", "b"]),
        (0.0, -0.0),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}),
        ({"a": {}, "b": 1}, {"a": {"b": 1}}),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.tensor([0.0]), torch.tensor([-0.0])),
        (torch.zeros(0), torch.zeros(0, 1)),
    ],
)
def test_values_that_differ_have_other_digests(one: Any, other: Any) -> None:
    assert sealed.fingerprint(one) != sealed.fingerprint(other)
    assert sealed.fingerprint(one) == sealed.fingerprint(sealed.plain(one))


@pytest.mark.parametrize(
    "one, other",
    [
        (math.nan, math.nan),
        (OrderedDict(a=1), {"a": 1}),
        (torch.arange(6).reshape(2, 3), torch.arange(6).reshape(2, 3).t().contiguous().t()),
        (torch.nn.Parameter(torch.ones(2)), torch.ones(2)),
        (torch.ones(1).expand(3), torch.ones(3)),
    ],
)
def test_what_lies_in_memory_otherwise_has_the_same_digest(one: Any, other: Any) -> None:
    assert sealed.fingerprint(sealed.plain(one)) == sealed.fingerprint(other)


@pytest.mark.parametrize("value", [object(), {1, 2}, 1j, torch.zeros(2, dtype=torch.complex64)])
def test_what_is_not_plain_is_not_written(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError):
        sealed.write(tmp_path / "a.ckpt", {"value": value})
    assert list(tmp_path.iterdir()) == []


def test_of_a_view_its_elements_alone_are_kept(tmp_path: Path) -> None:
    sealed.write(tmp_path / "a.ckpt", {"row": torch.randn(100, 1000)[7]})
    assert (tmp_path / "a.ckpt").stat().st_size < 10_000


# ---------------------------------------------------------------- damage


def test_no_byte_can_change_unnoticed(path: Path) -> None:
    whole, draw = path.read_bytes(), random.Random(0)
    told = 0
    for _ in range(400):
        place = draw.randrange(len(whole))
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ (1 << draw.randrange(8))]) + whole[place + 1 :]
        )
        try:
            content, _ = read(path)
        except UsageError as error:
            assert str(path) in str(error) and len(str(error).splitlines()) == 1
            told += 1
        else:
            assert same(content, CONTENT)
    assert told > 200, "of the rest the bytes between the entries are not content"


def repacked(
    path: Path, edit: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED
) -> Path:
    """The same archive with some entries changed and all checksums right."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, edit(name, content))
    return path


@pytest.mark.parametrize(
    "entry, old, new",
    [
        ("/data/0", struct.pack("<f", 5.0), struct.pack("<f", 6.0)),
        ("data.pkl", b"matrix", b"matrlx"),
        ("data.pkl", struct.pack(">d", 0.1), struct.pack(">d", 0.2)),
        ("data.pkl", b"K\x02K\x03\x86", b"K\x03K\x02\x86"),  # the shape
    ],
)
def test_damage_with_the_right_checksums_is_noticed(
    path: Path, entry: str, old: bytes, new: bytes
) -> None:
    def edit(name: str, content: bytes) -> bytes:
        if not name.endswith(entry):
            return content
        assert old in content
        return content.replace(old, new, 1)

    line = refused(repacked(path, edit), "damaged")
    assert "holds not what was written" in line or "than its storage" in line


def test_a_file_repacked_as_it_was_is_read(path: Path) -> None:
    assert same(read(repacked(path, lambda name, content: content))[0], CONTENT)


# ---------------------------------------------------------------- limits


def archive(path: Path, pickled: bytes, **entries: bytes) -> Path:
    """A file with a pickle of one's own."""
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("a/byteorder", "little")
        made.writestr("a/version", "3")
        made.writestr("a/data.pkl", pickled)
        for name, content in entries.items():
            made.writestr(f"a/data/{name}", content)
    return path


def tensor_pickle(
    length: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> bytes:
    """The pickle of `{"t": tensor}`, of float32, storage `0`."""

    def number(value: int) -> bytes:
        return pickle.dumps(value, 2)[2:-1]

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = (
        b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0"
        + b"0X\x03\0\0\0cpu"
        + number(length)
    )
    return (
        b"\x80\x02}X\x01\0\0\0tctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"tQ"
        + number(offset) + numbers(size) + numbers(stride) + b"\x89ccollections\nOrderedDict\n)RtRs."
    )  # fmt: skip


FOUR = struct.pack("<4f", 1, 2, 3, 4)


def test_the_pickle_of_the_next_tests_is_one_of_torch(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.ckpt", tensor_pickle(4, 1, (3,), (1,)), **{"0": FOUR})
    assert read(path)[0]["t"].tolist() == [2, 3, 4]
    assert torch.load(path)["t"].tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    "length, offset, size, stride, part",
    [
        (4, 0, (10**9,), (0,), "share memory"),
        (4, 0, (3, 2), (1, 1), "share memory"),
        (4, 3, (2,), (-1,), "described wrongly"),
        (4, -1, (2,), (1,), "described wrongly"),
        (4, 0, (5,), (1,), "larger than its storage"),
        (4, 4, (1,), (1,), "larger than its storage"),
        (4, 0, (2**62, 2), (2, 1), "described wrongly"),
        (4, 0, (2, 2), (2,), "share memory"),
        (1000, 0, (1000,), (1,), "another length"),
        (3, 0, (3,), (1,), "another length"),
    ],
)
def test_tensors_lie_within_their_storages(
    tmp_path: Path,
    length: int,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    part: str,
) -> None:
    pickled = tensor_pickle(length, offset, size, stride)
    refused(archive(tmp_path / "a.ckpt", pickled, **{"0": FOUR}), part)


def nested(levels: int, times: int) -> list[Any]:
    """A list that holds another `times`, which holds another ..."""
    value: list[Any] = [0]
    for _ in range(levels):
        value = [value] * times
    return value


@pytest.mark.parametrize(
    "content, part",
    [
        ({"a": nested(30, 2)}, "nested"),
        ({"a": nested(5, 100)}, "nested"),
        ({"a": nested(100, 1)}, "nested"),
        ({"a": ["x"] * 300_000}, "nested"),
        ({"a": torch.zeros(1).expand(10**9)}, "share memory"),
        ({"a": torch.arange(4.0).as_strided((3, 2), (1, 1))}, "share memory"),
        ({"a": [torch.zeros(1000)] * 100}, "larger than the file"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "refused"),
        ({"a": torch.eye(2).to_sparse()}, "refused"),
        ({"a": torch.zeros(2, device="meta")}, "refused"),
        ({"a": torch.device("cpu")}, "refused"),
        ({"a": {1, 2}}, "refused"),
        ({"a": bytearray(3)}, "refused"),
        ({"a": {(1, 2): 3}}, "refused"),
        ({"a": {1.5: 3}}, "refused"),
        ({"a": 1j}, "refused"),
        ({"a": 10**300}, "too large"),
        ({"a": "x" * 2**21}, "too long"),
        ([1, 2], "no names"),
        (torch.zeros(2), "no names"),
    ],
)
def test_nothing_but_plain_values_is_taken_and_no_more_than_a_file_can_hold(
    tmp_path: Path, content: Any, part: str
) -> None:
    path = tmp_path / "a.ckpt"
    torch.save(content, path)
    start = time.monotonic()
    refused(path, part)
    assert time.monotonic() - start < 5


BIG = b"\xff\xff\xff\x7f"


@pytest.mark.parametrize(
    "pickled, part",
    [
        (b"\x80\x02}r" + BIG + b".", "description is wrong"),  # a memo of two thousand million
        (b"\x80\x02cbuiltins\nbytearray\nJ" + BIG + b"\x85R.", "refused"),
        (b"\x80\x02ccollections\nOrderedDict\n(K\x01K\x02\x86t\x85R.", "damaged"),
        (
            b"\x80\x02ccollections\nOrderedDict\n}X\x01\0\0\0aK\x01sb.",
            "damaged",  # alters what is called
        ),
        (b"\x80\x02ctorch._utils\n_rebuild_qtensor\n.", "refused"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "refused"),
        (b"\x80\x02ctorch\nFloatStorage\n.", "refused"),
        (b"\x80\x02X\x01\0\0\0aQ.", "damaged"),
        (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.", "damaged"),
        (b"\x80\x02\x8b" + BIG + b"1.", "damaged"),
        (b"\x80\x02" + b"(" * 100, "damaged"),
        (b"\x80\x02]q\0h\0a.", "nested"),  # a list of itself
        (b"\x80\x02}q\0X\x01\0\0\0ah\0s.", "nested"),  # a dict of itself
        (b"", "damaged"),
    ],
)
def test_pickles_that_nobody_wrote_by_accident(tmp_path: Path, pickled: bytes, part: str) -> None:
    path = archive(tmp_path / "a.ckpt", pickled)
    # The most that a process has ever held says nothing where another test, or whoever started it, held more.
    tracemalloc.start()
    try:
        refused(path, part)
        assert tracemalloc.get_traced_memory()[1] < 2**27
    finally:
        tracemalloc.stop()


def test_nothing_is_unpacked_beyond_the_size_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"a": torch.zeros(10**7)}, path)
    repacked(path, lambda name, content: content, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    refused(path, "compressed")


def test_a_file_of_two_entries_with_one_name_is_refused(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as made, pytest.warns(UserWarning, match="Duplicate name"):
        made.writestr(made.namelist()[0], b"")
    refused(path, "twice")


def test_numbers_of_another_kind_of_processor_are_refused(path: Path) -> None:
    def edit(name: str, content: bytes) -> bytes:
        return b"big" if name.endswith("byteorder") else content

    refused(repacked(path, edit), "another kind of processor")


def test_a_file_larger_than_any_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "a.ckpt", "wb") as file:
        file.write(b"PK")
        file.truncate(2**36)  # holds nothing, hence takes no place
    refused(tmp_path / "a.ckpt", "more than")


def test_an_archive_behind_other_bytes_is_none_of_ours(path: Path) -> None:
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    refused(path, "refused: it could run code")
