"""Studies are found by walking a folder: one dropped there is a command, has figures and a part of the ledger."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from invented import write_tables

import dpsnn.studies
from dpsnn.cli import main, make_parser
from dpsnn.runner.study import named, studies

FOUND = """
from dpsnn.runner.study import Command, Study

STUDY = Study(
    commands=(
        Command(
            name="dropped",
            action="dpsnn.studies.dropped.study:run",
            heading="studies of others",
            experiments="dpsnn.studies.dropped.study:experiments",
            options=lambda parser: parser.add_argument("--times", type=int, default=2),
        ),
    ),
    figures="dpsnn.studies.dropped.study:FIGURES",
    texts="dpsnn.studies.dropped.study:texts",
    ledger="dpsnn.studies.dropped.study:part",
    title="On {dataset}",
    ledger_options=lambda parser: parser.add_argument("--mark", default="!"),
)
"""

STUDY = """
from pathlib import Path

from matplotlib.figure import Figure


def experiments():
    \"\"\"Nothing that was there before.

    And more of it.
    \"\"\"


def run(options):
    print("done" * options.times)


def part(dataset, results_dir, mark, **_):
    return f"nothing{mark}"


def texts(folders, dataset):
    path = Path(folders.results_dir) / "dropped.md"
    path.write_text("a text")
    return [path]


FIGURES = {"dropped": lambda results: Figure()}
"""


@pytest.fixture
def dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a study that is no part of the package, walked like it."""
    folder = tmp_path / "more" / "dropped"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(FOUND)
    (folder / "study.py").write_text(STUDY)
    monkeypatch.setattr(dpsnn.studies, "__path__", [*dpsnn.studies.__path__, str(folder.parent)])
    yield folder
    for name in [name for name in sys.modules if name.startswith("dpsnn.studies.dropped")]:
        del sys.modules[name]


def test_the_folders_in_order() -> None:
    names = ["titcombe", "omniglot", "suppress", "faces", "secure", "federated"]
    folders = Path(dpsnn.studies.__path__[0]).iterdir()
    assert sorted(names) == sorted(f.name for f in folders if (f / "__init__.py").is_file())
    assert studies() == [named(f"dpsnn.studies.{name}:STUDY") for name in names]


def test_what_studies_name_is_there() -> None:
    for study in studies():
        for name in (study.figures, study.texts, study.ledger):
            assert not name or named(name)


def test_a_dropped_study_is_a_command(dropped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    epilog = make_parser().epilog
    assert epilog is not None
    lines = epilog.splitlines()
    assert "nothing that was there before" in lines[lines.index("studies of others:") + 1]
    assert main(["dropped", "--times", "3"]) == 0
    assert capsys.readouterr().out == "donedonedone\n"
    assert main(["dropped", "--time", "3"]) == 2
    assert "--times" in capsys.readouterr().err


def test_a_dropped_study_has_figures_texts_and_a_part_of_the_ledger(
    dropped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = write_tables(tmp_path, 0, group="plain")
    places = ["--dataset", "digits", "--results_dir", folders.results_dir]
    assert main(["figures", *places]) == 0
    written = capsys.readouterr().out.splitlines()
    assert {"dropped.md", "dropped_digits.png"} <= {Path(line).name for line in written}
    output = tmp_path / "ledger.md"
    assert main(["ledger", *places, "--output", str(output), "--mark", "?"]) == 0
    assert output.read_text(encoding="utf-8").endswith("\n\n## On digits\n\nnothing?\n")


def test_a_study_that_cannot_be_read_takes_none_with_it(
    dropped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (dropped / "__init__.py").write_text("import of_nothing")
    assert len(studies()) == len(studies()) == 6
    assert capsys.readouterr().err == (
        "dpsnn: left out: the study dropped: No module named 'of_nothing'\n"
    )


def test_two_commands_of_one_name_are_refused(
    dropped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (dropped / "__init__.py").write_text(FOUND.replace('name="dropped"', 'name="plain"'))
    assert main(["plain", "--dry_run"]) == 2
    assert "two studies bring a command plain; rename one" in capsys.readouterr().err
