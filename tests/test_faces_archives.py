"""The archive of faces is the set or refused; people's own folders are described."""

import gzip
import io
import os
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_faces import SIZE, write_people

from dpsnn.data import Faces
from dpsnn.data import faces as module
from dpsnn.data.faces import (
    Known,
    class_folders,
    decode,
    natural,
    own_faces,
    pictures_of_archive,
    pictures_of_folder,
)
from dpsnn.data.files import fingerprint
from dpsnn.errors import UsageError


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three people with five pictures each, known to the last bit, in a plain archive."""
    write_people(tmp_path / "source", 3, 5)
    pixels, labels, people = decode(pictures_of_folder(tmp_path / "source"), "source")
    digest = fingerprint(pixels.numpy(), labels.numpy())
    monkeypatch.setattr(Faces, "known", Known(tuple(people), 5, digest))
    monkeypatch.setattr(Faces, "image_shape", SIZE)
    path = tmp_path / "data" / "att_faces.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as archive:
        archive.add(tmp_path / "source", "att_faces")
    return path


def load(path: Path) -> torch.Tensor:
    pool = Faces(path.parent).load()
    assert pool.labels.bincount().tolist() == [5, 5, 5]
    return pool.pixels


def test_a_flipped_bit_in_an_archive_is_never_read(packed: Path) -> None:
    """One in a header ended the archive in silence, with the people that came before it."""
    pixels, whole = load(packed), packed.read_bytes()
    with tarfile.open(packed) as archive:
        headers = [member.offset for member in archive]
    generator = np.random.default_rng(0)
    anywhere = generator.integers(0, len(whole), 60).tolist()
    refused = 0
    for position in [*headers, *(h + 150 for h in headers), *(h + 124 for h in headers), *anywhere]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(generator.integers(8))
        packed.write_bytes(damaged)
        try:
            assert torch.equal(load(packed), pixels), "padding"
        except UsageError as error:
            assert "att_faces.tar" in str(error)
            refused += 1
    assert refused >= 3 * len(headers) - 3


def test_an_archive_cut_at_any_block_is_never_read(packed: Path) -> None:
    pixels, whole = load(packed), packed.read_bytes()
    with tarfile.open(packed) as archive:
        last = archive.getmembers()[-1]
        end = last.offset_data + 512 * -(-last.size // 512)
    for length in range(512, len(whole), 512):
        packed.write_bytes(whole[:length])
        if length < end:
            with pytest.raises(UsageError, match="att_faces.tar"):
                load(packed)
        else:  # Only the zeros at the end are missing.
            assert torch.equal(load(packed), pixels)


def add(name: str, content: bytes = b"", **fields: object) -> Callable[[tarfile.TarFile], None]:
    def change(archive: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        for field, value in fields.items():
            setattr(member, field, value)
        archive.addfile(member, io.BytesIO(content))

    return change


def picture(value: int = 7) -> bytes:
    content = io.BytesIO()
    Image.new("L", (SIZE[2], SIZE[1]), value).save(content, "PPM")
    return content.getvalue()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (add("att_faces/s1/1.pgm", picture()), "s1/1.pgm is there twice"),
        (add("other/s1/1.pgm", picture()), "s1/1.pgm is there twice"),
        (add("att_faces/s1/6.pgm", picture()), "holds 16 pictures, not 15"),
        (add("/att_faces/s1/6.pgm", picture()), "lies outside"),
        (add("att_faces/../../s1/6.pgm", picture()), "lies outside"),
        (add("att_faces/s1/6.pgm", type=tarfile.SYMTYPE, linkname="1.pgm"), "no whole file"),
        (add("att_faces/s1/6.pgm", type=tarfile.LNKTYPE, linkname="att_faces/s1/1.pgm"), "no whole file"),
        (add("att_faces/s1/6.pgm", type=tarfile.FIFOTYPE), "no whole file"),
        (add("att_faces/s1/6.pgm", type=tarfile.CHRTYPE, devmajor=1, devminor=5), "no whole file"),
        (add("att_faces/README", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "no whole file"),
        (add("att_faces/s1/6.pgm", b"", pax_headers={"GNU.sparse.major": "0", "GNU.sparse.minor": "1",
             "GNU.sparse.map": "0,0", "GNU.sparse.size": str(10**13)}), "no whole file"),
        (add("att_faces/s1/6.pgm", pax_headers={"size": str(10**13)}), "att_faces.tar is damaged"),
    ],
)  # fmt: skip
def test_what_does_not_belong_into_the_archive_is_refused(
    packed: Path, change: Callable[[tarfile.TarFile], None], reason: str
) -> None:
    with tarfile.open(packed, "a", format=tarfile.PAX_FORMAT) as archive:
        change(archive)
    tracemalloc.start()
    with pytest.raises(UsageError, match=reason) as refusal:
        load(packed)
    assert tracemalloc.get_traced_memory()[1] < 2**27
    tracemalloc.stop()
    assert "att_faces.tar" in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["README", "att_faces/._s1", "att_faces/s1/._1.pgm", "./.x/s9/1.pgm"])  # fmt: skip
def test_what_is_no_picture_of_a_person_is_passed_over(packed: Path, name: str) -> None:
    pixels = load(packed)
    with tarfile.open(packed, "a") as archive:
        add(name, b"text")(archive)
    assert torch.equal(load(packed), pixels)


def test_the_unpacked_folder_is_the_set_too(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    pixels = load(packed)
    folder = packed.parent / "att_faces"
    write_people(folder, 3, 5)
    assert torch.equal(load(packed), pixels)
    assert capsys.readouterr().err == "", "what is known needs no word"
    (folder / "s1" / "1.pgm").write_bytes(picture())
    with pytest.raises(UsageError, match="att_faces holds other pictures than those of AT&T"):
        load(packed)
    (folder / "s1").rename(folder / "s4")
    with pytest.raises(UsageError, match="other pictures"):
        load(packed)


def test_an_archive_of_gigabytes_is_not_unpacked(packed: Path) -> None:
    zeros = gzip.compress(bytes(2**20)) * 4096
    with open(packed.with_name("att_faces.tar.gz"), "wb") as file:
        file.write(zeros)
    tracemalloc.start()
    start = time.monotonic()
    with pytest.raises(UsageError, match="unpacked it has more than 16,777,216 bytes"):
        load(packed)
    assert tracemalloc.get_traced_memory()[1] < 2**27 and time.monotonic() - start < 10
    tracemalloc.stop()


def real(mirror: Path, folder: Path) -> bytearray:
    path = mirror / "att_faces.tar.gz"
    if not path.exists():
        pytest.skip(f"{mirror} has no att_faces.tar.gz")
    return bytearray(gzip.decompress(path.read_bytes()))


def test_the_real_archive_damaged_in_its_middle(mirror: Path, tmp_path: Path) -> None:
    content = real(mirror, tmp_path)
    path = tmp_path / "att_faces.tar"
    path.write_bytes(content)
    assert Faces(tmp_path).load().source == "att_faces.tar (40 people)"
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    content[members[len(members) // 2].offset + 150] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"att_faces.tar holds \d+ pictures, not 400"):
        Faces(tmp_path).load()
    content[members[len(members) // 2].offset + 150] ^= 1
    path.write_bytes(content[: members[11 * 11 + 1].offset])
    with pytest.raises(UsageError, match="pictures, not 400"):
        Faces(tmp_path).load()
    content[members[200].offset_data + 5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match="other pictures than those of AT&T"):
        Faces(tmp_path).load()


# ---------------------------------------------------------------- own folders


@pytest.mark.parametrize(
    ("extra", "each"), [(0, "5 pictures each, 15 in all"), (2, "5 to 7 pictures each, 17 in all")]
)
def test_what_was_found_in_an_own_folder_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: int, each: str
) -> None:
    write_people(tmp_path / "mine", 3, 5)
    for i in range(extra):
        (tmp_path / "mine" / "s2" / f"more{i}.pgm").write_bytes(picture())
    own_faces(tmp_path / "mine")().setup()
    said = f"faces: folder mine: 3 people, {each}, 24x20 (height x width)\n"
    assert capsys.readouterr().err == said


def test_hidden_folders_and_files_are_no_people(tmp_path: Path) -> None:
    write_people(tmp_path, 2, 4)
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / ".thumbnails" / "1.pgm").write_bytes(picture())
    (tmp_path / "s1" / "._1.pgm").write_bytes(b"macOS")
    (tmp_path / "s1" / "album.png").mkdir()
    data = own_faces(tmp_path)()
    data.setup()
    assert data.people == ["s1", "s2"] and len(data.pool.labels) == 8


def test_numbers_of_every_script_and_length_are_names() -> None:
    names = ["10", "5²", "①", "9" * 5000, "2", "٣", "02", "s1"]
    ordered = ["02", "2", "5²", "10", "9" * 5000, "s1", "٣", "①"]
    assert sorted(names, key=natural) == ordered
    assert sorted(reversed(names), key=natural) == ordered, "whatever the folder's own order"


def test_people_may_have_such_names(tmp_path: Path) -> None:
    write_people(tmp_path, 3, 4)
    for old, new in (("s1", "①"), ("s2", "5²"), ("s3", "10")):
        (tmp_path / old).rename(tmp_path / new)
    data = own_faces(tmp_path)()
    data.setup()
    assert data.people == ["5²", "10", "①"]


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "device"])
def test_pipes_and_devices_are_no_pictures(tmp_path: Path, kind: str) -> None:
    write_people(tmp_path, 2, 4)
    path = tmp_path / "s2" / "5.pgm"
    if kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to(tmp_path / "pipe")
    with pytest.raises(UsageError, match="5.pgm is a pipe, a socket or a device"):
        own_faces(tmp_path)


def test_an_archive_that_is_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(path := tmp_path / "att_faces.tar.gz")
    for read in (Faces(tmp_path).load, lambda: list(pictures_of_archive(path))):
        with pytest.raises(UsageError, match="att_faces.tar.gz is a pipe"):
            read()


def test_pictures_that_together_would_fill_the_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_people(tmp_path, 2, 4)
    monkeypatch.setattr(module, "MOST_PIXELS", 8 * 24 * 20 - 1)
    with pytest.raises(UsageError, match="8 pictures of 24x20, together more than 3,839 pixels"):
        own_faces(tmp_path)


def test_a_link_to_nowhere_and_a_folder_without_end_are_named(tmp_path: Path) -> None:
    write_people(tmp_path, 2, 4)
    (tmp_path / "s1" / "gone.png").symlink_to("nowhere")
    with pytest.raises(UsageError, match="there is no picture .*gone.png"):
        own_faces(tmp_path)
    assert class_folders(tmp_path / "s1" / "1.pgm") == []
    for folder in ("x" * 5000, "nu\0ll"):
        with pytest.raises(UsageError, match="cannot reach the faces"):
            Faces(tmp_path / folder).load()
