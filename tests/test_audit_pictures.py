"""The pictures of an audit: read from wherever they are, dealt out to who may have them, and met again if they are the
same."""

import io
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder

from dpsnn.audit import picture_folder
from dpsnn.audit.pictures import load_pictures
from dpsnn.audit.sides import deal, make_sides
from dpsnn.audit.twice import near_duplicates
from dpsnn.errors import UsageError


def noise(count: int, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, two people in each, three pictures of each person; and a broken one."""
    pixels = noise(12, 12, 10, 3).numpy()
    for row in range(12):
        place = tmp_path / "photos" / "ab"[row // 6] / f"person{row // 3}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[row]).save(place / f"{row:02}.png")
    (tmp_path / "photos" / "a" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "photos" / "readme.txt").write_text("hello")
    return tmp_path / "photos"


def test_a_folder_with_a_broken_picture(folder: Path) -> None:
    found = load_pictures(str(folder))
    assert found.images.shape == (12, 3, 12, 10) and found.classes == ("a", "b")
    assert found.labels.tolist() == [0] * 6 + [1] * 6
    assert torch.equal(found.images, noise(12, 12, 10, 3).permute(0, 3, 1, 2))
    (note,) = found.notes
    assert note.startswith("left out: ") and "broken.png" in note
    assert load_pictures(folder, channels=1, size=8).images.shape == (12, 1, 8, 8)
    grouped = load_pictures(folder, groups="subfolder").groups
    assert grouped is not None and [*dict.fromkeys(grouped)] == [
        "a/person0",
        "a/person1",
        "b/person2",
        "b/person3",
    ]


def test_one_class_only_and_no_subfolders(tmp_path: Path) -> None:
    for row, picture in enumerate(noise(6, 8, 8).numpy()):
        Image.fromarray(picture).save(tmp_path / f"{row}.png")
    found = load_pictures(tmp_path)
    assert found.images.shape == (6, 1, 8, 8) and found.classes == ()
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(tmp_path / "z.png")
    with pytest.raises(UsageError, match="differ in size"):
        load_pictures(tmp_path)
    for size in (0, -5, 100_000):
        with pytest.raises(
            UsageError, match=f"--size is {size}; it must be from 1 to 4,096 pixels"
        ):
            load_pictures(tmp_path, size=size)


@pytest.mark.parametrize(
    ("arrays", "shape"),
    [
        ({"images": noise(7, 8, 8)}, (7, 1, 8, 8)),
        ({"images": noise(7, 8, 8, 3), "labels": torch.arange(7).view(7, 1)}, (7, 3, 8, 8)),
        ({"images": noise(7, 3, 8, 8) / 255.0, "labels": torch.arange(7)}, (7, 3, 8, 8)),
    ],
)
def test_arrays_in_any_usual_order(tmp_path: Path, arrays: dict[str, Tensor], shape: Any) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, **{name: each.numpy() for name, each in arrays.items()})
    found = load_pictures(str(path))
    assert tuple(found.images.shape) == shape
    assert found.labels.tolist() == ([*range(7)] if "labels" in arrays else [0] * 7)
    np.savez(path, **{f"test_{name}": each.numpy() for name, each in arrays.items()})
    assert tuple(load_pictures(f"{path}:test").images.shape) == shape
    with pytest.raises(UsageError, match=r"name one of its parts, .*x.npz:test"):
        load_pictures(str(path))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (
            {"images": np.ones((4, 8, 8), np.float32) * 2},
            r"lie in \[2, 2\]; give bytes, or floats in",
        ),
        ({"images": np.full((4, 8, 8), np.nan, np.float32)}, "no finite numbers"),
        ({"images": np.ones((4, 8, 8), np.int64)}, "are torch.int64; give bytes"),
        ({"images": np.ones((4, 8), np.uint8)}, r"have shape \(4, 8\)"),
        ({"pictures": np.ones((4, 8, 8), np.uint8)}, "has no array 'images'"),
        ({"images": np.ones((4, 8, 8), np.uint8), "labels": np.ones(3)}, "4 images, and labels"),
        ({"images": np.ones((4, 8, 8), np.uint8), "labels": np.ones(4)}, "whole numbers from 0"),
        ({"images": np.array([object()])}, "is damaged or not"),
        ({"images": np.full((4, 8, 8), "x")}, "no array of numbers"),
    ],
)
def test_arrays_that_are_none_are_one_line(tmp_path: Path, arrays: Any, said: str) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, **arrays)
    with pytest.raises(UsageError, match=said):
        load_pictures(str(path))


def test_pairs_arrays_and_functions(tmp_path: Path) -> None:
    images = noise(5, 1, 8, 8) / 255
    pairs = [(image, label) for label, image in enumerate(images)]
    for given in (pairs, (images, range(5)), {"images": images, "labels": [*range(5)]}):
        found = load_pictures(given)
        assert torch.equal(found.images, images) and found.labels.tolist() == [0, 1, 2, 3, 4]
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\ndef make():\n    return {'images': torch.zeros(5, 8, 8), 'who': 'abcde'}\n"
    )
    assert load_pictures(f"{file}:make").images.shape == (5, 1, 8, 8)
    with pytest.raises(UsageError, match="gives int, no images and labels"):
        load_pictures(3)
    for wrong, said in (
        ("nowhere", f"there is no data nowhere in {re.escape(os.getcwd())}; give a folder"),
        (str(tmp_path / "nowhere"), f"there is no data {tmp_path}/nowhere; give a folder"),
        (str(file), "mine.py is a Python file; name the function in it, .*mine.py:FUNCTION$"),
        (str(tmp_path / "photos.zip"), "photos.zip is none of the kinds of data; give a folder"),
    ):
        (tmp_path / "photos.zip").touch()
        with pytest.raises(UsageError, match=said):
            load_pictures(wrong)


@pytest.mark.parametrize("count", [6, 10, 57, 400])
def test_sides_are_disjoint_and_in_proportion(count: int) -> None:
    labels = torch.arange(count) % 3
    sides = deal(labels, None, (0.5, 0.1, 0.4), seed=1)
    rows = torch.cat(sides)
    assert sorted(rows.tolist()) == [*range(count)]
    for side, share in zip(sides, (0.5, 0.1, 0.4)):
        assert len(side) == pytest.approx(share * count, abs=1)
        for label in range(3):
            assert int((labels[side] == label).sum()) == pytest.approx(share * count / 3, abs=1.5)
    assert all(torch.equal(a, b) for a, b in zip(sides, deal(labels, None, (0.5, 0.1, 0.4), 1)))
    assert not torch.equal(sides[0], deal(labels, None, (0.5, 0.1, 0.4), 2)[0])


def test_a_persons_pictures_stay_on_one_side() -> None:
    people = [str(row // 4) for row in range(80)]
    sides = deal(torch.arange(80) % 2, people, (0.5, 0.1, 0.4), 0)
    whose = [{people[row] for row in side.tolist()} for side in sides]
    assert not whose[0] & whose[1] and not whose[0] & whose[2] and not whose[1] & whose[2]
    assert [len(side) for side in sides] == [40, 8, 32]


def test_the_same_picture_is_known_again() -> None:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(
        torch.rand(40, 3, 5, 5, generator=generator), (24, 24), mode="bicubic"
    ).clamp(0, 1)
    images = (255 * smooth).byte()
    assert int(near_duplicates(images[:20], images[20:]).sum()) == 0
    brighter = (images[20:25].float() + 2).clamp(max=255).byte()
    copies = torch.cat([images[:20], brighter])
    assert near_duplicates(images[18:23], copies).tolist() == [True] * 5
    # Also of another size.
    small = torch.nn.functional.interpolate(smooth[:4], (16, 16), mode="area")
    assert near_duplicates(small, images).tolist() == [True] * 4


def test_what_is_to_be_said_of_the_sides(folder: Path) -> None:
    images, labels = noise(30, 1, 8, 8), torch.arange(30) % 2
    images[15:] = images[:15]
    sides = make_sides((images, labels), trained_on=(images[:3], labels[:3]))
    assert (len(sides.own), len(sides.validation), len(sides.victims)) == (15, 3, 12)
    assert sides.near_duplicates > 0 and "--groups" in sides.notes[0]
    assert sides.overlap == int(torch.isin(sides.victims.places % 15, torch.arange(3)).sum())
    assert torch.equal(sides.victims.images, images[sides.victims.places])
    less = sides.within(10, 5)
    assert (len(less.own), len(less.validation), len(less.victims)) == (10, 2, 5)
    assert torch.equal(less.victims.places, sides.victims.places[:5])
    grouped = make_sides(folder, groups="subfolder")
    assert set(grouped.own.groups or ()).isdisjoint(grouped.victims.groups or ())
    assert "broken.png" in grouped.notes[0]


def test_a_surrogate_of_floats() -> None:
    victims, other = (noise(9, 1, 8, 8), torch.arange(9) % 3), noise(12, 1, 8, 8, seed=1) / 255
    sides = make_sides(victims, surrogate=other)
    assert (len(sides.own), len(sides.validation), len(sides.victims)) == (10, 2, 9)
    assert sides.surrogate == "the data" and sides.near_duplicates == 0
    assert sorted(sides.victims.places.tolist()) == [*range(9)] and sides.overlap is None
    with pytest.raises(UsageError, match=r"pictures of shape \(1, 8, 8\), the data of \(3, 8, 8\)"):
        make_sides((noise(9, 3, 8, 8), range(9)), surrogate=other)


def test_ten_pictures_are_enough_and_five_are_not() -> None:
    sides = make_sides(noise(10, 8, 8))
    assert (len(sides.own), len(sides.validation), len(sides.victims)) == (5, 1, 4)
    with pytest.raises(UsageError, match="has 5 pictures; give 6 or more"):
        make_sides(noise(5, 8, 8))


def test_a_data_set_of_ours_has_its_own_roles() -> None:
    sides = make_sides("digits", trained_on="digits")
    assert sides.image_shape == (1, 28, 28) and sides.overlap == 0 and len(sides.victims) > 100


def written(place: Path, count: int = 1, seed: int = 0) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for row, picture in enumerate(noise(count, 8, 8, seed=seed).numpy()):
        Image.fromarray(picture).save(place / f"{row}.png")


def test_what_systems_put_into_folders_is_no_class(tmp_path: Path) -> None:
    for name in ("cat", "dog", "__MACOSX/cat", ".cache", "cat/.thumbs"):
        written(tmp_path / name)
    Image.fromarray(noise(1, 8, 8).numpy()[0]).save(tmp_path / "dog" / "._0.png")
    found = load_pictures(tmp_path)
    assert found.classes == ("cat", "dog") and len(found) == 2 and not found.notes


def test_classes_have_the_numbers_that_torchvision_gives_them(tmp_path: Path) -> None:
    """Whatever has no picture, lies beside the folders or is reached by a link."""
    for name in ("cat", "fox"):
        written(tmp_path / "data" / name)
    written(tmp_path / "elsewhere")
    (tmp_path / "data" / "ant").mkdir()
    (tmp_path / "data" / "dog").symlink_to(tmp_path / "elsewhere")
    found = load_pictures(tmp_path / "data")
    theirs = ImageFolder(str(tmp_path / "data"), allow_empty=True)
    assert [*found.classes] == theirs.classes and found.labels.tolist() == theirs.targets
    (note,) = found.notes
    assert note.startswith("no picture is in ant: of 4 classes")
    written(tmp_path / "data")
    beside = load_pictures(tmp_path / "data")
    assert beside.labels.tolist() == theirs.targets and len(beside.notes) == 2
    assert "that lie beside the folders" in beside.notes[0]


def test_links_that_lead_back_or_nowhere_end(tmp_path: Path) -> None:
    for name in ("a", "b"):
        written(tmp_path / "data" / name)
        (tmp_path / "data" / name / "up").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "a" / "gone.png").symlink_to(tmp_path / "nothing.png")
    os.mkfifo(tmp_path / "data" / "a" / "pipe.png")
    found = load_pictures(tmp_path / "data")
    assert len(found) == 2 and "gone.png" in "".join(found.notes)


def test_a_very_long_picture_is_cropped_before_it_is_enlarged(tmp_path: Path) -> None:
    long = np.zeros((2, 20_000), np.uint8)
    long[:, 9_999:10_001] = 200
    Image.fromarray(long).save(tmp_path / "long.png")
    sizes = list[Any]()
    with pytest.MonkeyPatch.context() as patch:
        resize = Image.Image.resize
        patch.setattr(
            Image.Image,
            "resize",
            lambda self, size, *a, **k: (sizes.append(size), resize(self, size, *a, **k))[1],
        )
        found = load_pictures(tmp_path, size=64)
    assert sizes == [(64, 64)] and (found.images == 200).all()


def test_grey_pictures_are_read_without_a_warning(tmp_path: Path) -> None:
    written(tmp_path)
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load_pictures(tmp_path)
    finally:
        torch.set_warn_always(False)


def test_arrays_of_another_order_of_bytes_and_labels_of_bytes(tmp_path: Path) -> None:
    images = np.linspace(0, 1, 4 * 64).reshape(4, 8, 8).astype(">f4")
    labels = np.array([b"a", b"\xff", b"a", b"c"])
    np.savez(tmp_path / "x.npz", images=images, labels=labels)
    found = load_pictures(str(tmp_path / "x.npz"))
    assert np.allclose(found.images[:, 0].numpy(), images)
    assert found.classes == ("\\xff", "a", "c") and found.labels.tolist() == [1, 0, 1, 2]


def test_folders_above_the_classes_are_said(tmp_path: Path) -> None:
    for name in ("one/cat", "one/dog", "two/cat", "Train/dog"):
        written(tmp_path / "mine" / name)
    (note,) = load_pictures(tmp_path / "mine").notes
    assert note.startswith("several folders have a folder cat: the classes are the outermost")
    assert "(Train, one, two)" in note
    (note,) = load_pictures(tmp_path / "mine", groups="subfolder").notes
    assert note.startswith("cat, and 1 more, of several classes counts as another person in each")
    (note,) = load_pictures(tmp_path / "mine" / "one", groups="subfolder").notes
    assert note.startswith("every class counts as one person")
    (note,) = load_pictures(tmp_path / "mine" / "one" / "cat", groups="subfolder").notes
    assert note.startswith("every class counts as one person")
    # Of classes with people and others without, these are named.
    written(tmp_path / "mixed" / "cat")
    for name in ("dog/rex", "dog/ben"):
        written(tmp_path / "mixed" / name)
    (note,) = load_pictures(tmp_path / "mixed", groups="subfolder").notes
    assert note.startswith("what lies in cat counts, class by class, as one person")
    for name in ("train/cat", "train/dog"):
        written(tmp_path / "other" / name)
    (note,) = load_pictures(tmp_path / "other").notes
    assert note.startswith("train has folders of its own")


def test_people_in_several_classes_are_said(tmp_path: Path) -> None:
    for name in ("calm/anna", "calm/ben", "glad/anna", "glad/carl"):
        written(tmp_path / "mine" / name)
    (note,) = load_pictures(tmp_path / "mine", groups="subfolder").notes
    assert note.startswith("anna of several classes counts as another person in each")
    assert "both sides" in note
    (tmp_path / "mine" / "glad" / "anna").rename(tmp_path / "mine" / "glad" / "dora")
    assert not load_pictures(tmp_path / "mine", groups="subfolder").notes


def test_a_class_that_is_called_as_hidden_folders_are_is_said(tmp_path: Path) -> None:
    for name in ("__background__", "cat", "dog"):
        written(tmp_path / "mine" / name)
    (tmp_path / "mine" / "__MACOSX").mkdir()
    (tmp_path / "mine" / "__MACOSX" / "._cat.png").write_bytes(b"no picture")
    found = load_pictures(tmp_path / "mine")
    assert found.classes == ("cat", "dog")
    (note,) = found.notes
    assert note.startswith("left out: the folder __background__, as what systems put there")


def test_a_hidden_folder_that_may_not_be_looked_into_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("__private", "cat", "dog"):
        written(tmp_path / "mine" / name)

    def refused(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
        if folder.name == "__private":
            raise UsageError(f"{folder} may not be looked into")
        yield from looked_into(folder, above)

    looked_into = picture_folder._files
    monkeypatch.setattr(picture_folder, "_files", refused)
    found = load_pictures(tmp_path / "mine")
    assert found.classes == ("cat", "dog") and "left out: the folder __private" in found.notes[0]


def test_labels_that_are_names_in_numbers(tmp_path: Path) -> None:
    labels = torch.tensor([9_900_000, 100_000, 9_900_000, 123_456])
    found = load_pictures((noise(4, 1, 8, 8), labels))
    assert found.labels.tolist() == [2, 0, 2, 1]
    assert found.classes == ("100000", "123456", "9900000") and "3 classes" in found.notes[0]
    few = load_pictures((noise(4, 1, 8, 8), torch.tensor([3, 5, 3, 3])))
    assert few.labels.tolist() == [3, 5, 3, 3] and len(few.classes) == 6 and not few.notes


def test_the_same_picture_is_known_again_compressed_and_mirrored() -> None:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(60, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(smooth, (48, 48), mode="bicubic").clamp(0, 1)
    images = (255 * smooth).byte()

    def compressed(picture: Tensor) -> Tensor:
        file = io.BytesIO()
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=50)
        return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)

    again = torch.stack([compressed(each) for each in images])
    assert float(near_duplicates(again, images).double().mean()) > 0.97
    assert bool(near_duplicates(images.flip(-1), images).all())
    assert int(near_duplicates(images[:30], images[30:]).sum()) == 0


def test_people_are_on_one_side_of_a_surrogate_too() -> None:
    images, people = noise(60, 1, 8, 8), [str(row % 6) for row in range(60)]
    victims = {"images": images[:30], "who": people[:30]}
    other = {"images": images[30:], "who": [*people[30:45], *"abcdefghijklmno"]}
    sides = make_sides(victims, surrogate=other, groups="who")
    assert len(sides.own) + len(sides.validation) == 15 and len(sides.victims) == 30
    assert {*(sides.own.groups or ())} <= {*"abcdefghijklmno"}
    assert any("left out: 15 pictures of the surrogate" in note for note in sides.notes)
    with pytest.raises(UsageError, match="all pictures of the surrogate .* are of people in"):
        make_sides(victims, surrogate=victims, groups="who")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"data": "digits", "groups": "who"}, "digits does not say whose a picture is"),
        ({"data": "digits", "size": 99}, "--size scales pictures of a folder; digits has them"),
        ({"data": "digits", "surrogate": "digits", "size": 9}, "--size scales"),
        ({"surrogate": "digits", "groups": "who"}, "digits does not say whose a picture is"),
    ],
)
def test_what_a_data_set_of_ours_cannot_do_is_refused(given: dict[str, Any], said: str) -> None:
    mine = {"images": noise(30, 1, 28, 28), "who": [str(row) for row in range(30)]}
    with pytest.raises(UsageError, match=said):
        make_sides(**{"data": mine, **given})
