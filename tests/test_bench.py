"""`dpsnn bench` runs every benchmark, whatever becomes of the others, and its table says what its JSON says."""

import json
import os
import re
import sys
import time
from collections.abc import Callable
from importlib import metadata
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from scipy.stats import t

from dpsnn.bench import grids, machine
from dpsnn.bench.growth import Growth, draw, power_law
from dpsnn.bench.records import Record, Results
from dpsnn.bench.table import written
from dpsnn.cli import main
from dpsnn.cores import cores
from dpsnn.specs import ClassifierSpec, replace

ROOT = Path(__file__).parent.parent
SPEED = ROOT / "docs" / "speed.md"

BEGIN = """
import argparse, os, pathlib, signal, sys, time
from dpsnn.bench.records import begin
parser = argparse.ArgumentParser()
parser.add_argument("--size", type=int, default=1000)
options, results = begin(parser, quick={"size": 10})
here = pathlib.Path(__file__).parent
with open(here / "runs", "a") as file:
    file.write(pathlib.Path(__file__).stem + " ")
"""

QUICK = """
results.add("sorting | a list", [options.size, 3 * options.size, 2 * options.size], "items/s", "by hand", [2, 1.5, 4])
results.add("memory", 12.3456, "MiB")
results.write()
"""
FAILS = 'print("so far so good")\nraise RuntimeError("out of luck")\n'
LACKING = 'results.not_run("needs the extra made; ./main.sh install made")\n'
SILENT = 'print("nothing to say")\n'
KILLED = "os.kill(os.getpid(), signal.SIGKILL)\n"
GARBLED = 'options.json.write_text("{")\n'
ONCE = """
(here / "pid").write_text(str(os.getpid()))
if not (here / "asked").exists():
    (here / "asked").touch()
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)
results.add("after all", 1.0, "s")
results.write()
"""

Bench = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Run `dpsnn bench` in an empty folder; its exit code, and what it found by the names of the benchmarks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.setattr(machine, "load", lambda: 0.1)

    def run(*words: str) -> tuple[int, dict[str, Any]]:
        code = main(["bench", *words])
        path = tmp_path / "results" / "bench" / "bench.json"
        found = json.loads(path.read_text())["benchmarks"] if path.exists() else []
        return code, {each["name"]: each for each in found}

    return run


def write(**files: str) -> None:
    for name, text in files.items():
        Path("benchmarks", f"{name}.py").write_text(BEGIN + text)


def runs() -> str:
    """The benchmarks that were begun, in order."""
    path = Path("benchmarks/runs")
    return path.read_text().strip() if path.exists() else ""


# ---------------------------------------------------------------- one table


