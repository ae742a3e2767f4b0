"""Every engine there is makes the same of the same jobs, and loses nothing but time."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import engine_jobs
import pytest
import torch
from unsteady import Unsteady, job

from dpsnn.atomic import _is_alive
from dpsnn.checkpoints import CLASSIFIER, all_in, read
from dpsnn.errors import UsageError
from dpsnn.evaluation import tables
from dpsnn.folders import Folders
from dpsnn.runner.ahead import ahead, work_off
from dpsnn.runner.engines import ENGINES, Where
from dpsnn.runner.engines.base import Outcome
from dpsnn.runner.experiment import Experiment
from dpsnn.runner.run import run
from dpsnn.specs import AttackerSpec, ClassifierSpec

Row = dict[str, str]

LOGS = "results/logs/jobs"


@pytest.fixture(params=ENGINES)
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Where:
    """Two jobs at a time; skipped where the library of the engine is missing."""
    kind = ENGINES[request.param]
    if kind.library and find_spec(kind.library) is None:
        pytest.skip(f"needs {kind.library}: ./main.sh install engines")
    found_here(monkeypatch)
    return Where(engine=request.param, jobs=2, threads=1)


def found_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let other processes find `engine_jobs`."""
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("DPSNN_SAID", "so")


@pytest.mark.slow
def test_every_engine_does_jobs_tells_failures_and_survives_a_killed_process(
    where: Where, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [
        job(engine_jobs.said, "a"),
        job(engine_jobs.wrong, "b"),
        job(engine_jobs.once_killed, "once"),
        job(engine_jobs.always_killed, "always"),
        job(engine_jobs.said, "c"),
    ]
    with where.start(LOGS) as engine:
        handles = {handle: each.name for handle, each in zip(engine.submit(jobs), jobs)}
        ended = {handles[each]: each for _ in jobs for each in engine.wait()}
        while len(ended) < len(jobs):
            ended |= {handles[each]: each for each in engine.wait()}
        said = f"a in {place} with 1 and so"
        assert ended["said a"].result() == Outcome(True, said)
        assert ended["wrong b"].result() == Outcome(False, "wrong: b")
        assert ended["once_killed once"].exception() and ended["always_killed always"].exception()
        assert ended["said c"].result().made
        capsys.readouterr()
        Path("once").unlink()
        work_off({each: set() for each in jobs[2:]}, engine, "group")
    out, err = capsys.readouterr()
    assert out == "", "standard output carries results only"
    told = [line for line in err.splitlines() if line.startswith("[group")]
    assert sum("was lost" in line for line in told) == 2
    assert [line for line in told if "once_killed" in line and " ahead] once_killed" in line]
    assert sum("failed for now: always_killed always: lost" in line for line in told) == 1
    assert Path("always").read_text(encoding="utf-8").count("killed") == 3, "one retry, no more"


@pytest.mark.slow
def test_closing_ends_what_still_runs(where: Where, place: Path) -> None:
    with where.start(LOGS) as engine:
        engine.submit([job(engine_jobs.endless, name) for name in ("one", "two", "three")])
        engine._fill()
        until = time.monotonic() + 120
        while not all(Path(name).exists() and Path(name).stat().st_size for name in ("one", "two")):
            assert time.monotonic() < until
            time.sleep(0.1)
        numbers = [int(Path(name).read_text(encoding="utf-8")) for name in ("one", "two")]
        assert all(map(_is_alive, numbers))
    until = time.monotonic() + 30
    while any(map(_is_alive, numbers)):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert not Path("three").exists()


SMALL = {"max_epochs": 1, "precision": "32"}
GROUP = [
    Experiment(
        ClassifierSpec(noise_scale=noise, **SMALL),
        (AttackerSpec(attack="nearest", precision="32"),),
    )
    for noise in (0.0, 0.5)
]
JUDGE = ClassifierSpec(validator=True, **SMALL)


def rows(name: str) -> tuple[list[Row], list[Row]]:
    """Both tables, in the order of names."""
    results = Path(name) / "results"
    read = (tables.read(table(results)) for table in (tables.models_table, tables.attackers_table))
    models, attackers = (sorted(t, key=lambda row: (row["Model"], *row.values())) for t in read)
    return models, attackers


def folders_of(name: str) -> Folders:
    return Folders(models_dir=f"{name}/models", results_dir=f"{name}/results")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The group, its members made one after another in this process."""
    torch.set_num_threads(1)
    folder = str(tmp_path_factory.mktemp("undisturbed"))
    run(GROUP, JUDGE, folders_of(folder), "group")
    return SimpleNamespace(rows=rows(folder), digests=digests(folder))


def digests(name: str) -> list[str]:
    """Of the weights of all classifiers."""
    return [read(path, CLASSIFIER).digest for path in all_in(folders_of(name).classifiers)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_whatever_an_engine_loses_the_rows_are_the_same(
    seed: int, place: Path, undisturbed: SimpleNamespace
) -> None:
    with Unsteady(2, seed, lost=0.5) as engine:
        ahead(GROUP, JUDGE, folders_of("one"), "group", engine)
    run(GROUP, JUDGE, folders_of("one"), "group")
    assert rows("one") == undisturbed.rows
    assert digests("one") == undisturbed.digests


def strike(logs: Path) -> None:
    """Kill the first process that has begun a job."""
    until = time.monotonic() + 600
    while time.monotonic() < until:
        for path in logs.glob("*.txt"):
            os.kill(int(path.stem.rpartition("-")[2]), signal.SIGKILL)
            return
        time.sleep(0.02)


@pytest.mark.slow
def test_every_engine_makes_the_same_rows_and_a_killed_worker_costs_one_retry(
    where: Where,
    place: Path,
    undisturbed: SimpleNamespace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders = folders_of("one")
    logs = Path(folders.results_dir) / "logs" / "jobs"
    threading.Thread(target=strike, args=(logs,), daemon=True).start()
    with where.start(str(logs)) as engine:
        ahead(GROUP, JUDGE, folders, "group", engine)
    err = capsys.readouterr().err
    assert "[group: 5 of 5 ahead]" in err
    assert err.count(" was lost (") == 1 and "failed for now" not in err
    run(GROUP, JUDGE, folders, "group")
    err = capsys.readouterr().err
    assert "training" not in err and "preparing" not in err, "all of it was made ahead"
    assert rows("one") == undisturbed.rows and len(undisturbed.rows[1]) == 2
    assert digests("one") == undisturbed.digests
    for path in all_in(folders.classifiers):
        assert read(path, CLASSIFIER).record["threads"] == 1


# ---------------------------------------------------------------- SLURM


@pytest.fixture
def submitit_here(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="needs the extra slurm: pip install -e '.[slurm]'")
    found_here(monkeypatch)


def test_what_slurm_does_not_know_is_refused(place: Path, submitit_here: None) -> None:
    where = Where(engine="submitit", slurm=["partitoin=gpu"])
    with where.start(LOGS) as engine, pytest.raises(UsageError, match="partitoin.*--slurm"):
        engine.submit([job(engine_jobs.said)])


@pytest.mark.slow
def test_a_job_that_is_preempted_is_called_again(
    place: Path, submitit_here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with Where(engine="submitit").start(LOGS) as engine:
        (handle,) = engine.submit([job(engine_jobs.preempted, "mark")])
        assert engine.wait() == [handle]
    assert handle.result() == Outcome(True, "called again")
    assert list(Path(LOGS).iterdir()) == [], "files of the engine's own go when all went well"


SLURM = {
    # A number, then every task of the array, as SLURM would start them on its machines.
    "sbatch": """
        echo "$1" >>"$0.log"
        tasks=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
        for task in $(seq 0 "$tasks"); do
            SLURM_JOB_ID=$((72 + task)) SLURM_ARRAY_JOB_ID=71 SLURM_ARRAY_TASK_ID=$task SLURM_NTASKS=1 \\
                SLURM_JOB_NODELIST=here SLURM_JOB_NUM_NODES=1 bash "$1" >/dev/null 2>&1 &
        done
        echo Submitted batch job 71
    """,
    "srun": """
        while [[ $1 == --* ]]; do case $1 in --output | --error) shift 2 ;; *) shift ;; esac; done
        exec "$@"
    """,
    "sacct": "echo 'JobID|State|NodeList'",
    "scancel": 'echo "$@" >>"$0.log"',
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A SLURM of four lines that runs everything at once, here."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in SLURM.items():
        path = folder / name
        path.write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    yield folder


@pytest.mark.slow
def test_what_is_ready_at_once_is_one_array_of_slurm(
    place: Path, submitit_here: None, slurm: Path
) -> None:
    where = Where(engine="submitit", jobs=2, slurm=["partition=small", "time=7"])
    jobs = [job(engine_jobs.on_slurm, text) for text in "ab"]
    with where.start(LOGS) as engine:
        assert not engine.here and engine.threads == 1, "not a share of this machine's cores"
        handles = engine.submit(jobs)
        ended: list[Future[Outcome]] = []
        while len(ended) < 2:
            ended += engine.wait()
        (script,) = (slurm / "sbatch.log").read_text(encoding="utf-8").split()
        text = Path(script).read_text(encoding="utf-8")
    assert [handle.result().said for handle in handles] == ["71_0", "71_1"]
    for line in ("array=0-1%2", "partition=small", "time=7", "cpus-per-task=1", "job-name=dpsnn"):
        assert f"#SBATCH --{line}\n" in text
    assert not (slurm / "scancel.log").exists()


# ---------------------------------------------------------------- Ray


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, said",
    [
        ({"gpus_per_job": 64.0}, "no machine of Ray's has 1 cores and 64 GPUs for a job"),
        ({"ray_address": "nonsense"}, "no Ray nonsense ("),
    ],
)
def test_what_ray_cannot_give_is_said_at_once(
    options: dict[str, object], said: str, place: Path
) -> None:
    pytest.importorskip("ray", reason="needs the extra ray: pip install -e '.[ray]'")
    where = Where(engine="ray", threads=1, **options)  # type: ignore[arg-type]
    with where.start(LOGS) as engine, pytest.raises(UsageError) as refused:
        engine.submit([job(engine_jobs.said)])
    assert said in str(refused.value)
