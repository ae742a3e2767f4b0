"""Faces: parts that do not mix, any folder of people, and pictures that are refused by name."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_faces import SIZE, write_people

from dpsnn.cli import main
from dpsnn.data import DATASETS, Faces, FacesAll, FacesOthers, FacesTuning
from dpsnn.data.faces import decode, natural, own_faces, pictures_of_archive, trained_of
from dpsnn.errors import UsageError


def kinds(folder: Path) -> dict[str, Faces]:
    return {
        kind.__name__: own_faces(folder, kind)()
        for kind in (Faces, FacesAll, FacesOthers, FacesTuning)
    }


def contents(data: Faces, role: str) -> set[tuple[bytes, int]]:
    """Pictures of a role with their labels; no two of the generated ones are equal."""
    pixels, labels = data.tensors(role)
    found = {(p.numpy().tobytes(), int(label)) for p, label in zip(pixels, labels)}
    assert len(found) == len(pixels)
    return found


def test_parts_of_each_person_are_disjoint_and_shared_by_all_models(tmp_path: Path) -> None:
    write_people(tmp_path, 5, 10)
    data = kinds(tmp_path)
    train, held_out = (contents(data["Faces"], role) for role in ("train", "test"))
    assert len(train) == 35 and len(held_out) == 15 and not train & held_out
    assert data["Faces"].tensors("train")[1].bincount().tolist() == [7] * 5
    assert data["Faces"].tensors("test")[1].bincount().tolist() == [3] * 5
    assert contents(data["FacesOthers"], "train") == held_out
    assert contents(data["FacesOthers"], "test") == train
    inner, chosen_by = (contents(data["FacesTuning"], role) for role in ("train", "validation"))
    assert (
        inner | chosen_by == train and not inner & chosen_by
    ), "nothing held out chooses a step size"
    assert data["FacesTuning"].tensors("validation")[1].bincount().tolist() == [2] * 5
    assert (
        contents(data["FacesAll"], "train")
        == train | held_out
        == contents(data["FacesAll"], "test")
    )
    again = own_faces(tmp_path)(batch_size=7, seed=3)
    assert torch.equal(
        again.tensors("train")[0], data["Faces"].tensors("train")[0]
    ), "a fixed choice"


def test_the_choice_is_random() -> None:
    class Counted(Faces):
        def _read(self) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
            self._where = "counted"
            pixels = torch.arange(400, dtype=torch.uint8).view(-1, 1, 1, 1) % 10
            labels = torch.arange(40).repeat_interleave(10)
            return pixels.expand(-1, 1, 112, 92), labels, [str(i) for i in range(40)]

    held_out = Counted().tensors("test")[0][:, 0, 0, 0].view(40, 3)
    assert all(len(row.unique()) == 3 for row in held_out)
    assert held_out.unique().numel() == 10 and len(held_out.sort(1)[0].unique(dim=0)) > 20


@pytest.mark.parametrize(("count", "trained"), [(2, 1), (4, 3), (5, 4), (7, 5), (10, 7), (20, 14)])
def test_seven_in_ten_are_trained_on_and_one_at_least_is_not(count: int, trained: int) -> None:
    assert trained_of(count) == trained


def test_people_come_in_the_order_that_one_counts() -> None:
    names = ["s10", "s2", "anna", "s1", "10", "9"]
    assert sorted(names, key=natural) == ["9", "10", "anna", "s1", "s2", "s10"]


def test_a_folder_of_other_formats_and_colours_is_read_as_grey(tmp_path: Path) -> None:
    for person, suffix in (("ada", "png"), ("bo", "bmp"), ("cy", "PGM")):
        (tmp_path / person).mkdir()
        for i in range(4):
            colour = Image.new(
                "RGB" if suffix != "PGM" else "L",
                (6, 8),
                (30 * i,) * 3 if suffix != "PGM" else 30 * i,
            )
            colour.save(tmp_path / person / f"{i}.{suffix}", "PPM" if suffix == "PGM" else None)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "ada" / "readme.md").write_text("no picture either")
    (tmp_path / "empty").mkdir()
    data = own_faces(tmp_path)()
    data.setup()
    assert data.people == ["ada", "bo", "cy"] and data.image_shape == (1, 8, 6)
    assert data.num_classes == 3 and data.pool.pixels.dtype == torch.uint8
    assert sorted(data.pool.pixels[:, 0, 0, 0].tolist()) == sorted([0, 30, 60, 90] * 3)
    images, _ = next(iter(data.batches("train")))
    assert (
        0 <= images.min() and images.max() <= 1 and images.max().item() == pytest.approx(90 / 255)
    )


def test_archives_and_folders_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Faces, "image_shape", SIZE)
    monkeypatch.setattr(Faces, "known", None)
    places = {name: tmp_path / name for name in ("unpacked", "packed", "plain", "direct")}
    write_people(places["unpacked"] / "att_faces", 3, 5)
    write_people(places["direct"], 3, 5)
    for name, file, mode in (
        ("packed", "att_faces.tar.gz", "w:gz"),
        ("plain", "att_faces.tar", "w"),
    ):
        places[name].mkdir()
        with tarfile.open(places[name] / file, mode) as archive:
            archive.add(places["unpacked"] / "att_faces", "att_faces")
    pools = {name: Faces(place).pool for name, place in places.items()}
    for pool in pools.values():
        assert torch.equal(pool.pixels, pools["unpacked"].pixels)
        assert torch.equal(pool.labels, pools["unpacked"].labels)
    assert pools["packed"].source == "att_faces.tar.gz (3 people)"
    monkeypatch.setenv("DPSNN_DATA_MIRROR", str(places["packed"]))
    assert Faces(tmp_path / "nothing").pool.source == "att_faces.tar.gz (3 people)"
    assert Faces(places["direct"]).pool.source == "folder direct (3 people)", "the own folder first"


def refusal(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command line says of a folder, in its one line."""
    words = ["train_model", "--dataset", "faces", "--network", "softmax_regression"]
    assert main([*words, "--data_dir", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def broken(folder: Path, damage: str) -> str:
    """Spoil one picture and return its path."""
    path = folder / "s2" / "3.pgm"
    if damage == "cut short":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "no picture":
        path.write_text("no picture")
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        Image.new("L", (SIZE[2] + 1, SIZE[1])).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("cut short", "is damaged"),
        ("no picture", "is damaged"),
        ("empty", "is empty"),
        ("wrong size", "is 24x21 (height x width), but"),
    ],
)
def test_a_picture_that_is_damaged_or_of_another_size_is_named_and_refused(
    damage: str, reason: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_people(place / "mine", 3, 5)
    path = broken(place / "mine", damage)
    line = refusal(place / "mine", capsys)
    assert line.startswith(f"dpsnn: picture {path} {reason}") and "take it out" in line
    assert "object at 0x" not in line
    assert not (place / "models").exists(), "nothing was trained"


def test_other_bad_folders_are_refused_in_one_line(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "put att_faces.tar.gz, or a folder att_faces" in refusal(place / "none", capsys)
    write_people(place / "one", 1, 5)
    assert "pictures of 1 people; put two or more folders" in refusal(place / "one", capsys)
    write_people(place / "few", 2, 5)
    for i in (1, 2, 3):
        (place / "few" / "s2" / f"{i}.pgm").unlink()
    assert "has 2 pictures of s2; add some" in refusal(place / "few", capsys)
    write_people(place / "small", 2, 5)
    line = refusal(place / "small", capsys)
    assert "folder small has 2 people at 24x20; here there may be 40 at 112x92" in line
    (place / "damaged").mkdir()
    (place / "damaged" / "att_faces.tar.gz").write_bytes(b"no archive at all")
    assert "att_faces.tar.gz is damaged" in refusal(place / "damaged", capsys)


def test_an_archive_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    write_people(tmp_path / "att_faces", 2, 5)
    path = tmp_path / "att_faces.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(tmp_path / "att_faces", "att_faces")
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(UsageError, match="att_faces.tar.gz is damaged"):
        decode(pictures_of_archive(path), "archive")


def test_a_picture_within_an_archive_is_named_too(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for person in ("s1", "s2"):
            info = tarfile.TarInfo(f"att_faces/{person}/1.pgm")
            info.size = 4
            archive.addfile(info, io.BytesIO(b"oops"))
    with pytest.raises(UsageError, match="a.tar/att_faces/s1/1.pgm is damaged"):
        decode(pictures_of_archive(tmp_path / "a.tar"), "archive")


def test_images_that_a_role_needs_and_there_are_none_of_are_said(tmp_path: Path) -> None:
    write_people(tmp_path, 2, 5)
    data = own_faces(tmp_path)(tmp_path)
    with pytest.raises(UsageError, match="no images for the role surrogate, only for"):
        data.tensors("surrogate")
    assert len(data.foreign_surrogate()) == 10


def test_the_real_archive(mirror: Path, tmp_path: Path) -> None:
    if not (mirror / "att_faces.tar.gz").exists():
        pytest.skip(f"{mirror} has no att_faces.tar.gz")
    data = DATASETS["faces"](tmp_path)
    assert isinstance(data, Faces)
    pixels, labels = data.tensors("train")
    assert pixels.shape == (280, 1, 112, 92) and pixels.dtype == torch.uint8
    assert labels.bincount().tolist() == [7] * 40
    assert data.tensors("test")[1].bincount().tolist() == [3] * 40
    assert data.people[:3] == ["s1", "s2", "s3"] and data.people[-1] == "s40"
    assert int(data.pool.pixels.max()) == 251
    every = {np.asarray(p).tobytes() for p in data.pool.pixels}
    assert len(every) == 400, "all distinct, hence no picture is in two parts"
    assert len(DATASETS["faces_all"](tmp_path).tensors("train")[0]) == 400


@pytest.mark.parametrize("ending", [".gif", ".webp", ".ppm"])
def test_a_person_whose_pictures_are_of_any_kind_that_is_decoded_is_not_left_out(
    tmp_path: Path, ending: str
) -> None:
    write_people(tmp_path, people=3, pictures=4)
    first = sorted(tmp_path.iterdir())[0]
    for path in list(first.iterdir()):
        Image.open(path).save(path.with_suffix(ending))
        path.unlink()
    assert own_faces(tmp_path).num_classes == 3
