"""docs/walks.md from end to end: its files are written, and its commands run one after another, on the real data."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dpsnn.audit.plan import BUDGETS, NEAREST, RIDGE, Planned
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


def hasten(monkeypatch: pytest.MonkeyPatch, own: int, victims: int, epochs: int = 1) -> None:
    """Give every budget these pictures and the cheapest attacks, one that is trained among them."""
    brief = {"max_epochs": epochs, "learning_rate": 1e-3, "augment": "none"}
    attacks = (RIDGE, NEAREST, Planned("decoder", "learned decoder", brief, asks=False))
    for name, budget in BUDGETS.items():
        given = replace(budget, own=own, victims=victims, attacks=attacks)
        monkeypatch.setitem(BUDGETS, name, given)


def boxes(page: str, language: str) -> list[str]:
    """What stands in the boxes of a page."""
    text = (PAGE.parent / page).read_text("utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.S | re.M)
    return [body for of, body in found if of == language]


@pytest.mark.slow
def test_what_is_said_first_runs_as_it_stands(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a ResNet-18 of one's own, whose code is the page's; by the cheapest attacks, once over few small pictures."""
    hasten(monkeypatch, own=60, victims=40)
    code = next(box for box in boxes("audit.md", "") if "make()" in box)
    Path("net.py").write_text(code)
    made: dict[str, Any] = {}
    exec(code, made)
    torch.manual_seed(0)
    torch.save(made["make"]().state_dict(), "net.pt")
    noise = np.random.default_rng(0)
    for at in range(100):
        folder = Path("photos", f"class{at % 2}")
        folder.mkdir(parents=True, exist_ok=True)
        spots = Image.fromarray(noise.integers(0, 255, (4, 4, 3), dtype=np.uint8))
        spots.resize((16, 16)).save(folder / f"{at}.png")
    pages = ("audit.md", "../README.md")
    lines, first = (
        [
            line.partition("#")[0].strip()
            for line in "".join(boxes(page, "bash")).splitlines()
            if re.match(r"./main.sh (audit|report|calibrate) ", line)
        ]
        for page in pages
    )
    assert [line.split()[1] for line in lines] == ["audit", "report", "calibrate", "report"]
    assert all(line.startswith(same) for line, same in zip(lines, first)) and len(first) == 3
    for line in lines:
        # A limit that does not hold is no mistake of who named it.
        assert run(line) in ((0, 3) if "--fail" in line else (0,)), line
    result = AuditResult.load("audit/audit.json")
    assert len(result.cuts) > 5 and result.curve and Path("audit/report.html").is_file()
    assert {row["status"] for cut in result.cuts for row in cut["attacks"]} == {"ok"}


@pytest.mark.slow(minutes=2)
@pytest.mark.parametrize("name", ["mnist", "xray", "resnet"])
def test_a_walk_leads_where_it_says(
    name: str, mirror: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.environ.get("DPSNN_WALKS") == "all"
    if not whole and name == "resnet":
        hasten(monkeypatch, own=600, victims=200, epochs=5)
    elif not whole:
        # By every attack that a reader gets.
        monkeypatch.setitem(BUDGETS, "quick", replace(BUDGETS["quick"], own=1000, victims=300))
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
