"""Data sets: shapes, ranges, and roles that never mix."""

import gzip
import io
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from dpsnn.batches import TensorBatches, derived_seed
from dpsnn.data import DATASETS, EMNIST, MNIST, ROLES, Digits, ImageDataModule, Pool
from dpsnn.data.emnist import balanced_to_letters
from dpsnn.data.files import read_idx
from dpsnn.data.omniglot import Omniglot, Omniglot28, OmniglotOverlap, read_drawings
from dpsnn.errors import UsageError


class Numbered(Digits):
    """Digits' roles over images that carry their own row number."""

    def load(self) -> Pool:
        rows = torch.arange(1797)
        pixels = torch.stack([rows // 256, rows % 256], 1).to(torch.uint8)
        return Pool(pixels.repeat(1, 392).reshape(-1, 1, 28, 28), rows % 10, "numbered")


def test_roles_are_disjoint_by_index_and_by_content() -> None:
    data = Numbered()
    seen: dict[int, str] = {}
    for role in ROLES:
        for image in data.tensors(role)[0]:
            row = int(image[0, 0, 0]) * 256 + int(image[0, 0, 1])
            assert row not in seen, f"image {row} is {seen.get(row)} and {role}"
            assert row in data.rows(role)
            seen[row] = role
    assert set(seen.values()) == set(ROLES)


@pytest.mark.parametrize(
    ("module", "total", "sizes"),
    [
        (Digits, 1797, [800, 450, 150, 147, 250]),
        (MNIST, 70_000, [40_000, 5_000, 5_000, 10_000, 10_000]),
        (EMNIST, 145_600, [100_000, 5_000, 5_000, 14_800, 20_800]),
        (Omniglot28, 7_000, [4_000, 1_000, 600, 600, 800]),
        (Omniglot, 13_180 + 1_720 + 3_120, [11_000, 1_720, 3_120, 1_090, 1_090]),
        (OmniglotOverlap, 13_180 + 2_720 + 3_120, [11_000, 2_720, 3_120, 1_090, 1_090]),
        (EMNIST, 3_128, [1_000, 300, 130, 129, 1_569]),
    ],
)
def test_every_image_has_one_role(
    module: type[ImageDataModule], total: int, sizes: list[int]
) -> None:
    pool = Pool(torch.empty(total, 0, dtype=torch.uint8), torch.zeros(total), "sizes only")
    roles = module().roles(pool)
    assert [len(roles[role]) for role in ROLES] == sizes
    rows = [row for part in roles.values() for row in part]
    assert rows == list(range(total)), "each row once, none left over"


def test_mnist_roles_are_those_of_the_paper() -> None:
    pool = Pool(torch.empty(70_000, 0, dtype=torch.uint8), torch.zeros(70_000), "sizes only")
    roles = MNIST().roles(pool)
    assert roles["train"] == range(0, 40_000)
    assert roles["surrogate"] == range(40_000, 45_000)
    assert roles["scoring"] == range(45_000, 50_000)
    assert roles["validation"] == range(50_000, 60_000)
    assert roles["test"] == range(60_000, 70_000), "MNIST's own test file"


def test_digits_are_those_of_scikit_learn() -> None:
    data, raw = Digits(), load_digits()
    assert data.pool.labels.bincount().tolist() == torch.from_numpy(raw.target).bincount().tolist()
    assert data.pool.pixels.shape == (1797, 1, 28, 28) and data.pool.pixels.dtype == torch.uint8
    train = data.tensors("train")[0].float() / 255
    assert train.mean().item() == pytest.approx(data.mean, abs=1e-3)
    assert train.std().item() == pytest.approx(data.std, abs=1e-3)
    for role in ROLES:
        assert data.tensors(role)[1].bincount(minlength=10).min() > 0, f"a class misses in {role}"


def test_batches_are_images_in_unit_range_with_their_labels() -> None:
    data = Digits(batch_size=64)
    images, labels = next(iter(data.val_dataloader()))
    assert images.dtype == torch.float32 and 0 <= images.min() and images.max() <= 1
    assert images.max() > 0.9
    pixels, classes = data.tensors("validation")
    torch.testing.assert_close(images, pixels[:64] / 255)
    assert torch.equal(labels, classes[:64])


def test_shuffling_is_seeded_complete_and_new_in_each_epoch() -> None:
    rows = torch.arange(100)

    def order(seed: int, passes: int = 1) -> list[int]:
        batches = TensorBatches(rows, batch_size=32, shuffle_seed=seed, passes=passes)
        assert len(list(batches)) == len(batches)
        return torch.cat([b for (b,) in batches]).tolist()

    first, second = derived_seed(0, 0), derived_seed(0, 1)
    assert order(first) == order(first) != order(second)
    assert sorted(order(first)) == rows.tolist()
    assert order(first) != rows.tolist()
    twice = order(first, passes=2)
    assert (
        sorted(twice[:100]) == sorted(twice[100:]) == rows.tolist() and twice[:100] != twice[100:]
    )
    assert torch.cat([b for (b,) in TensorBatches(rows, batch_size=32)]).tolist() == rows.tolist()


def test_derived_seeds_differ() -> None:
    seeds = {derived_seed(a, b, c) for a in range(10) for b in range(10) for c in range(10)}
    assert len(seeds) == 1000 and all(0 <= s < 2**63 for s in seeds)


def test_tensors_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[3, 4\]"):
        TensorBatches(torch.zeros(3), torch.zeros(4), batch_size=2)


def test_foreign_surrogates_come_from_the_attackers_role_first() -> None:
    data = Digits()
    foreign = data.foreign_surrogate(500)
    assert torch.equal(foreign[:450], data.tensors("surrogate")[0])
    assert torch.equal(foreign[450:], data.tensors("scoring")[0][:50])
    assert len(data.foreign_surrogate(10**6)) == 1797


# ---------------------------------------------------------------- files


def write_idx(path: Path, array: torch.Tensor) -> None:
    head = bytes([0, 0, 8, array.dim()]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    content = head + array.to(torch.uint8).numpy().tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_are_read_packed_or_not(tmp_path: Path, suffix: str) -> None:
    array = torch.randint(0, 256, (5, 4, 3), dtype=torch.uint8)
    path = tmp_path / f"images{suffix}"
    write_idx(path, array)
    assert torch.equal(read_idx(path), array)


class InventedLetters(EMNIST):
    """The sample's shapes with any values."""

    sample = tuple(file._replace(digest="") for file in EMNIST.sample)


def test_emnist_sample_is_upright_letters_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DPSNN_DATA_MIRROR", str(tmp_path))
    stem = "EMNIST/raw/emnist-balanced-first2000"
    for part in ("train", "test"):
        images = torch.arange(2000).reshape(-1, 1, 1).expand(-1, 28, 28).clone() % 256
        images[:, 0, 27] = 255  # native EMNIST: top right is bottom left when upright
        images[:, 27, 0] = 7
        write_idx(tmp_path / f"{stem}-{part}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{stem}-{part}-labels-idx1-ubyte.gz", torch.arange(2000) % 47)
    data = InventedLetters(tmp_path / "nothing here")
    pixels, labels = data.tensors("train")
    assert (pixels[:, 0, 27, 0] == 255).all() and (pixels[:, 0, 0, 27] == 7).all()
    assert 0 <= labels.min() and labels.max() <= 25
    assert data.source == f"EMNIST sample ({len(data.pool.labels)} letters)"
    assert capsys.readouterr().err.count("\n") == 1


def test_balanced_labels_become_letters() -> None:
    labels = torch.tensor([0, 9, 10, 35, 36, 46])
    kept, letters = balanced_to_letters(torch.arange(6), labels)
    assert kept.tolist() == [2, 3, 4, 5]
    assert letters.tolist() == [0, 25, 0, 19], "A, Z, a, t"


def test_pool_outside_its_constants_is_refused() -> None:
    class Wrong(Digits):
        def load(self) -> Pool:
            return Pool(
                torch.zeros(1797, 1, 28, 28, dtype=torch.uint8), torch.full((1797,), 10), "odd"
            )

    with pytest.raises(UsageError, match="labels 10 to 10"):
        Wrong().setup()


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (torch.zeros(1797, dtype=torch.long), "of its 1797 labels every one is 0"),
        (torch.arange(1798) % 10, "has 1797 images, and 1798 labels"),
    ],
)
def test_a_pool_whose_labels_say_nothing_is_refused(labels: torch.Tensor, reason: str) -> None:
    class Wrong(Digits):
        def load(self) -> Pool:
            return Pool(torch.zeros(1797, 1, 28, 28, dtype=torch.uint8), labels, "odd")

    with pytest.raises(UsageError, match=reason):
        Wrong().setup()


def test_omniglot_drawings_are_bright_on_black_and_chosen_once(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "drawings.zip", "w") as archive:
        for alphabet in ("Greek", "Korean"):
            for i in range(5):
                drawing = Image.new("1", (105, 105), 1)
                drawing.paste(0, (10 * i, 0, 10 * i + 10, 105))
                content = io.BytesIO()
                drawing.save(content, "PNG")
                archive.writestr(f"set/{alphabet}/character01/{i}.png", content.getvalue())
    pixels, alphabets = read_drawings(tmp_path / "drawings.zip", 6, 21)
    assert pixels.shape == (6, 1, 21, 21) and set(alphabets) <= {"Greek", "Korean"}
    # A tenth of each picture is stroke, whichever it is.
    assert (pixels / 255).mean((1, 2, 3)).tolist() == pytest.approx([10 / 105] * 6, abs=1e-3)
    assert torch.equal(read_drawings(tmp_path / "drawings.zip", 6, 21)[0], pixels)
    with pytest.raises(UsageError, match="10 drawings, not 11"):
        read_drawings(tmp_path / "drawings.zip", 11, 21)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Omniglot, OmniglotOverlap])
