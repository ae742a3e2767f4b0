"""Groups: what the paper trained, the commands they print, and the demo from end to end."""

import csv
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpsnn import checkpoints
from dpsnn.checkpoints import attacker_name, classifier_name
from dpsnn.cli import main
from dpsnn.data import DATASETS, ImageDataModule
from dpsnn.errors import UsageError
from dpsnn.runner import run
from dpsnn.runner.experiment import Experiment
from dpsnn.runner.run import merge
from dpsnn.runner.train import Folders
from dpsnn.specs import AttackerSpec, ClassifierSpec
from dpsnn.studies.titcombe import commands
from dpsnn.studies.titcombe.groups import GROUPS


@pytest.mark.parametrize(
    ("group", "count"),
    [("plain", 1), ("noise", 6), ("nopeek", 5), ("combo", 12), ("all", 24), ("headline", 5)],
)
def test_groups_hold_the_published_classifiers(group: str, count: int) -> None:
    experiments = merge(GROUPS[group](ClassifierSpec(dataset="mnist"), AttackerSpec()))
    assert len(experiments) == count
    assert len({classifier_name(e.classifier) for e in experiments}) == count, "names differ"
    for experiment in experiments:
        kinds = {(a.attack, a.naive) for a in experiment.attackers}
        assert kinds >= {("decoder", False), ("ridge", False)}
        # Without noise there is nothing to ignore; of the plain model that is told apart from noise set later.
        noiseless = [a for a in experiment.attackers if a.model_noise is None]
        if experiment.classifier.nopeek_weight and not experiment.classifier.noise_scale:
            assert not any(a.naive for a in noiseless)
        named = [
            replace(a, model="m", surrogate=a.surrogate or "mnist") for a in experiment.attackers
        ]
        assert len({attacker_name(a) for a in named}) == len(named), "names differ"


def test_published_settings_are_in_their_groups() -> None:
    def settings(group: str) -> set[tuple[float, float]]:
        experiments = GROUPS[group](ClassifierSpec(), AttackerSpec())
        return {(e.classifier.noise_scale, e.classifier.nopeek_weight) for e in experiments}

    assert settings("plain") == {(0, 0)}
    assert settings("noise") == {(s, 0) for s in (0.1, 0.2, 0.5, 1, 2, 5)}
    assert settings("nopeek") == {(0, w) for w in (0.05, 0.1, 0.25, 0.5, 1)}
    assert settings("combo") == {(s, w) for s in (0.1, 0.2, 0.5, 1) for w in (0.1, 0.25, 0.5)}


def test_groups_beyond_the_paper_attack_it_further() -> None:
    def attackers(group: str) -> list[AttackerSpec]:
        (experiment,) = merge(GROUPS[group](ClassifierSpec(dataset="mnist"), AttackerSpec()))
        return list(experiment.attackers)

    assert {(a.model_noise, a.naive, a.attack) for a in attackers("post_noise")} == {
        *((scale, naive, "decoder") for scale in (0.1, 0.5, 1, 2, 5) for naive in (False, True)),
        (None, True, "decoder"),
        *((scale, False, "mixture") for scale in (1, 2, 5)),
    }
    assert [a.data_pct for a in attackers("volume")] == [2, 5, 10, 25, 50, 75, 100]
    assert [a.surrogate for a in attackers("shift")] == ["emnist", "omniglot28"]
    assert {(a.queries, a.naive) for a in attackers("queries")} == {
        (count, naive) for count in (1, 4, 16, 64) for naive in (False, True)
    }
    everything = merge(GROUPS["all"](ClassifierSpec(dataset="mnist"), AttackerSpec()))
    counted = Counter((a.attack, a.naive) for e in everything for a in e.attackers)
    assert counted == {
        ("decoder", False): 24 + 5 + 5 + 6 + 2 + 3,
        ("decoder", True): 6 + 1 + 6 + 3,
        ("ridge", False): 24,
        ("refiner", False): 5,
        ("mixture", False): 3 + 1 + 3,
        ("ensemble", False): 2,
    }, "what groups share counts once"


