"""Studies are found: one in a new folder or a plug-in is a command, has figures and a part of the ledger."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from invented import write_tables

import dpsnn.studies
from dpsnn import parts, registry, source
from dpsnn.cli import main
from dpsnn.runner.study import named, studies

DROPPED = """
\'\'\'Nothing is trained (arXiv 1234.56789).\'\'\'

from pathlib import Path

from matplotlib.figure import Figure

from dpsnn.runner.study import Command, Study


def experiments():
    \'\'\'Nothing that was there before.

    And more of it.
    \'\'\'


def run(options):
    print("done" * options.times)


def section(dataset, results_dir, mark, **_):
    return f"nothing{mark}"


def texts(folders, dataset):
    path = Path(folders.results_dir) / "dropped.md"
    path.write_text("a text")
    return [path]


FIGURES = {"dropped": lambda results: Figure()}

STUDY = Study(
    commands=(
        Command(
            name="dropped",
            action=f"{__name__}:run",
            heading="studies of others",
            experiments=f"{__name__}:experiments",
            options=lambda parser: parser.add_argument("--times", type=int, default=2),
        ),
    ),
    figures=f"{__name__}:FIGURES",
    texts=f"{__name__}:texts",
    title="On {dataset}",
    ledger=f"{__name__}:section",
    ledger_options=lambda parser: parser.add_argument("--mark", default="!"),
)
"""


@pytest.fixture
def dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Writes a plug-in with a study, and forgets it in the end."""
    monkeypatch.setenv(registry.PLUGINS, "")

    def write(text: str = DROPPED) -> str:
        (tmp_path / "mine.py").write_text(text)
        return f"--plugin={tmp_path / 'mine.py'}"

    yield write
    registry.forget()
    source._parsed.cache_clear()
    sys.modules.pop("dpsnn_plugin_mine", None)


def test_the_folders_in_order() -> None:
    names = ["titcombe", "omniglot", "suppress", "faces", "secure", "federated"]
    folders = Path(dpsnn.studies.__path__[0]).iterdir()
    assert sorted(names) == sorted(f.name for f in folders if (f / "__init__.py").is_file())
    assert [each.key for each in parts.declared("study")] == names
    assert studies() == [named(f"dpsnn.studies.{name}:STUDY") for name in names]


def test_what_studies_name_is_there() -> None:
    for study in studies():
        for name in (study.figures, study.texts, study.ledger):
            assert not name or named(name)


def test_a_plugged_in_study_is_a_command(
    dropped: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = dropped()
    assert main(["--help", plugin]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "nothing that was there before" in lines[lines.index("studies of others:") + 1]
    assert main(["dropped", "--times", "3", plugin]) == 0
    assert capsys.readouterr().out == "donedonedone\n"
    assert main(["dropped", "--time", "3", plugin]) == 2
    assert "--times" in capsys.readouterr().err
    assert main(["parts", plugin]) == 0
    listed = " ".join(capsys.readouterr().out.split())
    assert "mine Nothing is trained (arXiv 1234.56789). (plug-in mine.py)" in listed


def test_without_its_file_there_is_no_such_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(registry.PLUGINS, "")
    assert main(["dropped"]) == 2
    assert "invalid choice: 'dropped'" in capsys.readouterr().err


def test_a_plugged_in_study_has_figures_texts_and_a_part_of_the_ledger(
    dropped: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = write_tables(tmp_path, 0, group="plain")
    places = ["--dataset", "digits", "--results_dir", folders.results_dir, dropped()]
    assert main(["figures", *places]) == 0
    written = capsys.readouterr().out.splitlines()
    assert {"dropped.md", "dropped_digits.png"} <= {Path(line).name for line in written}
    output = tmp_path / "ledger.md"
    assert main(["ledger", *places, "--output", str(output), "--mark", "?"]) == 0
    assert output.read_text(encoding="utf-8").endswith("\n\n## On digits\n\nnothing?\n")


def test_a_study_that_cannot_be_read_takes_none_with_it(
    dropped: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = dropped(f"import of_nothing\n{DROPPED}")
    assert main(["plain", "--dry_run", plugin]) == 0
    assert capsys.readouterr().err == (
        "dpsnn: left out: the study mine cannot be used here: No module named 'of_nothing'; install what it needs\n"
    )


def test_two_commands_of_one_name_are_refused(
    dropped: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = dropped(DROPPED.replace('name="dropped"', 'name="plain"'))
    assert main(["plain", "--dry_run", plugin]) == 2
    assert "two studies bring a command plain; rename one" in capsys.readouterr().err
