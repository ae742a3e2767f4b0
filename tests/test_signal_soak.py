"""Whenever a signal comes: no traceback, nothing left over, and the next call ends with the same tables."""

import os
from pathlib import Path

import pytest
from soak import COMMANDS, soak

COUNT = int(os.environ.get("DPSNN_SOAK", "12"))
"""Signals over all commands."""


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_signals_at_any_moment(tmp_path: Path, name: str) -> None:
    ends = soak(name, -(-COUNT // len(COMMANDS)), tmp_path, seed=COUNT)
    assert ends["130"] + ends["killed"] > 0