def test_all_run_and_the_table_says_what_the_json_says(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    write(fails=FAILS, garbled=GARBLED, killed=KILLED, lacking=LACKING, quick=QUICK, silent=SILENT)
    code, found = bench()
    out, err = capsys.readouterr()
    assert code == 1 and runs() == "fails garbled killed lacking quick silent"
    assert "4 of 6 failed: fails (RuntimeError: out of luck" in err.splitlines()[-1]
    assert {name: each["status"] for name, each in found.items()} == {
        "fails": "failed", "garbled": "failed", "killed": "failed",
        "lacking": "not run", "quick": "done", "silent": "failed",
    }  # fmt: skip
    text = Path("results/bench/bench.md").read_text(encoding="utf-8")
    assert text in out
    lines = [line for line in text.splitlines() if line.startswith("| ")][1:]
    rows = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert [row[0] for row in rows] == "fails garbled killed lacking quick quick silent".split()
    told = {row[0]: row[1] for row in rows}
    assert told["fails"] == "failed: RuntimeError: out of luck (exit code 1)"
    assert told["killed"] == "failed: ended by SIGKILL, as when memory runs out"
    assert told["lacking"] == "not run: needs the extra made; ./main.sh install made"
    assert told["silent"] == "failed: it handed over no numbers (exit code 0)"
    assert told["garbled"].startswith("failed: ") and "correct the benchmark" in told["garbled"]
    quick = [row[1:] for row in rows if row[0] == "quick"]
    assert quick[0] == [
        "sorting \\| a list", "2,000 items/s", "by hand", "2.00 ×", "1.50 to 4.00", "3"
    ]  # fmt: skip
    assert quick[1] == ["memory", "12.3 MiB", "", "", "", "1"]
    for row, record in zip(quick, found["quick"]["records"], strict=True):
        ends = [record[end] for end in ("low", "high") if record[end] is not None]
        assert row == [
            record["what"].replace("|", "\\|"),
            f"{written(record['value'])} {record['unit']}",
            record["baseline"],
            f"{written(record['ratio'])} ×" if record["ratio"] else "",
            " to ".join(map(written, ends)),
            str(record["runs"]),
        ]


def test_what_works_ends_with_0_and_the_path_and_says_what_it_ran_on(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(quick=QUICK, lacking=LACKING)
    code, found = bench("--quick")
    assert code == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(Path("results/bench/bench.md"))
    assert found["quick"]["records"][0]["value"] == 20
    text = Path("results/bench/bench.md").read_text(encoding="utf-8")
    assert f"{cores()} cores of " in text
    assert f"torch {metadata.version('torch')}" in text
    assert f"opacus {metadata.version('opacus')}" in text
    assert "smoke test" in text and "0.1 cores busy" in text and "Other work" not in text
    monkeypatch.setattr(machine, "load", lambda: 1.5)
    bench("--again")
    text = Path("results/bench/bench.md").read_text(encoding="utf-8")
    assert "smoke test" not in text and "1.5 cores busy. **Other work" in text


# ---------------------------------------------------------------- going on


def test_interrupted_it_leaves_nothing_running_and_goes_on(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    write(first=QUICK, once=ONCE)
    code, found = bench()
    assert (code, found) == (130, {})
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "dpsnn: interrupted; call again to go on with the next benchmark"
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path("benchmarks/pid").read_text()), 0)
    assert sorted(path.name for path in Path("results/bench").glob("*.json")) == ["first.json"]
    code, found = bench()
    assert code == 0 and runs() == "first once once"
    assert found["once"]["records"][0]["what"] == "after all"
    assert not [*Path("results/bench").glob(".*.handed.json")]


def test_what_is_finished_is_not_run_again_unless_it_is_another(bench: Bench) -> None:
    write(fails=FAILS, quick=QUICK)
    for words, ran in (
        ([], "fails quick"),
        ([], "fails quick fails"),
        (["--only", "quick"], "fails quick fails"),
        (["--only", "quick", "--again"], "fails quick fails quick"),
        (["--only", "quick", "--quick"], "fails quick fails quick quick"),
    ):
        bench(*words)
        assert runs() == ran
    write(quick=QUICK + "# another\n")
    code, found = bench("--only", "quick", "--quick")
    assert code == 0 and runs().endswith("quick quick quick")
    # What was found at another size is no row of this table.
    assert found["fails"]["status"] == "not run"
    assert found["fails"]["why"] == "not asked for"


def test_a_benchmark_with_an_extra_runs_in_its_environment(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    write(apart='EXTRA = "made"\n', plain="")
    assert bench("--dry_run", "--quick")[0] == 0
    json_file = Path("results/bench")
    ends = [f"benchmarks/{n}.py --json {json_file / n}.json --quick" for n in ("apart", "plain")]
    assert capsys.readouterr().out.splitlines() == [f"{sys.executable} {end}" for end in ends]
    python = Path(".venv-made/bin/python").absolute()
    python.parent.mkdir(parents=True)
    python.touch()
    bench("--dry_run", "--quick")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{python} {ends[0]}", f"{sys.executable} {ends[1]}"]
    assert runs() == "" and not json_file.exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--only", "quik"], "unknown benchmark 'quik'; choose from ['quick'] (did you mean quick?)"),
        (["--folder", "elsewhere"], "elsewhere holds no benchmarks"),
        (["--out", "benchmarks/quick.py"], "benchmarks/quick.py"),
        ([], "another bench writes into results/bench; wait until it is done"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(
    bench: Bench, capsys: pytest.CaptureFixture[str], words: list[str], part: str
) -> None:
    write(quick=QUICK)
    Path("results/bench").mkdir(parents=True)
    with FileLock("results/bench/.bench.lock"):
        assert bench(*words)[0] == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert part in line and runs() == ""


def test_what_is_busy_is_all_but_idle_and_waiting() -> None:
    before = "cpu  100 10 50 1000 20 1 2 3 99 0\ncpu0 1 2 3\n"
    after = "cpu  150 20 60 1100 40 2 4 30 120 0\ncpu0 9 9 9\n"
    assert machine.busy(before, after, 200) == (50 + 10 + 10 + 1 + 2 + 27) / 200
    assert 0 <= machine.load(0.05) <= cores() + 1


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ({"value": float("nan")}, "value is nan"),
        ({"ratio": float("inf")}, "ratio is inf"),
        ({"low": 1.0}, "two ends"),
        ({"low": 3.0, "high": 4.0}, "2.0 is not from 3.0 to 4.0"),
    ],
)
def test_a_number_that_is_none_is_refused(wrong: dict[str, Any], part: str) -> None:
    with pytest.raises(ValueError, match=part):
        Record(**{"name": "a", "what": "b", "value": 2.0, "unit": "s"} | wrong)


def test_the_median_counts() -> None:
    results = Results("made")
    results.add("all", [1, 5, 2], "s", "none", [4.0, 1.0, 2.0])
    results.add("fit", 1.1, "", interval=(0.9, 1.3), runs=12)
    first, second = results.records
    assert (first.value, first.ratio, first.low, first.high, first.runs) == (2, 2.0, 1.0, 4.0, 3)
    assert (second.ratio, second.low, second.high, second.runs) == (None, 0.9, 1.3, 12)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12345.6, "12,346"),
        (99.95, "100"),
        (12.345, "12.3"),
        (0.01234, "0.0123"),
        (1, "1.00"),
        (None, ""),
    ],
)
def test_numbers_have_three_figures(value: float | None, text: str) -> None:
    assert written(value) == text


