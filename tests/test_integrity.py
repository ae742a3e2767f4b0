"""`dpsnn verify` names every damage made by hand and nothing else; `dpsnn clean` takes what it has named."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dpsnn import checkpoints, manifest, sealed
from dpsnn.atomic import _HOST
from dpsnn.checkpoints import ATTACKER, CLASSIFIER
from dpsnn.cli import main
from dpsnn.evaluation import tables, victims
from dpsnn.evaluation.report import plt, save_figure
from dpsnn.integrity.folders import pairs
from dpsnn.integrity.leftovers import changed_scores, torn_scores

ROOT = Path(__file__).resolve().parents[1]
MODELS = tables.models_table("results")
ATTACKS = tables.attackers_table("results")
FIGURE = Path("results/figures/leakage.png")
TEXT = Path("results/headline.md")
LIST, MODEL_LIST = Path("results") / manifest.NAME, Path("models") / manifest.NAME

FileMaker = Callable[..., Path]
Whole = tuple[Path, Path]
"""A classifier and its attacker."""


def add_classifier(path: Path) -> None:
    digest = checkpoints.read(path, CLASSIFIER).digest
    row = {"Model": path.stem, "TestAcc": 99.25, "Digest": digest}
    tables.upsert(MODELS, [row], tables.CLASSIFIER_KEY)


SCORES = 0.015 + 0.001 * torch.arange(-4.0, 5.0)
"""Squared errors of nine victims."""


def rescored(attacker: str) -> None:
    (row,) = tables.read(ATTACKS)
    victims.save("results", attacker, victims.mark(row), {"mse": 0 * SCORES})


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, classifier_file: FileMaker, attacker_file: FileMaker
) -> tuple[Path, Whole]:
    """Folders as commands leave them: a classifier and its attacker, their rows, scores of victims, figure, text."""
    folder = tmp_path_factory.mktemp("whole")
    with contextlib.chdir(folder):
        target = classifier_file(Path("models"), dataset="digits")
        attacker = attacker_file(Path("models"), target)
        add_classifier(target)
        row = {"Model": target.stem, "Attacker": attacker.stem, "MSE": 0.015}
        row["Digest"] = checkpoints.read(attacker, ATTACKER).digest
        tables.upsert(ATTACKS, [row], tables.ATTACKER_KEY)
        victims.save("results", attacker.stem, victims.mark(row), {"mse": SCORES})
        save_figure(plt.figure(figsize=(1, 1)), FIGURE)
        tables.write_text(TEXT, "| a |\n")
    return folder, (target, attacker)


@pytest.fixture
def whole(place: Path, made: tuple[Path, Whole]) -> Whole:
    """A copy of them."""
    folder, files = made
    shutil.copytree(folder, place, dirs_exist_ok=True)
    return files


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str], str]:
    """Exit code, lines of standard output, and standard error."""
    capsys.readouterr()
    code = main(list(words or ["verify"]))
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


def everything() -> dict[Path, bytes]:
    """All files but locks."""
    found = (path for path in Path().rglob("*") if path.is_file() and path.suffix != ".lock")
    return {path: path.read_bytes() for path in found}


# ---------------------------------------------------------------- healthy


def test_nothing_is_wrong_where_nothing_is(
    whole: Whole, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything()
    assert said(capsys) == (0, [], "6 files are as they were written\n")
    assert everything() == before


def test_rows_of_a_checkout_without_models_are_no_findings(
    whole: Whole, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("models")
    assert said(capsys)[:2] == (0, [])


def test_the_committed_results_are_as_they_were_written(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If not: `dpsnn verify`, and once everything is right `dpsnn verify --accept` beside the results."""
    Path("models").mkdir()
    assert said(capsys, "verify", "--results_dir", str(ROOT / "results"))[:2] == (0, [])


