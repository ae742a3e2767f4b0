"""The README and the pages of docs/: their numbers are those of results/, their examples run, their commands exist."""

import re
import shlex
from pathlib import Path

import pytest

from dpsnn.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("page", "name"),
    [("README.md", "headline_mnist.md"), ("docs/paper.md", "questions_mnist.md")],
)
def test_the_tables_are_those_that_the_commands_wrote(page: str, name: str) -> None:
    shown = text(ROOT / page).split(f"<!-- results/{name} -->\n")[1].split("<!-- end -->")[0]
    assert shown.strip() == text(ROOT / "results" / name).strip()


def test_the_first_page_is_read_in_three_minutes() -> None:
    assert len(text(ROOT / "README.md").splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text(page)):
        assert (page.parent / target).exists(), target


def test_every_page_is_reached() -> None:
    """From the README, and on the site from its index."""
    index = text(ROOT / "docs" / "index.md")
    for page in PAGES[1:]:
        if page.stem != "index":
            assert re.search(rf"^{re.escape(page.stem)}$", index, re.M), page.name
            assert page.stem == "api" or f"(docs/{page.name})" in text(ROOT / "README.md")


def commands() -> list[tuple[str, str]]:
    shape = r"^(?:python scripts/(\w+)\.py|\./main\.sh (?!test|docs|install)(\w+))(.*)$"
    found = [match for page in PAGES for match in re.findall(shape, text(page), re.M)]
    return [(script or group, rest) for script, group, rest in found]


def test_its_commands_are_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(commands()) > 8
    for name, rest in commands():
        words = shlex.split(rest.split("#")[0])
        # The last option is unknown: everything before it was understood, and nothing is run.
        assert main([name, *words, "--no_such_option"]) == 2
        assert capsys.readouterr().err.count("no_such_option") == 1


@pytest.mark.slow
def test_its_example_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", text(ROOT / "docs" / "audit.md"), re.S)
    exec(compile(example, "audit.md", "exec"), {})
    verdict = capsys.readouterr().out.splitlines()[-1]
    # Its model is not trained: how much leaks depends on the weights that it starts with.
    assert re.match(r"1 leaks( in part)?: the strongest attack", verdict), verdict
