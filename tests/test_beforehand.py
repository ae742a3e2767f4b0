"""What would fail late is said before anything is trained, and what dead processes left goes first."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dpsnn import checkpoints
from dpsnn.atomic import _HOST, scratch
from dpsnn.claims import finished
from dpsnn.cli import main
from dpsnn.data import DATASETS
from dpsnn.specs import ClassifierSpec, plain
from dpsnn.tidy import tidy

FileMaker = Callable[..., Path]
TABLES = Path("results/quantitative_measures")


def folder_for_table(table: str) -> None:
    (TABLES / table).mkdir(parents=True)


def read_only_table(table: str) -> None:
    TABLES.mkdir(parents=True)
    (TABLES / table).write_text("Model,Attacker\n")
    (TABLES / table).chmod(0o444)


def damaged_table(table: str) -> None:
    TABLES.mkdir(parents=True)
    (TABLES / table).write_bytes(b"Model,Attacker\n\xff\xfe\n")


def file_for_folder(name: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).touch()


@pytest.mark.parametrize("group", ["plain", "headline", "demo", "plain --jobs 2"])
@pytest.mark.parametrize(
    "spoil, what, said",
    [
        (folder_for_table, "model_performances.csv", "is a folder"),
        (folder_for_table, "attack_performances.csv", "is a folder"),
        (folder_for_table, ".attack_performances.csv.lock", "is a folder"),
        (read_only_table, "attack_performances.csv", "read-only"),
        (damaged_table, "attack_performances.csv", "attack_performances.csv"),
        (file_for_folder, "results", "results"),
        (file_for_folder, "results/logs", "logs"),
        (file_for_folder, "models/attackers", "attackers"),
        (file_for_folder, "models/attackers/.progress", ".progress"),
    ],
)
def test_places_that_cannot_be_written_are_said_first(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[str], None],
    what: str,
    said: str,
    group: str,
) -> None:
    spoil(what)
    folders = ["--results_dir", "results", "--models_dir", "models"]
    assert main([*group.split(), *folders, "--max_epochs", "1"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and len(err.splitlines()) == 1
    assert list(place.rglob("*.ckpt")) == []


@pytest.mark.parametrize("role", ["surrogate", "scoring", "test"])
def test_roles_that_a_group_needs_are_looked_for_first(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    digits = DATASETS["digits"]
    roles = digits.roles
    monkeypatch.setattr(
        digits,
        "roles",
        lambda self, pool: {k: v for k, v in roles(self, pool).items() if k != role},
    )
    assert main(["plain", "--max_epochs", "1"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and f"no images for the role {role}" in err and len(err.splitlines()) == 1
    assert list(place.rglob("*.ckpt")) == []


@pytest.mark.parametrize(
    "words, said",
    [
        ("plain --dataset faces", "no images for the role surrogate"),
        ("plain --surrogate faces", "surrogate faces has images of shape (1, 112, 92)"),
        ("suppress --dataset faces --jobs 1", "no images for the role surrogate"),
    ],
)
def test_faces_where_attackers_need_images_of_their_own(
    place: Path, mirror: Path, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err.splitlines()[-1]
    assert list(place.rglob("*.ckpt")) == []


@pytest.mark.parametrize("command", ["plain", "train_model", "performance"])
def test_the_mirror_does_not_stand_in_for_a_folder_that_is_not_there(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("DPSNN_DATA_MIRROR", str(place))
    assert main([command, "--data_dir", "dtaa"]) == 2
    assert "there is no data folder dtaa" in capsys.readouterr().err
    assert list(place.iterdir()) == []


def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_dead_processes_left_goes_when_a_command_starts(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(place))
    mark, own = f"{_HOST}-{dead()}", f"{_HOST}-{os.getpid()}"
    left = [
        place / "models/classifiers" / f".a.ckpt.{mark}.tmp",
        place / "models/attackers/.progress" / f".b.ckpt.{mark}.tmp",
        TABLES.absolute() / f".t.csv.{mark}.tmp",
        place / "results/figures" / f".f.png.{mark}.tmp",
        place / "data" / f".download-{mark}-abc" / "half",
        place / f"dpsnn-secure-{mark}-abc_1" / "key",
        place / f"dpsnn-federated-{mark}-abc" / "settings.json",
    ]
    kept = [
        place / "models/classifiers" / f".a.ckpt.{own}.tmp",
        place / f"dpsnn-secure-{own}-abc" / "key",
        place / "dpsnn-secure-mine" / "key",
    ]
    for path in left + kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert main(["performance", "--dry_run"]) == 0
    assert all(path.exists() for path in left + kept)
    assert main(["performance"]) == 2  # there is nothing to measure
    assert [path for path in left if path.exists()] == []
    assert all(path.exists() for path in kept)
    assert tidy("models", "results", "data") == []


def test_a_scratch_folder_goes_with_its_block(tmp_path: Path) -> None:
    with pytest.raises(OSError), scratch("work", tmp_path) as folder:
        assert folder.name.startswith(f"work-{_HOST}-{os.getpid()}-")
        (folder / "file").touch()
        raise OSError
    assert list(tmp_path.iterdir()) == []


def test_progress_beside_its_finished_checkpoint_goes_and_no_other(
    tmp_path: Path, classifier_file: FileMaker
) -> None:
    spec = ClassifierSpec(max_epochs=1)
    path = classifier_file(tmp_path, max_epochs=1)
    name = checkpoints.classifier_name(spec)
    own = checkpoints.progress_path(path.parent, name, plain(spec))
    other = own.with_name(f"{name}_01234567.ckpt")
    own.parent.mkdir()
    own.touch()
    other.touch()
    assert finished(path.parent, name, checkpoints.CLASSIFIER, plain(spec)) == path
    assert (own.exists(), other.exists()) == (False, True)