def test_omniglot_keeps_alphabets_apart(kind: type[Omniglot], tmp_path: Path) -> None:
    """A drawing carries its alphabet in its pixels; published, the attacker owns two of those it is scored on."""
    sets = {
        "images_evaluation": (["Angelic", "Tibetan"], 13_180),
        "images_background_small1": (["Balinese", "Greek", "Korean", "Latin"], 2_720),
        "images_background_small2": (["Greek", "Latin", "Sanskrit"], 3_120),
    }
    every = sorted({name for names, _ in sets.values() for name in names})
    (tmp_path / "omniglot-py").mkdir()
    for name, (alphabets, count) in sets.items():
        with zipfile.ZipFile(tmp_path / "omniglot-py" / f"{name}.zip", "w") as archive:
            contents = {}
            for alphabet in alphabets:
                drawing = Image.new("L", (105, 105), 255)
                drawing.paste(0, (0, 0, 1 + every.index(alphabet), 1))
                content = io.BytesIO()
                drawing.save(content, "PNG")
                contents[alphabet] = content.getvalue()
            for i in range(count):
                alphabet = alphabets[i % len(alphabets)]
                archive.writestr(f"{name}/{alphabet}/character01/{i:05}.png", contents[alphabet])
    invented = tuple(archive._replace(digest="") for archive in kind.archives)
    data = type("Invented", (kind,), {"archives": invented})(tmp_path)
    seen = {
        role: {every[int(n) - 1] for n in (data.tensors(role)[0][:, 0, 0] == 255).sum(1).unique()}
        for role in ROLES
    }
    assert seen["train"] == seen["validation"] == seen["test"] == {"Angelic", "Tibetan"}
    assert seen["scoring"] == {"Greek", "Latin", "Sanskrit"} == set(data.alphabets)
    both = {"Greek", "Latin"} if kind is OmniglotOverlap else set()
    assert seen["surrogate"] == {"Balinese", "Korean"} | both
    labels = data.tensors("scoring")[1]
    strokes = (data.tensors("scoring")[0][:, 0, 0] == 255).sum(1)
    for label, name in enumerate(data.alphabets):
        assert set(strokes[labels == label].tolist()) == {1 + every.index(name)}


@pytest.mark.parametrize(
    "name",
    [
        "mnist",
        "emnist",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("omniglot", "omniglot28")),
    ],
)
def test_real_files_from_the_mirror(name: str, mirror: Path, tmp_path: Path) -> None:
    data = DATASETS[name](tmp_path)
    images, labels = data.tensors("train")
    assert images.shape[1:] == data.image_shape and labels.unique().numel() == data.num_classes
    assert (images / 255).mean().item() == pytest.approx(data.mean, abs=0.01)
    assert (images / 255).std().item() == pytest.approx(data.std, abs=0.01)
    assert not list(tmp_path.iterdir()), "a mirror is read in place"
