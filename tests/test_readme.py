"""The README: its numbers are those of results/, its example runs, its commands exist."""

import re
import shlex
from pathlib import Path

import pytest

from dpsnn.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["headline_mnist.md", "questions_mnist.md"])
def test_the_tables_are_those_that_the_commands_wrote(name: str) -> None:
    shown = README.split(f"<!-- results/{name} -->\n")[1].split("<!-- end -->")[0]
    written = (ROOT / "results" / name).read_text(encoding="utf-8")
    assert shown.strip() == written.strip()


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_its_commands_are_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    commands = re.findall(
        r"^(?:python scripts/(\w+)\.py|\./main\.sh (?!test)(\w+))(.*)$", README, re.M
    )
    assert len(commands) > 8
    for script, group, rest in commands:
        words = shlex.split(rest.split("#")[0])
        # The last option is unknown: everything before it was understood, and nothing is run.
        assert main([script or group, *words, "--no_such_option"]) == 2
        assert capsys.readouterr().err.count("no_such_option") == 1


@pytest.mark.slow
def test_its_example_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    exec(compile(example.replace("max_epochs=5", "max_epochs=1"), "README.md", "exec"), {})
    lines = [line for line in capsys.readouterr().out.splitlines() if "MSEFloor" in line]
    assert [line.split()[0] for line in lines] == ["0.0", "0.5", "2.0"]
