"""Output that nobody reads or that finds no room: never a traceback, and no word of Python's own at the end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dpsnn import cli

DONE = "import pathlib; cli.named = lambda name: lambda options: pathlib.Path('/')"
"""A command that has written a file and names it."""
LONG = "cli.named = lambda name: lambda options: print('word ' * 100_000)"
"""More than fits into a buffer."""


def said(work: str, out: int, closes: bool = False) -> tuple[int, str]:
    """Exit code and standard error of a command whose standard output is `out`, or is closed from the start."""
    code = f"from dpsnn import cli; {work}; cli.run('epsilon')"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=(lambda: os.close(1)) if closes else None,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("work", [DONE, LONG])
def test_a_reader_who_left_is_no_failure_to_speak_of(work: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert said(work, writer) == (141, "")
    os.close(writer)


@pytest.mark.parametrize("work", [DONE, LONG])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_no_room_for_the_output_is_one_line(work: str) -> None:
    with open("/dev/full", "wb") as full:
        assert said(work, full.fileno()) == (2, "dpsnn: No space left on device\n")


@pytest.mark.parametrize("work", [DONE, LONG])
def test_standard_output_may_be_closed_from_the_start(work: str) -> None:
    assert said(work, subprocess.DEVNULL, closes=True) == (0, "")


def test_a_path_that_is_not_utf8_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / os.fsdecode(b"\xff")
    path.touch()
    monkeypatch.setattr(cli, "named", lambda action: lambda options: path)
    assert cli.main(["audit"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/\\udcff\n"
