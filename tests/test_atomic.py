"""Files are whole or not there, and nobody's half files stay."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dpsnn.atomic import _HOST, clear_stale, staged


def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with staged(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(OSError, match="full"), staged(path) as temporary:
        temporary.write_text("ne")
        raise OSError("full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_said_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, staged(tmp_path / "file"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "file")


def test_a_secret_is_its_owners_alone(tmp_path: Path) -> None:
    with staged(tmp_path / "secret", 0o600) as temporary:
        assert temporary.stat().st_mode & 0o777 == 0o600
        temporary.write_text("s")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_files_of_dead_processes_are_cleared_and_no_others(tmp_path: Path) -> None:
    dead, alive = gone(), os.getpid()
    names = {
        f".a.ckpt.{_HOST}-{dead}.tmp": False,
        f".a.ckpt.{dead}.tmp": False,
        f".a.ckpt.{_HOST}-{alive}.tmp": True,
        f".a.ckpt.elsewhere-{dead}.tmp": True,
        f".b.ckpt.{_HOST}-{dead}.tmp": True,
        ".a.ckpt.lock": True,
        "a.ckpt": True,
    }
    for name in names:
        (tmp_path / name).touch()
    clear_stale(tmp_path, "a.ckpt")
    assert {name: (tmp_path / name).exists() for name in names} == names
    assert [path.name for path in clear_stale(tmp_path)] == [f".b.ckpt.{_HOST}-{dead}.tmp"]
    assert clear_stale(tmp_path / "nowhere") == []
