"""`--jobs`: members made at the same time come out as those made one after another."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dpsnn.cli import main
from dpsnn.evaluation import tables
from dpsnn.runner.ahead import missing
from dpsnn.runner.engines.base import threads_of
from dpsnn.runner.experiment import Experiment
from dpsnn.runner.train import Folders
from dpsnn.specs import AttackerSpec, ClassifierSpec

FileMaker = Callable[..., Path]


def test_only_what_is_missing_is_made_classifiers_first(
    tmp_path: Path, classifier_file: FileMaker, attacker_file: FileMaker
) -> None:
    plain, noisy = ClassifierSpec(), ClassifierSpec(noise_scale=1.0)
    adaptive, naive = AttackerSpec(surrogate="digits"), AttackerSpec(surrogate="digits", naive=True)
    group = [Experiment(plain, (adaptive, naive)), Experiment(noisy, (naive,))]
    folders = Folders(models_dir=str(tmp_path))
    first, second = Experiment(plain, ()), Experiment(noisy, ())
    alone = [Experiment(plain, (adaptive,)), Experiment(plain, (naive,))]
    other = [Experiment(noisy, (naive,))]
    assert missing(group, folders) == ([first, second], {first: alone, second: other})
    path = classifier_file(tmp_path)
    assert missing(group, folders) == ([second, *alone], {second: other})
    attacker_file(tmp_path, path)
    assert missing(group, folders) == ([second, alone[1]], {second: other})


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(8), raising=False)
    assert [threads_of(jobs) for jobs in (1, 2, 3, 8, 20)] == [8, 4, 2, 1, 1]


@pytest.mark.parametrize("jobs", ["0", "-2"])
def test_less_than_one_process_is_refused(
    jobs: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["noise", "--jobs", jobs]) == 2
    assert f"jobs is {jobs}; it must be" in capsys.readouterr().err
    assert list(place.iterdir()) == []


def rows(folder: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Both tables, in the order of names."""
    read = (tables.read(table(folder)) for table in (tables.models_table, tables.attackers_table))
    models, attackers = (sorted(t, key=lambda row: (row["Model"], *row.values())) for t in read)
    return models, attackers


@pytest.mark.slow
def test_two_processes_give_the_same_rows_as_one(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # One thread each, as `one_thread` gives this process.
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(2), raising=False)
    short = ["plain", "--dataset", "digits", "--max_epochs", "1", "--precision", "32"]
    for name, more in (("one", []), ("two", ["--jobs", "2"])):
        folders = ["--models_dir", f"{name}/models", "--results_dir", f"{name}/results"]
        assert main([*short, "--seeds", "0", "1", *folders, *more]) == 0
    assert "ahead]" in capsys.readouterr().err
    one, two = rows(Path("one/results")), rows(Path("two/results"))
    assert one == two and len(one[1]) == 4
    assert list(Path("two/results/logs/jobs").glob("*.txt"))


@pytest.mark.slow
def test_what_fails_ahead_is_named_in_the_end(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # All of them diverge, and the judge does not: it has a rate of its own.
    words = ["plain", "--dataset", "digits", "--max_epochs", "1", "--learning_rate", "1e30"]
    assert main([*words, "--jobs", "2"]) == 1
    said = capsys.readouterr().err
    assert "failed for now" in said
    assert said.splitlines()[-1].startswith("dpsnn: ") and "failed: digits_" in said


ENDLESS = """
if __name__ == "__main__":
    from dpsnn.runner.ahead import ahead
    from dpsnn.runner.engines.local import Local
    from dpsnn.runner.experiment import Experiment
    from dpsnn.runner.train import Folders
    from dpsnn.specs import ClassifierSpec
    members = [Experiment(ClassifierSpec(seed=seed, max_epochs=10**6), ()) for seed in range(2)]
    ahead(members, ClassifierSpec(validator=True, max_epochs=1), Folders(), "endless", Local(2))
"""


@pytest.mark.slow
def test_processes_end_with_the_group_that_is_killed(place: Path) -> None:
    Path("endless.py").write_text(ENDLESS, encoding="utf-8")
    group = subprocess.Popen(
        [sys.executable, "endless.py"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        until = time.monotonic() + 120
        while not list(place.glob("results/logs/jobs/*.txt")):
            assert group.poll() is None and time.monotonic() < until
            time.sleep(0.1)
    finally:
        group.kill()
    # They hold the pipe too: it ends with the last of them.
    group.communicate(timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGHUP))
def test_what_pythons_pool_starts_beside_it_outlives_a_signal_to_the_group(
    number: signal.Signals,
) -> None:
    script = f"""
import os, signal, time, warnings
from multiprocessing import resource_tracker
from dpsnn import signals
from dpsnn.runner.engines.local import processes

def main():
    warnings.simplefilter("error")
    signal.signal({int(number)}, lambda *_: None)
    with processes(1) as pool:
        tracker = resource_tracker._resource_tracker._pid
        assert tracker
        os.killpg(0, {int(number)})
        time.sleep(0.2)
        with signals.blocked():
            first = pool.submit(abs, -3)
        assert first.result() == 3
        os.killpg(0, {int(number)})
        time.sleep(0.2)
        assert pool.submit(abs, -4).result() == 4
        resource_tracker.ensure_running()  # warns of a dead one
        assert resource_tracker._resource_tracker._pid == tracker

main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