def test_the_lists_of_the_committed_results_name_no_file_that_git_does_not_have() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("needs the repository")
    done = subprocess.run(["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True)
    for root in (Path("results"), Path("results/published")):
        names = {f"{root}/{name}" for name in manifest.read(ROOT / root).digests}
        assert names <= {*done.stdout.splitlines()}


def test_other_tools_read_the_lists(whole: Whole) -> None:
    if not shutil.which("sha256sum"):
        pytest.skip("needs coreutils")
    check = ["sha256sum", "--check", "--strict", "--quiet", manifest.NAME]
    for root in ("models", "results"):
        assert subprocess.run(check, cwd=root).returncode == 0
    flip(whole[0])
    assert subprocess.run(check, cwd="models", capture_output=True).returncode == 1


def test_a_folder_within_is_looked_at_too(
    whole: Whole, capsys: pytest.CaptureFixture[str], classifier_file: FileMaker
) -> None:
    """As that of the group `published`, whose lists are its own."""
    inner = classifier_file(Path("models/published"), dataset="digits", noise_scale=1.0)
    table = tables.models_table("results/published")
    tables.upsert(table, [{"Model": inner.stem, "Digest": ""}], tables.CLASSIFIER_KEY)
    assert said(capsys)[:2] == (0, [])
    assert [*manifest.read(Path("results/published")).digests] == [
        "quantitative_measures/model_performances.csv"
    ]
    inner.unlink()
    code, lines, _ = said(capsys)
    assert code == 1 and lines == [f"{inner}: {MISSING}, bring it back, or dpsnn verify --accept"]


# ---------------------------------------------------------------- damage


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def again(path: Path) -> None:
    """The last line once more."""
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")


def retrained(target: Path) -> None:
    """A sound checkpoint of the same name and other weights, in the way in which it would be saved."""
    stored = checkpoints.read(target, CLASSIFIER)
    manifest.removed(target)
    weights = {name: tensor + 1 for name, tensor in stored.weights.items()}
    checkpoints.save(target, CLASSIFIER, stored.arguments, stored.record, weights)


def finished_progress(target: Path) -> Path:
    stored = checkpoints.read(target, CLASSIFIER)
    name = target.stem.rsplit("_epoch=", 1)[0]
    path = checkpoints.progress_path(target.parent, name, stored.arguments)
    path.parent.mkdir(exist_ok=True)
    sealed.write(path, {"epoch": 1})
    return path


def half_a_file(folder: Path) -> Path:
    """What a process leaves that is killed while it writes."""
    process = subprocess.Popen(["true"])
    process.wait()
    path = folder / f".x.{_HOST}-{process.pid}.tmp"
    path.write_text("half")
    return path


def torn_progress(target: Path) -> None:
    cut(finished_progress(target).rename(target.parent / ".progress" / "other_12345678.ckpt"))


def rows_of_nobody() -> None:
    row = {"Model": "nobody_epoch=01", "TestAcc": 1.0, "Digest": "00"}
    tables.upsert(MODELS, [row], tables.CLASSIFIER_KEY)


def written_onto() -> None:
    """Others change a cell; later dpsnn adds a row."""
    edit(ATTACKS, "0.015", "0.095")
    row = {"Model": "", "Attacker": "", "MSE": 0.5, "Digest": ""}
    tables.upsert(ATTACKS, [row], tables.ATTACKER_KEY)


def table_lost() -> None:
    """Others remove a table; later dpsnn adds a row to what is a new one."""
    ATTACKS.unlink()
    row = {"Model": "", "Attacker": "", "MSE": 0.5, "Digest": ""}
    tables.upsert(ATTACKS, [row], tables.ATTACKER_KEY)


def unlisted_and_written_onto() -> None:
    """Others change a cell and take the table off the list; later dpsnn adds a row."""
    listed = LIST.read_text().splitlines(True)
    LIST.write_text("".join(line for line in listed if ATTACKS.name not in line))
    written_onto()


def added(path: Path) -> Path:
    path.write_text("a\n1\n")
    return path


CHANGED, MISSING = "was changed since it was written", "is missing; make it anew"
DAMAGES: dict[str, tuple[Callable[[Path, Path], object], list[str]]] = {
    "a checkpoint deleted": (lambda t, a: t.unlink(), [f"{{t}}: {MISSING}"]),
    "an attacker deleted": (lambda t, a: a.unlink(), [f"{{a}}: {MISSING}"]),
    "a byte of a checkpoint": (lambda t, a: flip(t), ["{t}: is damaged"]),
    "half a checkpoint": (lambda t, a: cut(t), ["{t}: is damaged"]),
    "a checkpoint replaced": (lambda t, a: shutil.copy(a, t), ["{t}: is not a dpsnn classifier"]),
    "a checkpoint renamed": (
        lambda t, a: t.rename(t.with_name("digits_10noise_00nopeek_epoch=00.ckpt")),
        [f"{{t}}: {MISSING}", "10noise_00nopeek_epoch=00.ckpt: holds the classifier digits_00noise"],
    ),
    "another training of a classifier": (
        lambda t, a: retrained(t),
        ["{a}: attacked another", f"{MODELS}: has rows of {{t.stem}} with other weights than {{t}}"],
    ),
    "the classifier of an attacker": (
        lambda t, a: manifest.removed(t),
        [
            "{a}: attacks {t.stem}, which is not here",
            f"{MODELS}: has rows of 1 models that are not in models/classifiers: {{t.stem}};",
        ],
    ),
    "a cell": (lambda t, a: edit(ATTACKS, "0.015", "0.095"), [f"{ATTACKS}: {CHANGED}"]),
    "a cell, and then a row": (lambda t, a: written_onto(), [f"{ATTACKS}: had been changed or removed by others"]),
    "a cell of a table off the list, and then a row": (
        lambda t, a: unlisted_and_written_onto(),
        [f"{ATTACKS}: had been changed or removed by others"],
    ),
    "a table, and then a row": (
        lambda t, a: table_lost(),
        [f"{ATTACKS}: had been changed or removed by others", ".npz: is of an attacker without a row"],
    ),
    "a row deleted": (
        lambda t, a: MODELS.write_text(MODELS.read_text().splitlines()[0] + "\n"),
        [f"{MODELS}: {CHANGED}"],
    ),
    "a row of no checkpoint": (
        lambda t, a: rows_of_nobody(),
        [f"{MODELS}: has rows of 1 models that are not in models/classifiers: nobody_epoch=01;"],
    ),
    "a row twice": (lambda t, a: again(MODELS), [f"{MODELS}: {CHANGED}", f"{MODELS}: has 2 rows of {{t.stem}}"]),
    "half a table": (
        lambda t, a: ATTACKS.write_text(ATTACKS.read_text().rsplit(",", 1)[0]),
        [f"{ATTACKS}: has rows of unequal length"],
    ),
    "another heading": (
        lambda t, a: edit(MODELS, "Model,", "Modle,"),
        [f"{MODELS}: is not a table with columns Model"],
    ),
    "a table deleted": (lambda t, a: MODELS.unlink(), [f"{MODELS}: {MISSING}"]),
    "another table deleted": (lambda t, a: ATTACKS.unlink(), [f"{ATTACKS}: {MISSING}"]),
    "a table of others": (lambda t, a: added(MODELS.with_name("mine.csv")), ["mine.csv: is not listed"]),
    "a figure deleted": (lambda t, a: FIGURE.unlink(), [f"{FIGURE}: {MISSING}"]),
    "a figure changed": (lambda t, a: flip(FIGURE), [f"{FIGURE}: {CHANGED}"]),
    "a text changed": (lambda t, a: TEXT.write_text("| b |\n"), [f"{TEXT}: {CHANGED}"]),
    "half a file": (
        lambda t, a: half_a_file(MODELS.parent),
        [".tmp: was left by a process that is gone; dpsnn clean"],
    ),
    "progress of a finished training": (
        lambda t, a: finished_progress(t),
        [".ckpt: is the progress of a training that is finished; dpsnn clean"],
    ),
    "damaged progress": (
        lambda t, a: torn_progress(t),
        ["other_12345678.ckpt: is the progress of a training, and damaged"],
    ),
    "scores of victims": (lambda t, a: flip(Path(f"results/victims/{a.stem}.npz")), [".npz: is damaged"]),
    "other scores of victims": (
        lambda t, a: rescored(a.stem),
        [".npz: has another mean than its row; evaluate its attacker with --all"],
    ),
    "a cell that is no number, and no list": (
        lambda t, a: (edit(ATTACKS, "0.015", "n/a"), LIST.unlink()),
        [f"{ATTACKS}: row 1, column MSE has 'n/a', no number; delete", "is missing, hence nobody"],
    ),
    "scores of nobody": (
        lambda t, a: tables.drop(ATTACKS, "Attacker", [a.stem]),
        [".npz: is of an attacker without a row"],
    ),
    "the list deleted": (
        lambda t, a: LIST.unlink(),
        [f"{LIST}: is missing, hence nobody can tell what became of 4 files"],
    ),
    "a line of the list": (
        lambda t, a: edit(LIST, "  figures/", " figures/"),
        [f"{LIST}: line 1 is no digest and name"],
    ),
    "a line of the list twice": (
        lambda t, a: again(MODEL_LIST),
        [f"{MODEL_LIST}: line 3 names classifiers/{{t.name}} twice"],
    ),
    "a line of the list deleted": (
        lambda t, a: LIST.write_text("".join(LIST.read_text().splitlines(True)[1:])),
        [f"{FIGURE}: is not listed"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_named_and_nothing_else(
    whole: Whole, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    damage, expected = DAMAGES[name]
    target, attacker = whole
    damage(target, attacker)
    before = everything()
    code, lines, err = said(capsys)
    assert code == 1 and len(lines) == len(expected), lines
    for wanted in expected:
        words = wanted.format(t=target, a=attacker)
        assert sum(words in line and "; " in line for line in lines) == 1, (words, lines)
    count = f"{len(lines)} finding{'s' if len(lines) > 1 else ''}"
    assert err == f"dpsnn: {count}; nothing was changed\n"
    assert everything() == before


def test_many_files_of_which_the_same_is_to_be_said_are_told_in_one_line(
    whole: Whole, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(7):
        added(MODELS.with_name(f"t{number}.csv"))
    _, (line,), _ = said(capsys)
    assert "7 files of which each is not listed" in line
    assert "t0.csv, t1.csv, t2.csv and 4 more; move it away" in line


def test_a_file_that_may_not_be_read_is_named(
    whole: Whole, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(manifest, "digest_of", refuse)
    code, lines, _ = said(capsys)
    assert code == 1 and f"{FIGURE}: cannot be read (Permission denied); change" in "\n".join(lines)


def test_scores_that_are_damaged_anywhere_are_told_and_taken_for_none(
    whole: Whole, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(f"results/victims/{whole[1].stem}.npz")
    (row,) = tables.read(ATTACKS, tables.ATTACKER_KEY)
    sound = path.read_bytes()
    assert victims.load("results", whole[1].stem, victims.mark(row))
    (pair,) = pairs(Path("models"), Path("results"))
    flags = sound.rindex(b"PK\1\2") + 8  # of which the first bit says that a file is encrypted
    for place, bits in [*((each, 0xFF) for each in range(0, len(sound), 3)), (flags, 1)]:
        path.write_bytes(sound[:place] + bytes([sound[place] ^ bits]) + sound[place + 1 :])
        victims.load("results", whole[1].stem, victims.mark(row))
        found = [*torn_scores(pair), *changed_scores(pair)]
        assert all(finding.where == path for finding in found), place


def test_a_folder_in_the_place_of_a_file_is_named(
    whole: Whole, capsys: pytest.CaptureFixture[str]
) -> None:
    FIGURE.unlink()
    FIGURE.mkdir()
    code, lines, _ = said(capsys)
    assert code == 1 and f"{FIGURE}: is a folder; move it away, and make the file anew" in lines


def test_a_folder_that_is_not_there_is_bad_input(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys)[0] == 2
    Path("models").mkdir()
    assert said(capsys)[0] == 0
    code, _, err = said(capsys, "verify", "--results_dir", "reslts")
    assert code == 2 and "there is no folder reslts; correct --results_dir" in err


# ---------------------------------------------------------------- the lists


def test_what_is_right_can_be_accepted(whole: Whole, capsys: pytest.CaptureFixture[str]) -> None:
    flip(FIGURE)
    edit(LIST, "  quantitative", " quantitative")
    written_onto()
    Path(f"results/victims/{whole[1].stem}.npz").unlink()  # they say what the row said
    assert said(capsys, "verify", "--accept", str(FIGURE))[0] == 1
    code, lines, _ = said(capsys)
    assert code == 1 and not any(str(FIGURE) in line for line in lines)
    counts = [f"{MODEL_LIST}: 2 files", f"{LIST}: 4 files"]
    assert said(capsys, "verify", "--accept")[:2] == (0, counts)
    assert said(capsys)[:2] == (0, [])
    FIGURE.unlink()
    assert said(capsys, "verify", "--accept", str(FIGURE))[:2] == (0, [])
    assert "figures/leakage.png" not in LIST.read_text()
    code, _, err = said(capsys, "verify", "--accept", "elsewhere/figures/x.png")
    assert code == 2 and "is no checkpoint, table or figure in models or results" in err


def test_models_that_are_kept_elsewhere_can_be_accepted(
    whole: Whole, capsys: pytest.CaptureFixture[str], classifier_file: FileMaker
) -> None:
    """And are missed no sooner than they have been here."""
    target, attacker = whole
    away = classifier_file(Path("elsewhere"), dataset="digits", noise_scale=1.0)
    add_classifier(away)
    _, (line,), _ = said(capsys)
    assert away.stem in line and line.endswith("dpsnn verify --accept if they are kept elsewhere")
    assert said(capsys, "verify", "--accept")[0] == 0
    assert said(capsys)[:2] == (0, [])
    assert f"# away {manifest.GONE}  classifiers/{away.name}" in MODEL_LIST.read_text()
    here = classifier_file(Path("models"), dataset="digits", noise_scale=1.0)
    assert "away" not in MODEL_LIST.read_text()
    here.unlink()
    assert said(capsys)[1] == [f"{here}: {MISSING}, bring it back, or dpsnn verify --accept"]
    # What was here and is gone for good is elsewhere from now on.
    assert said(capsys, "verify", "--accept")[0] == 0 and said(capsys)[:2] == (0, [])


@pytest.mark.parametrize("after", [False, True])
def test_who_is_killed_between_two_steps_raises_no_alarm(
    whole: Whole, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    """Before the figure is replaced, or after it and before that is settled."""

    class Killed(BaseException):
        pass

    replace = os.replace

    def die(source: Path, target: Path) -> None:
        if after or Path(target).name != FIGURE.name:
            replace(source, target)
        if Path(target).name == FIGURE.name:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("dpsnn.atomic.os.replace", die)
        with pytest.raises(Killed), manifest.staged(FIGURE) as temporary:
            temporary.write_bytes(b"new")
    assert (FIGURE.read_bytes() == b"new") == after
    assert "# becoming" in LIST.read_text()
    assert said(capsys)[:2] == (0, [])
    flip(FIGURE)
    assert said(capsys)[0] == 1
    with manifest.staged(FIGURE) as temporary:
        temporary.write_bytes(b"newer")
    assert "#" not in LIST.read_text() and said(capsys)[:2] == (0, [])


WRITES = """
import sys
from pathlib import Path
from dpsnn import manifest
for number in range(40):
    for name in (f"{sys.argv[1]}{number}", "both"):
        with manifest.staged(Path(f"models/classifiers/{name}.ckpt")) as temporary:
            temporary.write_text(f"{sys.argv[1]} {number}")
"""


def test_two_processes_write_one_list(place: Path) -> None:
    Path("models/classifiers").mkdir(parents=True)
    writers = [subprocess.Popen([sys.executable, "-c", WRITES, letter]) for letter in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    listed = manifest.read(Path("models"))
    assert len(listed.digests) == 81 and not listed.becoming and not listed.garbled
    for name, digest in listed.digests.items():
        assert manifest.digest_of(Path("models") / name) == digest


def test_work_is_not_lost_where_no_list_can_be_kept(
    place: Path, capsys: pytest.CaptureFixture[str], classifier_file: FileMaker
) -> None:
    """As where a folder of models lies in one that cannot be written."""
    MODEL_LIST.mkdir(parents=True)
    path = classifier_file(Path("models"), dataset="digits")
    assert checkpoints.read(path, CLASSIFIER).stem == path.stem
    assert "cannot be kept" in capsys.readouterr().err


def test_nothing_is_listed_elsewhere(tmp_path: Path) -> None:
    """A figure that somebody saves where he likes, and the progress of a training."""
    save_figure(plt.figure(figsize=(1, 1)), tmp_path / "figures" / "a.png")
    sealed.write(tmp_path / "figures" / "a.ckpt", {})
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == ["a.ckpt", "a.png"]
    for name in (".progress/a.ckpt", ".a.ckpt", "a.txt"):
        assert manifest.home(tmp_path / "classifiers" / name) is None
    assert manifest.home(tmp_path / "classifiers" / "a.ckpt") == tmp_path


# ---------------------------------------------------------------- clean


def test_clean_removes_what_it_has_named(whole: Whole, capsys: pytest.CaptureFixture[str]) -> None:
    left = [half_a_file(MODELS.parent), half_a_file(Path("models")), finished_progress(whole[0])]
    unfinished = left[2].with_name("unfinished_12345678.ckpt")
    sealed.write(unfinished, {"epoch": 1})
    before = everything()
    for words in (["clean"], ["clean", "--dry_run"], ["clean", "--dry_run", "--yes"]):
        code, lines, err = said(capsys, *words)
        assert code == 0 and "nothing was removed" in err
        assert {Path(line.split(": ")[0]) for line in lines} == {*left}
        assert everything() == before
    code, named, err = said(capsys, "clean", "--yes")
    assert (code, named, err) == (0, lines, "removed 3 files\n")
    assert {*before} - {*everything()} == {*left}
    assert said(capsys, "clean", "--yes")[1:] == ([], "nothing was removed\n")
    assert said(capsys)[:2] == (0, [])


@pytest.mark.parametrize("answer, removed", [("y\n", True), ("n\n", False), ("", False)])
def test_clean_asks_at_a_terminal(
    whole: Whole,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    removed: bool,
) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return answer

    left = half_a_file(MODELS.parent)
    monkeypatch.setattr("sys.stdin", Terminal())
    assert "remove 1 files? [y/N]" in said(capsys, "clean")[2]
    assert left.exists() != removed


def test_clean_takes_orphans_where_that_is_asked_for(
    whole: Whole, capsys: pytest.CaptureFixture[str]
) -> None:
    target, attacker = whole
    manifest.removed(target)
    tables.drop(MODELS, "Model", [target.stem])
    tables.drop(ATTACKS, "Attacker", [attacker.stem])
    assert said(capsys, "clean", "--yes")[1] == []
    scores = Path(f"results/victims/{attacker.stem}.npz")
    assert attacker.exists() and scores.exists()
    code, lines, _ = said(capsys, "clean", "--orphans", "--yes")
    assert code == 0 and len(lines) == 2 and not attacker.exists() and not scores.exists()
    assert said(capsys)[:2] == (0, [])


def test_what_another_process_has_replaced_since_it_was_named_stays(
    whole: Whole, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torn_progress(whole[0])
    path = whole[0].parent / ".progress" / "other_12345678.ckpt"

    def agreed(count: int) -> bool:
        sealed.write(path, {"epoch": 1})
        return True

    monkeypatch.setattr("dpsnn.integrity.commands._agreed", agreed)
    assert "kept 1 that changed meanwhile" in said(capsys, "clean")[2]
    assert path.exists()