def test_a_power_law_is_that_of_numpy() -> None:
    generator = np.random.default_rng(0)
    sizes = np.repeat([1.0, 2, 4, 8], 3)
    seconds = 0.5 * sizes**1.7 * np.exp(0.05 * generator.standard_normal(12))
    law = power_law(Growth([*sizes], [*seconds], "images"))
    (slope, shift), covariance = np.polyfit(np.log(sizes), np.log(seconds), 1, cov=True)
    half = t.ppf(0.975, 10) * covariance[0, 0] ** 0.5
    assert law == pytest.approx((np.exp(shift), slope, slope - half, slope + half))
    assert law.low < 1.7 < law.high and law.at(3) == pytest.approx(0.5 * 3**1.7, rel=0.1)


def test_a_power_law_of_two_points_has_no_interval_and_of_one_is_none() -> None:
    law = power_law(Growth([1, 10], [2.0, 200.0], "images"))
    assert (law.factor, law.exponent) == pytest.approx((2, 2)) and law.interval is None
    assert str(law) == "2.00" and str(law._replace(low=1.5, high=2.5)) == "2.00 (1.50 to 2.50)"
    with pytest.raises(ValueError, match="no power law"):
        power_law(Growth([3, 3], [1.0, 2.0], "images"))


def test_growths_are_drawn_a_panel_each(tmp_path: Path) -> None:
    growth = Growth([1, 2, 4], [1.0, 2.1, 3.9], "images")
    path = draw({"one": growth, "another": growth}, tmp_path / "growth.png")
    with Image.open(path) as picture:
        assert picture.width > 1.5 * picture.height


# ---------------------------------------------------------------- ours


OURS = sorted((ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_every_benchmark_of_ours_hands_over_and_is_named(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for part in ("begin(", "results.add(", "quick=", "results.write()", "__main__"):
        assert part in text
    assert f"python benchmarks/{path.name}" in SPEED.read_text(encoding="utf-8")


def test_the_page_has_the_table_that_was_measured() -> None:
    shown = SPEED.read_text(encoding="utf-8").split("<!-- results/bench/bench.md -->\n")[1]
    path = ROOT / "results" / "bench" / "bench.md"
    if path.exists():
        assert shown.split("<!-- end -->")[0].strip() == path.read_text(encoding="utf-8").strip()


def benchmark(name: str) -> Any:
    spec = spec_from_file_location(f"{name}_benchmark", ROOT / "benchmarks" / f"{name}.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_stacked_members_answer_and_learn_as_each_does() -> None:
    stacking = benchmark("stacking")
    members = [stacking.flat("lenet5") for _ in range(3)]
    together, images = stacking.grouped(members), torch.rand(5, 1, 28, 28)
    scores = together(images)
    assert scores.shape == (3, 5, 10)
    for member, found in zip(members, scores):
        torch.testing.assert_close(found, member(images))
        member(images).square().sum().backward()
    scores.square().sum().backward()
    second = [layer for layer in together if isinstance(layer, torch.nn.Conv2d)][1]
    own = torch.cat([member[4].weight.grad for member in members])
    torch.testing.assert_close(second.weight.grad, own)


@pytest.mark.slow
def test_a_grid_is_timed_until_all_of_it_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    spec = ClassifierSpec(dataset="digits", network="lenet5", max_epochs=1)
    start = time.monotonic()
    took = grids.seconds([spec, replace(spec, seed=1)], jobs=2)
    assert 0 < took < time.monotonic() - start
    assert "2 of 2 ahead" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="1 of 2 classifiers were not trained"):
        grids.seconds([spec, replace(spec, seed=1, learning_rate=1e30)], jobs=2)


def test_the_operations_of_a_training_are_those_of_its_layers() -> None:
    training = benchmark("training")
    data = training.DATASETS["digits"]()
    found = training.operations(data, training.ClassifierSpec(dataset="digits", batch_size=4))
    # Multiplications and additions of convolutions of 3 × 3, at 26 × 26 and 24 × 24 places, and of dense layers.
    first, rest = 26**2 * 32 * 9, 24**2 * 64 * 9 * 32 + 9216 * 500 + 500 * 128 + 128 * 10
    forward = 2 * (first + rest)
    # Both gradients cost as much again each; that of the pictures is not asked for.
    assert found == pytest.approx(forward * 3 - 2 * first + forward * 147 / 800)
