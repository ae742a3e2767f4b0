"""Whatever strikes, whenever it does: nothing is left over, and the next call ends with the same tables."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import soak_engines
from soak import COMMANDS, main, soak

from dpsnn.runner import engines
from dpsnn.runner.engines import ENGINES

COUNT = int(os.environ.get("DPSNN_SOAK", "12"))
"""Signals over all commands."""
KILLS = int(os.environ.get("DPSNN_KILLS", "0"))
"""Strikes over a grid, on each engine; none unless asked for, as each takes the better part of a minute."""


@pytest.mark.slow(minutes=1)
@pytest.mark.parametrize("name", COMMANDS)
def test_signals_at_any_moment(tmp_path: Path, name: str) -> None:
    ends = soak(name, -(-COUNT // len(COMMANDS)), tmp_path, seed=COUNT)
    assert ends["130"] + ends["killed"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_strikes_at_any_moment_over_a_grid(tmp_path: Path, engine: str) -> None:
    if not KILLS:
        pytest.skip("takes several minutes: set DPSNN_KILLS to how many")
    library = ENGINES[engine].library
    if library and find_spec(library) is None:
        pytest.skip(f"needs {library}: ./main.sh install engines")
    assert soak_engines.soak(engine, KILLS, tmp_path, seed=KILLS).total() == KILLS


def test_an_engine_that_is_not_there_is_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["soak.py", "--engine", "ray", "--kills", "3"])
    assert main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("soak: the engine ray needs ray, which is not installed; ")
