"""Thousands of damaged files: no traceback, no hang, no flood of memory, and nothing damaged taken for sound."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import fuzz
import pytest
from conftest import REAL_DATA


def test_the_loaders_take_thousands() -> None:
    assert sum(loader.count for loader in fuzz.LOADERS.values()) >= 3000


@pytest.mark.slow
@pytest.mark.parametrize("name", fuzz.LOADERS)
def test_damaged_files_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    if name == "keys" and importlib.util.find_spec("cryptography") is None:
        pytest.skip("needs the extra `secure`")
    if name in fuzz.REAL and not REAL_DATA:
        pytest.skip("needs the real data sets: set DPSNN_DATA_MIRROR")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DPSNN_DATA_MIRROR": REAL_DATA}
    # A process of its own, whose memory is its own.
    done = subprocess.run(
        [sys.executable, str(Path(fuzz.__file__)), name, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["mutations"] == fuzz.LOADERS[name].count
    assert told["faults"] == []
    assert told["GiB"] < 2