def test_the_headline_has_every_attacker_that_pays() -> None:
    tried = {
        (e.classifier.noise_scale, e.classifier.nopeek_weight): [
            a.attack for a in e.attackers if not a.naive
        ]
        for e in GROUPS["headline"](ClassifierSpec(), AttackerSpec())
    }
    without = ["decoder", "ridge", "refiner"]
    assert tried == {
        (0, 0): without,
        (0.5, 0): without,
        (1, 0): [*without, "mixture", "ensemble"],
        (0, 0.5): without,
        (1, 0.5): [*without, "mixture", "ensemble"],
    }


def test_the_headline_tells_whether_longer_training_pays() -> None:
    for experiment in GROUPS["headline"](ClassifierSpec(), AttackerSpec()):
        for each in experiment.attackers:
            adapts = each.attack in ("decoder", "refiner") and not each.naive
            assert getattr(each.method, "doublings", 0) == int(adapts)


@pytest.mark.slow
def test_a_failed_member_stops_no_other_and_is_named(
    place: Path, quick: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = run.train_classifier

    def fail_with_noise(spec: ClassifierSpec, *rest: Any) -> Path:
        if spec.noise_scale:
            raise RuntimeError("out of memory")
        return train(spec, *rest)

    monkeypatch.setattr(run, "train_classifier", fail_with_noise)
    experiments = [
        Experiment(ClassifierSpec(max_epochs=1, noise_scale=scale), (AttackerSpec(max_epochs=1),))
        for scale in (0.5, 0.0)
    ]

    def failing(base: ClassifierSpec, attacker: AttackerSpec) -> list[Experiment]:
        """One that fails and one that does not."""
        return experiments

    monkeypatch.setitem(GROUPS, "plain", failing)
    assert main(["plain", "--max_epochs", "1"]) == 1
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("dpsnn: 2 of 5 failed: digits_05noise_00nopeek_1epochs (out of memory)")
    with open("results/quantitative_measures/attack_performances.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["Model"] == "digits_00noise_00nopeek_1epochs_epoch=00"


def test_surrogates_out_of_reach_are_left_out_of_all_and_said(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(self: ImageDataModule) -> None:
        raise UsageError("cannot reach it")

    monkeypatch.setattr(DATASETS["emnist"], "setup", gone)
    base, attacker = ClassifierSpec(), AttackerSpec()
    attackers = (attacker, replace(attacker, surrogate="emnist"))
    (left,) = run.reachable([Experiment(base, attackers)], Folders())
    assert left.attackers == (attacker,)
    assert "emnist: cannot reach it" in capsys.readouterr().err


def test_seeds_repeat_a_group(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plain", "--seeds", "0", "3", "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 * 3 + 2
    assert [line.count("--seed 3") for line in lines] == [0] * 4 + [1] * 3 + [0] * 2


def test_dry_run_prints_commands_that_the_scripts_accept(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["noise", "--dataset", "digits", "--max-epochs", "2", "--seed", "3", "--dry-run"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert not list(place.iterdir()), "a dry run writes nothing"
    assert len(lines) == 1 + 6 + 18 + 3 + 2
    scripts = [Path(shlex.split(line)[1]).stem for line in lines]
    assert scripts[0] == "train_model" and scripts[-2:] == ["evaluate_models", "evaluate_attackers"]
    for line in lines:
        _, script, *options = shlex.split(line)
        # The parser of that command takes every option; the bad value then stops it before any work.
        assert main([Path(script).stem, *options, "--no_such_option"]) == 2
        assert "no_such_option" in capsys.readouterr().err
    assert (
        "--noise_scale 0.1" in lines[1] and "--max_epochs 2" in lines[1] and "--seed 3" in lines[1]
    )
    assert "--max_epochs 2" in lines[2], "a limit given for a group holds for its attackers too"


def test_scripts_are_doors_to_the_same_commands() -> None:
    root = Path(__file__).parent.parent
    scripts = sorted((root / "scripts").glob("*.py"))
    assert len(scripts) == 6
    for script in scripts:
        lines = script.read_text().splitlines()
        assert len(lines) < 30 and lines[-1].strip() == f'script("{script.stem}")'
    shown = subprocess.run(
        [sys.executable, scripts[0], "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert f"dpsnn {scripts[0].stem}" in shown


def check_demo(folder: Path, out: str) -> list[dict[str, str]]:
    assert out.splitlines()[-1] == str(folder / "demo.csv")
    with open(folder / "demo.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["Defence"] for row in rows] == [
        "none (plain)",
        "noise 1.0",
        "NoPeek 0.5",
        "noise 1.0 + NoPeek 0.5",
        "floor: no information",
        "ceiling: the true image",
    ]
    assert all(row["Defence"] in out for row in rows)
    assert [row["Epsilon"] for row in rows[:4]] == ["inf", "1000", "inf", "1000"]
    assert (folder / "demo.png").read_bytes().startswith(b"\x89PNG")
    return rows


@pytest.mark.slow(minutes=3)
def test_the_demo_shows_what_it_says_and_again_without_training(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo"]) == 0
    first = capsys.readouterr()
    plain, noise, nopeek, both, floor, ceiling = check_demo(Path("results/demo"), first.out)
    assert "training classifier" in first.err
    for row in (plain, noise, nopeek, both):
        assert float(row["TestAcc"]) > 90
        assert float(row["MSE"]) < 0.6 * float(floor["MSE"]), "no defence here stops the attacker"
    assert float(plain["SSIM"]) > 0.8 > float(floor["SSIM"])
    assert float(plain["ValAccuracy"]) > 90
    assert float(noise["MSE"]) > 1.3 * float(plain["MSE"])
    assert main(["demo"]) == 0
    again = capsys.readouterr()
    assert again.out == first.out and "training" not in again.err and "evaluating" not in again.err


@pytest.mark.slow
def test_a_naive_attacker_is_trained_once_whatever_the_noise(
    place: Path,
    quick: None,
    classifier_file: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Set after training, or averaged over several transmissions: it never asks for it."""
    target = classifier_file(place / "models", noise_scale=0.5)
    words = (
        "train_attacker --max_epochs 1 --learning_rate 0.003 --data_pct 20 --precision 32".split()
    )
    words += ["--model", target.stem]
    made, epochs = [], []
    for option in (
        [],
        ["--naive"],
        ["--naive", "--model_noise", "2"],
        ["--naive", "--queries", "4"],
    ):
        assert main([*words, *option]) == 0
        out, err = capsys.readouterr()
        made.append(checkpoints.read(Path(out.strip()), "attacker"))
        epochs.append(err.count("epoch 1/1"))
    assert epochs == [1, 1, 0, 0]
    adaptive, naive, *others = (each.digest for each in made)
    assert adaptive != naive and others == [naive, naive]


@pytest.mark.slow
def test_without_noise_the_naive_linear_map_is_the_adaptive_one(
    place: Path, classifier_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for scale, same in ((0.0, True), (0.5, False)):
        target = classifier_file(place / "models", noise_scale=scale)
        words = ["train_attacker", "--attack", "ridge", "--data_pct", "20", "--model", target.stem]
        made, prepared = [], []
        for option in ([], ["--naive"]):
            assert main([*words, *option]) == 0
            out, err = capsys.readouterr()
            made.append(checkpoints.read(Path(out.strip()), "attacker"))
            prepared.append(err.count("preparing attacker"))
        assert (made[0].digest == made[1].digest) == same and prepared == [1, int(not same)]
        assert made[1].arguments["naive"] is True


@pytest.mark.parametrize("group", ["headline", "all"])
def test_the_strongest_are_chosen_before_they_are_shown(
    group: str, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    order: list[str] = []

    def step(name: str) -> None:
        def noted(*given: Any) -> list[Path]:
            order.append(name)
            return []

        monkeypatch.setattr(commands, name, noted)

    for name in ("write_summaries", "draw", "write_texts", "headline"):
        step(name)
    monkeypatch.setattr(commands.run, "run", lambda *_: [])
    assert main([group]) == 0
    shown = ["draw", "write_texts"] if group == "all" else ["headline"]
    assert order == ["write_summaries", *shown]
