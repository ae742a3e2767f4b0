"""docs/walks.md from end to end: its files are written, and its commands run one after another, on the real data."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dpsnn.audit.result import AuditResult
from dpsnn.cli import main
from dpsnn.cores import cores

PAGE = Path(__file__).resolve().parents[1] / "docs" / "walks.md"
FILES = {
    "xray": ("PneumoniaMNIST/pneumoniamnist_part.npz", "pneumoniamnist.npz"),
    "resnet": ("CIFAR10/cifar10_jpeg_part.zip", "cifar10"),
}
"""Walk → what it needs of the mirror, and where it looks for it."""


def walk(audit: str) -> tuple[str, list[str]]:
    """The code of the section that ends in an audit in this folder, and its commands."""
    (section,) = (
        each
        for each in re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.M)[1:]
        if f"--out {audit}" in each
    )
    code = "".join(re.findall(r"```python\n(.*?)```", section, re.S))
    boxes = re.findall(r"```bash\n(.*?)```", section, re.S)
    return code, [line for box in boxes for line in box.splitlines()]


def run(line: str) -> int:
    program, *words = shlex.split(line)
    if program == "./main.sh":
        return main(words)
    assert program == "python"
    # As a reader would: by all cores, though a test has one.
    threads = {"OMP_NUM_THREADS": str(cores())}
    return subprocess.run(
        [sys.executable, *words], env=os.environ | threads, timeout=600
    ).returncode


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "xray", "resnet"])
def test_a_walk_leads_where_it_says(name: str, mirror: Path, place: Path) -> None:
    if name == "resnet" and os.environ.get("DPSNN_WALKS") != "all":
        pytest.skip("takes a quarter of an hour: set DPSNN_WALKS=all")
    code, commands = walk(f"audit-{name}")
    if code:
        Path(re.findall(r"^# (\S+)", code)[0]).write_text(code)
    source, target = FILES.get(name, ("", ""))
    if source.endswith(".zip"):
        with zipfile.ZipFile(mirror / source) as archive:
            archive.extractall(target)
    elif source:
        shutil.copy(mirror / source, target)
    for line in commands:
        assert run(line) == 0, line
    result = AuditResult.load(f"audit-{name}/audit.json")
    assert Path(f"audit-{name}/report.html").is_file()
    for cut in result.cuts:
        states = {row["attack"]: row["status"] for row in cut["attacks"]}
        # A descent for each victim may cost more than is paid for, which is said; who learns is never left out.
        assert states["decoder"] == "ok" and "failed" not in states.values(), states
        assert cut["verdict"]["level"] != "unknown"
        # The networks have learnt something, or nothing would be shown of accuracy beside leakage.
        assert cut["accuracy"]["low"] > cut["accuracy"]["floor"]
