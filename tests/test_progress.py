"""The view of a group: honest counts, an estimate, and failures that stop nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

from dpsnn.errors import UsageError
from dpsnn.memory import peak_bytes
from dpsnn.runner import progress
from dpsnn.runner.progress import GroupFailed, Progress, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (120, "2 min"), (5399, "90 min"), (9000, "2.5 h")],
)
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_memory_is_that_of_the_process_itself_whoever_started_it() -> None:
    held = bytearray(b"x") * 2**29
    words = [sys.executable, "-c", "from dpsnn.memory import peak_bytes; print(peak_bytes())"]
    told = int(subprocess.run(words, capture_output=True, check=True, text=True).stdout)
    assert 2**22 < told < len(held) < peak_bytes()


@pytest.mark.skipif(
    not Path("/proc/self/comm").exists(), reason="reads Linux's own account of memory"
)
def test_a_name_that_looks_like_an_account_of_memory_is_none() -> None:
    code = """
from dpsnn.memory import peak_bytes
open("/proc/self/comm", "w", newline="").write("a\\rVmHWM: 7 kB")
print(peak_bytes())
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert int(told.stdout) > 2**22


def test_the_estimate_is_the_median_of_each_kind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0, 100, 100, 110, 110, 130, 130, 160])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    board = Progress("g", ["classifier"] * 3 + ["attacker"] * 4, done=2)
    assert board.remaining() == "time unknown"
    board.make("classifier", "one", lambda: Path("c"))
    assert board.remaining() == "time unknown", "attackers were not seen yet"
    for name in ("a", "b", "c"):
        board.make("attacker", name, lambda: Path("a"))
    assert board.remaining() == f"about {duration(2 * 100 + 1 * 20)}"
    assert (
        "[g: 5 of 9 done, 4 left, about 4 min] attacker c"
        in capsys.readouterr().err.splitlines()[-1]
    )


def test_failures_stop_nothing_and_are_named_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> Path:
        raise UsageError("no\nluck")

    board = Progress("g", ["classifier", "attacker", "attacker", "attacker"], done=0)
    assert board.make("classifier", "first", fail) is None
    board.drop("attacker", ["its own"], "its classifier failed")
    assert board.make("attacker", "other", lambda: Path("x")) == Path("x")
    board.check("tables", fail)
    board.check("well", lambda: None)
    assert board.make("attacker", "last", lambda: Path("y")) == Path("y")
    with pytest.raises(GroupFailed, match="^3 of 4 failed: ") as raised:
        board.close()
    for part in ("first (no luck)", "its own (its classifier failed)", "tables (no luck)"):
        assert part in str(raised.value)
    last = capsys.readouterr().err.splitlines()[-1]
    assert "2 of 4 done" in last and "attackers 0 s, evaluation 0 s; at most" in last


def test_interruption_is_no_failure() -> None:
    def interrupt() -> Path:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Progress("g", ["classifier"], done=0).make("classifier", "one", interrupt)
