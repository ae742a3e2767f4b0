"""Files of data sets: what they must hold, to the byte, and what is never unpacked."""

import gzip
import io
import os
import struct
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dpsnn.data import DATASETS, EMNIST, MNIST, files
from dpsnn.data.files import Idx, find, fingerprint, read_array, read_idx
from dpsnn.data.omniglot import Archive, digest_of, read_drawings
from dpsnn.errors import UsageError, reading

MIB = 2**20


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Whatever is refused is refused within a few MiB and at once."""
    tracemalloc.start()
    start = time.monotonic()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * MIB, f"{peak / MIB:.0f} MiB"
    assert time.monotonic() - start < 10


def idx(values: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return head + values.astype(np.uint8).tobytes()


# ---------------------------------------------------------------- IDX


IMAGES = np.random.default_rng(0).integers(0, 256, (10, 28, 28), dtype=np.uint8)
LABELS = np.arange(10, dtype=np.uint8)
ARRAYS = (IMAGES[:6], LABELS[:6], IMAGES[6:], LABELS[6:])


class SmallMNIST(MNIST):
    """Six and four images, known to the last bit."""

    files = tuple(
        Idx(file.name, array.shape, fingerprint(array)) for file, array in zip(MNIST.files, ARRAYS)
    )


@pytest.fixture
def small(tmp_path: Path) -> Path:
    for file, array in zip(SmallMNIST.files, ARRAYS):
        path = tmp_path / f"{file.name}.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(idx(array)))
    return tmp_path


def place(folder: Path, number: int, suffix: str = ".gz") -> Path:
    return folder / f"{SmallMNIST.files[number].name}{suffix}"


def test_what_the_set_holds_is_read(small: Path) -> None:
    pixels, labels, _ = SmallMNIST(small).load()
    assert torch.equal(pixels, torch.from_numpy(IMAGES).unsqueeze(1))
    assert torch.equal(labels, torch.from_numpy(LABELS).long())
    for number, array in enumerate(ARRAYS):
        place(small, number).unlink()
        place(small, number, "").write_bytes(idx(array))
    assert torch.equal(SmallMNIST(small).load().pixels, pixels), "unpacked too"


def swap(folder: Path) -> None:
    for kind in (0, 1):
        train, test = place(folder, kind), place(folder, kind + 2)
        held = train.read_bytes()
        train.write_bytes(test.read_bytes())
        test.write_bytes(held)


def write(number: int, content: bytes) -> Callable[[Path], None]:
    return lambda folder: place(folder, number).write_bytes(gzip.compress(content)) and None


def one_bit(number: int, position: int) -> Callable[[Path], None]:
    content = bytearray(idx(ARRAYS[number]))
    content[position] ^= 1
    return write(number, bytes(content))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (swap, "train-images.* holds 4x28x28 values, where 6x28x28 belong"),
        (write(1, idx(0 * LABELS[:6])), "train-labels.* holds other values"),
        (write(3, idx(LABELS[6:][::-1])), "t10k-labels.* holds other values"),
        (one_bit(0, 16 + 2000), "train-images.* holds other values"),
        (one_bit(2, -1), "t10k-images.* holds other values"),
        (one_bit(0, 2), "train-images.* is damaged .*wrong magic number"),
        (one_bit(0, 3), "train-images.* holds 6x28 values"),
        (one_bit(0, 7), "train-images.* holds 7x28x28 values"),
        (write(0, idx(IMAGES[:6]) + b"\0"), "train-images.* damaged .*more bytes than the 6x28x28"),
        (write(0, idx(IMAGES[:6]) + bytes(2000)), "train-images.* damaged .*more bytes"),
        (write(0, idx(IMAGES[:6])[:-1]), "train-images.* damaged .*fewer bytes"),
        (write(0, b""), "train-images.* is damaged"),
        (write(0, b"\0\0\x08\x03\0\0"), "train-images.* is damaged"),
        (write(2, b"\0\0\x08\xff" + b"\xff" * 1020), "t10k-images.* holds 4294967295x"),
    ],
)
def test_anything_else_is_refused_by_name(
    small: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(small)
    with pytest.raises(UsageError, match=reason) as refusal:
        SmallMNIST(small).load()
    assert str(refusal.value).endswith("fetch it again") and "\n" not in str(refusal.value)


@pytest.mark.parametrize("number", range(4))
def test_a_flipped_bit_in_a_packed_file_is_never_read(small: Path, number: int) -> None:
    path = place(small, number)
    whole = path.read_bytes()
    generator = np.random.default_rng(number)
    for position in generator.integers(0, len(whole), 60).tolist():
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        try:
            pool = SmallMNIST(small).load()
        except UsageError as error:
            assert path.name in str(error)
        else:  # A time stamp in gzip's header, for instance.
            assert torch.equal(pool.pixels.squeeze(1), torch.from_numpy(IMAGES))
            assert torch.equal(pool.labels, torch.from_numpy(LABELS).long())


def test_letters_that_are_not_there_equally_often_are_refused(tmp_path: Path) -> None:
    class Small(EMNIST):
        letters = tuple(
            Idx(file.name, (52 * (2 - i // 2), *file.shape[1:]))
            for i, file in enumerate(EMNIST.letters)
        )

    def write_all(train: np.ndarray) -> None:
        for file, labels in zip(Small.letters, (None, train, None, np.arange(52) % 26 + 1)):
            path = tmp_path / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(idx(np.zeros(file.shape) if labels is None else labels))

    right = np.arange(104) % 26 + 1
    write_all(right)
    assert Small(tmp_path).load().labels.bincount().tolist() == [6] * 26
    for wrong in (0 * right, right - 1, np.where(right == 26, 25, right), np.arange(104) % 52 + 1):
        write_all(wrong)
        with pytest.raises(UsageError, match="train-labels.*1 to 26 must be there equally often"):
            Small(tmp_path).load()
    assert [file.shape[0] for file in EMNIST.letters] == [26 * 4800] * 2 + [26 * 800] * 2


def test_gigabytes_of_zeros_are_not_unpacked(
    tmp_path: Path, small: Path, little_memory: None
) -> None:
    zeros = gzip.compress(bytes(MIB)) * 4096  # Members of a gzip file are joined.
    for number, head in ((0, idx(IMAGES[:6])), (1, b"\0\0\x08\x01\xff\xff\xff\xff")):
        place(small, number).write_bytes(gzip.compress(head) + zeros[: 4 * MIB])
        with pytest.raises(UsageError, match="more bytes|4294967295"):
            SmallMNIST(small).load()
        place(small, 0).write_bytes(gzip.compress(idx(IMAGES[:6])))


def test_a_file_of_unknown_shape_has_a_bound_too(tmp_path: Path) -> None:
    path = tmp_path / "idx"
    path.write_bytes(b"\0\0\x08\x03" + b"\0\x01\0\0" * 3 + bytes(100))
    with pytest.raises(UsageError, match="fewer bytes than the 65536x65536x65536"):
        read_idx(path)


@pytest.mark.parametrize("name", ["mnist", "emnist"])
def test_the_real_files_with_train_and_test_swapped(
    name: str, mirror: Path, tmp_path: Path
) -> None:
    files = MNIST.files if name == "mnist" else EMNIST.sample
    for file, other in zip(files, files[2:] + files[:2]):
        path = tmp_path / f"{file.name}.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(mirror / f"{other.name}.gz")
    reason = "10000x28x28 values, where 60000" if name == "mnist" else "train-images.*other values"
    with pytest.raises(UsageError, match=reason):
        DATASETS[name](tmp_path).load()


# ---------------------------------------------------------------- Omniglot's archives


def drawings() -> dict[str, bytes]:
    found = {}
    for alphabet in ("Greek", "Korean"):
        for i in range(3):
            drawing = Image.new("1", (105, 105), 1)
            drawing.paste(0, (10 * i, 0, 10 * i + 10, 105))
            content = io.BytesIO()
            drawing.save(content, "PNG")
            found[f"set/{alphabet}/character01/{i:04}_01.png"] = content.getvalue()
    return found


def pack(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


@pytest.fixture
def known(tmp_path: Path) -> Archive:
    """What `drawings` are known to be, packed as `set.zip`."""
    pack(tmp_path / "set.zip", drawings())
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0)).tolist()
    names = sorted(drawings())
    grey = [np.asarray(Image.open(io.BytesIO(drawings()[names[i]])).convert("L")) for i in order]
    return Archive("set", 6, 6, digest_of(names, np.stack(grey)))


def read(tmp_path: Path, known: Archive) -> torch.Tensor:
    return read_drawings(tmp_path / "set.zip", 6, 105, known)[0]


def test_drawings_are_known_however_they_are_packed(tmp_path: Path, known: Archive) -> None:
    pixels = read(tmp_path, known)
    assert (pixels == 255).sum((1, 2, 3)).tolist() == [1050] * 6
    pack(tmp_path / "set.zip", dict(reversed(drawings().items())), zipfile.ZIP_STORED)
    assert torch.equal(read(tmp_path, known), pixels)


def other_name(entries: dict[str, bytes]) -> dict[str, bytes]:
    return {name.replace("Korean/character01/0002", "Korean/character01/0003"): content
            for name, content in entries.items()}  # fmt: skip


def exchanged(entries: dict[str, bytes]) -> dict[str, bytes]:
    return dict(zip(entries, [*list(entries.values())[1:], *list(entries.values())[:1]]))


def enlarged(size: tuple[int, int]) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    def change(entries: dict[str, bytes]) -> dict[str, bytes]:
        content = io.BytesIO()
        Image.new("1", size, 1).save(content, "PNG")
        return entries | {list(entries)[4]: content.getvalue()}

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda e: dict(list(e.items())[:-1]), "5 drawings, not 6"),
        (lambda e: e | {"set/Latin/character01/0001_01.png": e[min(e)]}, "7 drawings, not 6"),
        (other_name, "other drawings"),
        (exchanged, "other drawings"),
        (lambda e: e | {"../../0001.png": b""}, "is not <set>/<alphabet>"),
        (lambda e: e | {"/a/b/c/0001.png": b""}, "is not <set>/<alphabet>"),
        (lambda e: e | {"0001.png": b""}, "is not <set>/<alphabet>"),
        (lambda e: e | {min(e): bytes(10**8)}, "has more than 16,384 bytes"),
        (lambda e: e | {min(e): b"no picture"}, "damaged"),
        (enlarged((104, 105)), "is 105x104 .*, not 105x105"),
        (enlarged((2000, 1000)), "is 1000x2000 .*, not 105x105"),
    ],
)
def test_other_drawings_are_refused(
    tmp_path: Path,
    known: Archive,
    change: Callable[[dict[str, bytes]], dict[str, bytes]],
    reason: str,
) -> None:
    pack(tmp_path / "set.zip", change(drawings()))
    with pytest.raises(UsageError, match=reason) as refusal:
        read(tmp_path, known)
    assert "set.zip" in str(refusal.value) and "\n" not in str(refusal.value)


def test_entries_of_one_name_are_refused(tmp_path: Path, known: Archive) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        with zipfile.ZipFile(tmp_path / "set.zip", "a") as archive:
            archive.writestr(min(drawings()), b"other")
    with pytest.raises(UsageError, match="is there twice"):
        read(tmp_path, known)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_methods_that_allocate_what_they_are_told_are_refused(
    tmp_path: Path, known: Archive, method: int
) -> None:
    pack(tmp_path / "set.zip", drawings(), method)
    with pytest.raises(UsageError, match="packed by a method that Omniglot does not use"):
        read(tmp_path, known)


def test_encrypted_entries_and_wrong_checksums_are_refused(tmp_path: Path, known: Archive) -> None:
    path = tmp_path / "set.zip"
    whole = path.read_bytes()
    header = whole.index(b"PK\x01\x02")
    for position, reason in ((header + 8, "is encrypted"), (header + 16, "Bad CRC-32")):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match=reason):
            read(tmp_path, known)


def test_an_entry_that_unpacks_to_more_than_it_says_is_cut_off(
    tmp_path: Path, known: Archive, little_memory: None
) -> None:
    path = tmp_path / "set.zip"
    pack(path, drawings() | {min(drawings()): bytes(100 * MIB)})
    content = bytearray(path.read_bytes())
    header = content.index(b"PK\x01\x02")
    content[header + 24 : header + 28] = struct.pack("<I", 500)
    path.write_bytes(content)
    tracemalloc.reset_peak()
    with pytest.raises(UsageError, match="set.zip is damaged"):
        read(tmp_path, known)


def test_a_flipped_bit_in_an_archive_is_never_read(tmp_path: Path, known: Archive) -> None:
    path = tmp_path / "set.zip"
    pixels, whole = read(tmp_path, known), path.read_bytes()
    generator = np.random.default_rng(0)
    for position in generator.integers(0, len(whole), 150).tolist():
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        try:
            assert torch.equal(read(tmp_path, known), pixels)
        except UsageError as error:
            assert "set.zip" in str(error)


def test_an_archive_that_is_too_large_is_not_opened(
    tmp_path: Path, known: Archive, little_memory: None
) -> None:
    with open(tmp_path / "set.zip", "r+b") as file:
        file.truncate(2**34)
    with pytest.raises(UsageError, match="more than 16,777,216 bytes"):
        read(tmp_path, known)


# ---------------------------------------------------------------- arrays


ROWS = np.random.default_rng(0).random((5, 1, 4, 3)).astype(np.float32)


@pytest.mark.parametrize("array", [ROWS, np.asfortranarray(ROWS), ROWS.astype(">f8"), ROWS > 0.5])
def test_the_first_rows_of_an_array(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    found = read_array(tmp_path / "a.npy", 2)
    assert found.dtype.isnative and found.flags.writeable and np.array_equal(found, array[:2])
    assert np.array_equal(read_array(tmp_path / "a.npy"), array)


def test_rows_of_an_array_that_would_fill_the_memory(tmp_path: Path, little_memory: None) -> None:
    with open(tmp_path / "a.npy", "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (2**24, 1, 64, 64)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 2**36)  # A hole, not on the disk.
    assert read_array(tmp_path / "a.npy", 3).shape == (3, 1, 64, 64)


def lying(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": kind, "fortran_order": False, "shape": shape}
    )
    return file.getvalue() + bytes(16)


@pytest.mark.parametrize(
    "content",
    [
        lying((2**40,)),
        lying((2**32, 2**32)),
        lying((-4, -4)),
        lying((0, 2**62)),
        lying((15,)),
        lying((17,)),
        lying((2,), "<U2"),
        lying((1,), "|V16"),
        lying((2,), "<M8[s]"),
        lying((1,), "<c16"),
        lying((2,), "|O"),
        b"\x93NUMPY\x01\x00\xff\xff{",
        b"\x93NUMPY\x09\x00" + bytes(100),
        b"\x93NUMPY\x01\x00\x00\x10" + b"(" * 4096,
        b"PK\x03\x04" + bytes(100),
        b"\x80\x04K\x01.",
        b"",
    ],
)
def test_arrays_that_are_none_are_refused(
    tmp_path: Path, content: bytes, little_memory: None, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="a.npy is damaged or not an array of numbers"):
        read_array(path)
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


# ---------------------------------------------------------------- what is no file


def special(path: Path, kind: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a pipe":
        os.mkfifo(path.with_name("pipe"))
        path.symlink_to("pipe")
    else:
        path.symlink_to("/dev/zero")
    return path


def at_once(call: Callable[[], object]) -> str:
    """The refusal of a call, which must not wait for anything."""
    refusals: list[str] = []

    def attempt() -> None:
        try:
            call()
        except UsageError as error:
            refusals.append(str(error))

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "it waits for a writer"
    (refusal,) = refusals
    return refusal


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "device"])
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("a.idx", read_idx),
        ("a.npy", read_array),
        ("a.zip", lambda path: read_drawings(path, 1, 105)),
        (f"{MNIST.files[0].name}.gz", lambda path: find(path.parents[2], [MNIST.files[0].name])),
    ],
)
def test_pipes_and_devices_are_not_opened(
    tmp_path: Path, kind: str, name: str, read: Callable[[Path], object]
) -> None:
    path = special(tmp_path / name, kind)
    told = f"{path} is a pipe, a socket or a device; name a regular file"
    assert at_once(lambda: read(path)) == told


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "device"])
def test_every_reader_behind_the_boundary_refuses_them(tmp_path: Path, kind: str) -> None:
    path = special(tmp_path / "a", kind)

    def read() -> None:
        with reading(path, "a table", "delete it"):
            path.read_bytes()

    assert "is a pipe, a socket or a device" in at_once(read)


@pytest.mark.parametrize("named, said", [("mine", True), ("data", False)])
def test_a_named_folder_that_lacks_a_set_is_said_once(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    named: str,
    said: bool,
) -> None:
    mirror = place / "mirror"
    for folder in (mirror, place / named):
        folder.mkdir()
    (mirror / "set").write_text("")
    monkeypatch.setenv(files.MIRROR, str(mirror))
    for _ in range(2):
        assert files.find(Path(named), ["set"]) == [mirror / "set"]
    assert files.find(Path(named), ["another"]) is None
    line = f"{named} has no set; it is read from the mirror {mirror}\n"
    assert capsys.readouterr().err == (line if said else "")


def test_a_file_that_states_no_shape_is_refused(tmp_path: Path) -> None:
    (path := tmp_path / "one").write_bytes(bytes([0, 0, 8, 0, 7]))
    with pytest.raises(UsageError, match="no shape"):
        read_idx(path)
