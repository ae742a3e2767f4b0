"""Engines only map jobs to places: what is refused, what waits for what, and what becomes of what they lose."""

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import engine_jobs
import pytest
from unsteady import Unsteady, job

from dpsnn import registry
from dpsnn.cli import main
from dpsnn.errors import UsageError
from dpsnn.folders import Folders
from dpsnn.names import classifier_name
from dpsnn.runner import engines
from dpsnn.runner.ahead import _planned, urgencies, work_off
from dpsnn.runner.engines import ENGINES, OWN, Where
from dpsnn.runner.engines.base import Job, Outcome, packed, perform
from dpsnn.runner.engines.submitit import parameters
from dpsnn.runner.experiment import Experiment
from dpsnn.specs import AttackerSpec, ClassifierSpec, replace


@pytest.mark.parametrize(
    "options, said",
    [
        ({"jobs": 0}, "jobs is 0; it must be a whole number, 1 or greater"),
        ({"engine": "rays"}, "unknown engine 'rays'; choose from ['local', 'ray', 'submitit']"),
        ({"threads": 0}, "threads is 0; it must be a whole number from 1"),
        ({"gpus_per_job": -0.5, "engine": "ray"}, "gpus_per_job is -0.5; it must be a finite"),
        ({"gpus_per_job": 1.5, "engine": "ray"}, "gpus_per_job is 1.5; it must be a share of one"),
        ({"gpus_per_job": 0.5}, "gpus_per_job says nothing about the engine local; leave it out"),
        ({"ray_address": "auto", "engine": "submitit"}, "or add --engine ray"),
        ({"slurm": ["time=3"], "engine": "ray"}, "or add --engine submitit"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        Where(**options)  # type: ignore[arg-type]
    assert said in str(refused.value)


@pytest.mark.parametrize("engine, extra", [("submitit", "slurm"), ("ray", "ray")])
def test_an_engine_whose_library_is_missing_names_the_extra(
    engine: str,
    extra: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    assert main(["noise", "--engine", engine]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"needs {ENGINES[engine].library}, which is not installed" in line
    assert f"pip install -e '.[{extra}]'" in line
    assert list(place.iterdir()) == []


def test_parameters_are_called_as_submitit_calls_them() -> None:
    given = ["partition=gpu", "time=60", "gpus-per-node=1", "--mem=8GB", "array_parallelism=3"]
    assert parameters(given) == {
        "slurm_partition": "gpu",
        "timeout_min": 60,
        "gpus_per_node": 1,
        "slurm_mem": "8GB",
        "slurm_array_parallelism": 3,
    }


@pytest.mark.parametrize("text", ["partition", "=gpu", "time=", "time=1:00", "Time=60"])
def test_a_parameter_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="slurm has"):
        parameters([text])


def test_every_option_of_an_engine_is_an_option_of_groups() -> None:
    fields = {*vars(Where())}
    assert OWN.keys() <= fields and {*OWN.values()} < ENGINES.keys()


def test_jobs_start_as_places_get_free_and_wait_for_what_they_need(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DPSNN_SAID", "so")
    first, second, third = (job(engine_jobs.said, text) for text in "abc")
    bad = job(engine_jobs.wrong, "d")
    last, never = job(engine_jobs.said, "e"), job(engine_jobs.said, "f")
    waiting = {first: set(), bad: set(), second: set(), third: {first}}
    waiting |= {last: {first, second}, never: {second, bad}}
    with Unsteady(2) as engine:
        work_off(waiting, engine, "all")
    assert engine.closed == 1
    assert len(engine.batches[0]) == 2 == max(map(len, engine.batches))
    started = [name for batch in engine.batches for name in batch]
    assert started.index("said c") > started.index("said a")
    assert sorted(started) == ["said a", "said b", "said c", "said e", "wrong d"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5 and waiting == {never: {bad}}
    assert any("of 6 ahead] failed for now: wrong d: wrong: d" in line for line in lines)


@pytest.mark.parametrize("lost, tries", [(0.0, 1), (1.0, 2)])
def test_what_is_lost_is_tried_once_more_and_not_again(
    lost: float, tries: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DPSNN_SAID", "so")
    with Unsteady(3, lost=lost) as engine:
        work_off({job(engine_jobs.said, "a"): set()}, engine, "all")
    assert engine.batches == [["said a"]] * tries
    err = capsys.readouterr().err
    assert err.count("was lost (gone") == tries - 1
    assert ("failed for now: said a: lost: gone" in err) == (tries == 2)


def test_an_engine_that_forgets_everything_does_not_keep_a_group_waiting() -> None:
    with Unsteady(2, silent=True) as engine:
        work_off({job(engine_jobs.said, text): set() for text in "abc"}, engine, "all")


def test_what_an_engine_cannot_start_is_lost_and_what_it_refuses_is_said() -> None:
    class Deaf(Unsteady):
        error: Exception = OSError("no answer")

        def _start(self, jobs: Sequence[Job]) -> list[Future[Outcome]]:
            raise self.error

    engine = Deaf(2)
    handles = engine.submit([job(engine_jobs.said, text) for text in "abc"])
    assert engine.wait()[:2] == handles[:2] and engine.wait()[:1] == handles[2:]
    assert all("no answer" in str(handle.exception()) for handle in handles)
    assert not Unsteady.wait(engine)
    engine.error = UsageError("no such partition")
    engine.submit([job(engine_jobs.said)])
    with pytest.raises(UsageError, match="no such partition"):
        engine.wait()


def test_an_exit_that_a_training_passes_on_as_an_interruption_is_an_exit_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def told(text: str) -> str:
        raise KeyboardInterrupt from SystemExit(int(text))

    monkeypatch.setattr(engine_jobs, "told", told, raising=False)
    told.__module__, told.__qualname__ = "engine_jobs", "told"
    with pytest.raises(SystemExit) as stop:
        perform(Unsteady(1).place, packed(job(told, "144")))
    assert stop.value.code == 144


PLUGIN = '''
from dataclasses import dataclass

from dpsnn.defences import Defence
from dpsnn.parts import option


@dataclass(frozen=True, kw_only=True)
class Coarse(Defence):
    """Does nothing yet."""

    key = "coarse"
    step: float = option(0.0, "distance; 0 is none")
'''


def test_a_job_elsewhere_knows_the_plugin_before_it_reads_what_was_packed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("coarse.py").write_text(PLUGIN, encoding="utf-8")
    monkeypatch.setenv(registry.PLUGINS, "")
    registry.use("coarse.py")
    work = packed(Job("name", classifier_name, (ClassifierSpec(coarse_step=0.25),)))
    where = Unsteady(1).place
    assert where.environment[registry.PLUGINS] == str(place / "coarse.py")
    # As in a process that has only just begun.
    monkeypatch.setenv(registry.PLUGINS, "")
    registry.forget()
    del sys.modules["dpsnn_plugin_coarse"]
    assert perform(where, work) == Outcome(True, "digits_00noise_00nopeek_025coarse")


def test_help_asks_no_engine_for_its_library() -> None:
    script = (
        "import sys; from dpsnn.cli import main; code = main(['plain', '--help']);"
        " print(*sorted({'torch', 'ray', 'submitit'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "\n"
    (section,) = (part for part in done.stdout.split("\n\n") if part.startswith("where it runs:"))
    for option in vars(Where()):
        assert f"--{option} " in section


class Clocked(Unsteady):
    """Takes as long over each job as its effort says, by its own clock, and loses once those that it is to lose."""

    def __init__(self, jobs: int, lost: Sequence[str] = ()) -> None:
        super().__init__(jobs)
        self.now, self.to_lose = 0.0, [*lost]
        self.ends: dict[Future[Outcome], tuple[float, Job]] = {}

    def _start(self, jobs: Sequence[Job]) -> list[Future[Outcome]]:
        started = super()._start(jobs)
        self.ends |= {each: (self.now + one.effort, one) for each, one in zip(started, jobs)}
        return started

    def _until_one_ends(self) -> list[Future[Outcome]]:
        first = min(self.ends, key=lambda each: self.ends[each][0])
        self.now, ended = self.ends.pop(first)
        if ended.name in self.to_lose:
            self.to_lose.remove(ended.name)
            first.set_exception(OSError("killed"))
        else:
            first.set_result(Outcome(True, ended.name))
        return [first]

    @property
    def begun(self) -> list[str]:
        return [name for batch in self.batches for name in batch]


def lasting(name: str, effort: float = 1.0) -> Job:
    return Job(name, engine_jobs.said, (name,), effort)


@pytest.mark.parametrize("places, begun", [(1, "abbcd"), (2, "abcbd")])
def test_what_is_lost_comes_before_all_that_waits(places: int, begun: str) -> None:
    jobs = {name: lasting(name) for name in "abcd"}
    with Clocked(places, lost="b") as engine:
        work_off({each: set() for each in jobs.values()}, engine, "all")
    assert "".join(engine.begun) == begun


def test_what_has_the_longest_chain_behind_it_is_begun_first() -> None:
    """On two places in the time that their sum allows; in the order in which they come it would take 11."""
    short = [lasting(name) for name in "abcdef"]
    first, last = lasting("first", 1.0), lasting("last", 7.0)
    waiting: dict[Job, set[Job]] = {each: set() for each in [*short, first]}
    waiting[last] = {first}
    assert urgencies(waiting) == {**{each: 1.0 for each in short}, first: 8.0, last: 7.0}
    with Clocked(2) as engine:
        work_off(waiting, engine, "all")
    assert engine.begun[:2] == ["first", "a"] and engine.now == 8.0
    alike = [lasting(name) for name in "edcba"]
    with Clocked(1) as engine:
        work_off({each: set() for each in alike}, engine, "all")
    assert "".join(engine.begun) == "edcba"


def test_an_attack_that_doubles_its_epochs_is_begun_before_others(tmp_path: Path) -> None:
    classifier, plain = ClassifierSpec(), AttackerSpec()
    doubled = [replace(plain, doublings=2), AttackerSpec(attack="refiner", refiner_doublings=1)]
    jobs = _planned(
        [Experiment(classifier, (plain, *doubled))],
        ClassifierSpec(validator=True),
        Folders(models_dir=str(tmp_path)),
        "all",
    )
    assert [each.effort for each in jobs] == [1, 1, 1, 7, 3]
    assert [*urgencies(jobs).values()] == [8, 8, 1, 7, 3]
