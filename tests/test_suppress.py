"""The group `suppress`: its experiments, its own table, and the whole in small on digits."""

from dataclasses import replace
from pathlib import Path

import pytest

from dpsnn import checkpoints
from dpsnn.checkpoints import attacker_name, classifier_name
from dpsnn.cli import main
from dpsnn.evaluation import tables
from dpsnn.networks.lenet5 import CUTS
from dpsnn.runner.figures import figure_path
from dpsnn.runner.train import Folders
from dpsnn.specs import AttackerSpec, ClassifierSpec
from dpsnn.studies.suppress import study
from dpsnn.studies.suppress.figures import FIGURES
from dpsnn.studies.suppress.ledger import section
from dpsnn.studies.suppress.study import (
    MEASURES,
    PUBLISHED,
    SPARSITIES,
    suppress_experiments,
    suppress_row,
    suppress_table,
)


def test_every_network_is_attacked_at_every_cut_in_three_ways() -> None:
    experiments = suppress_experiments(ClassifierSpec(dataset="mnist"), AttackerSpec())
    lenet, control, (judge,), titcombe = (
        experiments[start:end] for start, end in ((0, 5), (5, 7), (7, 8), (8, 10))
    )
    assert [e.classifier.suppress_sparsity for e in lenet] == [0, 0.5, 0.8, 0.9, 0.95]
    assert [e.classifier.suppress_sparsity for e in titcombe] == [0, 0.95]
    assert {e.classifier.network for e in [*lenet, *control]} == {"lenet5"}
    assert {e.classifier.sgd_momentum for e in [*lenet, *control]} == {0.0}, "as published"
    assert [e.classifier.suppress_sparsity for e in control] == [0, 0.95]
    assert {(e.classifier.learning_rate, e.classifier.constant_rate) for e in control} == {
        (0.1, True)
    }
    assert not any(e.classifier.constant_rate for e in [*lenet, *titcombe])
    assert [
        e.classifier.part("suppress").reached(e.classifier) for e in (lenet[-1], control[-1])
    ] == [7, 10]
    assert {e.classifier.network for e in titcombe} == {"titcombe"}
    assert judge.classifier == replace(control[0].classifier, seed=1000) and not judge.attackers
    assert len({classifier_name(e.classifier) for e in experiments}) == 10, "names differ"
    for experiment in [*lenet, *control, *titcombe]:
        kinds = [(a.cut, a.attack) for a in experiment.attackers]
        cuts = CUTS if experiment in lenet else ["fc1"] if experiment in control else [""]
        three = [(c, a) for c in cuts for a in ("sign", "inversion", "decoder")]
        fourth = (
            [] if experiment in control else [("" if experiment in titcombe else "fc1", "refiner")]
        )
        assert kinds == three + fourth
        names = {attacker_name(a) for a in experiment.attackers}
        assert len(names) == len(kinds), "names differ"
    # No cut is trained for: one checkpoint serves all.
    assert {e.classifier.cut for e in experiments} == {""}


def test_steps_and_restarts_are_those_of_inversions() -> None:
    experiments = suppress_experiments(ClassifierSpec(), AttackerSpec(), steps=300, restarts=3)
    settings = {(a.attack, a.steps, a.restarts) for e in experiments for a in e.attackers}
    learned = {("decoder", None, None), ("refiner", None, None)}
    assert settings == {("sign", 100, None), ("inversion", 300, 3), *learned}


def test_what_was_published_has_its_counterpart() -> None:
    sparsities = [row.sparsity for row in PUBLISHED]
    assert set(sparsities) <= {0.0, *SPARSITIES} and len(PUBLISHED) == 2


SHORT = "--max_epochs 1 --attacker_epochs 1 --steps 2 --restarts 1"
SMALL = f"suppress --dataset digits {SHORT}".split()


def check(table: Path) -> None:
    rows = tables.read(table, tables.ATTACKER_KEY)
    columns = ("Network", "ConstantRate", "SuppressSparsity", "Cut", "Attack")
    seen = {tuple(row[name] for name in columns) for row in rows}
    attacks = ("sign", "inversion", "decoder")
    sparsities = ("0", "0.95")
    expected = {("lenet5", "", s, c, a) for s in sparsities for c in CUTS for a in attacks}
    expected |= {("lenet5", "True", s, "fc1", a) for s in sparsities for a in attacks}
    expected |= {("titcombe", "", s, "", a) for s in sparsities for a in (*attacks, "refiner")}
    expected |= {("lenet5", "", s, "fc1", "refiner") for s in sparsities}
    assert seen == expected and len(rows) == len(expected)
    for row in rows:
        assert row["Images"] == "150" and 0 <= float(row["TestAcc"]) <= 100
        for name in MEASURES:
            assert float(row[f"{name}CI"]) >= 0 and row[f"{name}Floor"]
        assert float(row["RelativeL2Shuffled"]) > 0 and float(row["ValAccuracyCeiling"]) > 0
        repeats = (row["ConstantRate"], row["Attack"], row["Cut"]) == ("True", "sign", "fc1")
        published = repeats and row["SuppressSparsity"] in sparsities
        assert bool(row["PublishedRelativeL2"]) == published
        assert bool(row["LenetConfidence"]) == bool(row["LenetConfidenceFloor"]) == published
        assert (float(row["Sparsity"]) > 0.9) == (row["SuppressSparsity"] == "0.95")
    (one,) = (r for r in rows if r["PublishedRelativeL2"] == "0.863")
    assert (one["PublishedSSIM2"], one["PublishedValConfidence"]) == ("0.264", "55.8")


@pytest.mark.slow(minutes=3)
def test_the_whole_study_in_small(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Networks that are less sparse are more of the same; what is asked of all of them stands in the dry run below.
    monkeypatch.setattr(study, "SPARSITIES", SPARSITIES[-1:])
    assert main([*SMALL, "--jobs", "2"]) == 0
    out, err = capsys.readouterr()
    table = suppress_table("results")
    assert out.splitlines()[-1] == str(table)
    check(table)
    folders = Folders()
    assert all(figure_path(folders, name, "digits").exists() for name in FIGURES)
    assert not figure_path(folders, "pareto", "digits").exists(), "figures of other groups"

    # In this process, which says all that it makes.
    before = table.read_text()
    assert main([*SMALL, "--jobs", "1"]) == 0
    again = capsys.readouterr()
    assert "training" not in again.err and "preparing" not in again.err, "nothing is made twice"
    assert "comparing" not in again.err and table.read_text() == before

    # A row is of no more images than inversions are scored on.
    attacks = {r["Attacker"]: r for r in tables.read(tables.attackers_table("results"))}
    models = {r["Model"]: r for r in tables.read(tables.models_table("results"))}
    (path,) = (
        p
        for p in checkpoints.all_in(folders.attackers)
        if p.name.startswith("digits_attacker_1epochs_model<digits_00noise_00nopeek_1epochs_epoch")
    )
    stem = path.name.removesuffix(".ckpt")
    attacks[stem]["Images"] = "5000"
    row = suppress_row(path, attacks, models, folders)
    assert row["Images"] == 150, "measured anew"
    assert float(str(row["RelativeL2"])) == pytest.approx(float(attacks[stem]["RelativeL2"]), 1e-4)


def test_a_dry_run_names_every_step(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 10 + 3 * (5 * 5 + 2 + 2) + 5 + 2 + 2
    assert not list(place.iterdir())
    inversions = [line for line in lines if "--attack inversion" in line]
    assert len(inversions) == 29 and all("--steps 2 --restarts 1" in line for line in inversions)


# ---------------------------------------------------------------- the ledger


def scored(
    attack: str, cut: str, sparsity: float, level: float, **more: object
) -> dict[str, object]:
    row: dict[str, object] = {
        "Model": f"m{sparsity}",
        "Attacker": f"{attack} {cut} {sparsity} {sorted(more.items())}",
        "Attack": attack,
        "Cut": cut,
        "SuppressSparsity": sparsity,
        "TestAcc": 99.0 - sparsity,
        "Network": "lenet5",
        "ConstantRate": "",
        "Dataset": "mnist",
        "Images": 1000,
        "Seed": 0,
    }
    floors = {"ValAccuracy": (11.0, 9.0), "ValConfidence": (8.0, 12.0)}
    for name in MEASURES:
        floor, mixed = floors.get(name, (0.7, 0.1))
        row |= {name: level, f"{name}CI": 0.01, f"{name}Floor": floor, f"{name}Shuffled": mixed}
    return row | more


def test_the_ledger_of_suppression(tmp_path: Path) -> None:
    text = section("mnist", tmp_path)
    assert "Not run: `./main.sh suppress --dataset mnist`" in text
    rows = [
        scored(attack, cut, sparsity, level)
        for sparsity in (0.0, 0.5, 0.95)
        for cut in CUTS
        for attack, level in (("sign", 0.83), ("inversion", 0.42), ("decoder", 0.33))
    ]
    rows += [scored("refiner", "fc1", sparsity, 0.25) for sparsity in (0.0, 0.5, 0.95)]
    rows += [
        scored("sign", "fc1", 0.0, 0.99, Seed=1),
        scored("sign", "fc1", 0.0, 0.98, Dataset="digits"),
        scored("sign", "", 0.95, 0.77, Network="titcombe"),
        scored(
            "sign",
            "fc1",
            0.0,
            0.91,
            ConstantRate="True",
            LenetConfidence=96.0,
            LenetConfidenceCI=1.2,
            LenetConfidenceFloor=7.5,
        ),
    ]
    tables.write(suppress_table(tmp_path), rows)
    lines = section("mnist", tmp_path).splitlines()
    assert any("on 1,000 images that nobody trained on" in line for line in lines)
    assert (
        "| 0 % | 99 | 99.00 | 0.829 | 0.910 ± 0.010 | 0.243 | 0.910 ± 0.010 | 95.5 | 0.9 ± 0.0 "
        "| 96.0 ± 1.2 |" in lines
    )
    assert "| *floor* |  |  |  | 0.700 |  | 0.700 |  | 12.0 | 7.5 |" in lines
    assert (
        "| 50 % | 98.50 | 0.830 ± 0.010 | 0.8 ± 0.0 | 0.420 ± 0.010 | 0.4 ± 0.0 | 0.330 ± 0.010 | 0.3 ± 0.0 "
        "| 0.250 ± 0.010 | 0.2 ± 0.0 |" in lines
    )
    assert f"| 95 % | 98.05 | 0.770 ± 0.010 | 0.8 ± 0.0 |{' not run |' * 6}" in lines
    assert (
        "| as published | 0 % | 99.00 | 0.910 ± 0.010 | 0.910 ± 0.010 | 0.9 ± 0.0 | not run | not run |"
        in lines
    )
    assert (
        "| decaying step size | 95 % | 98.05 | 0.830 ± 0.010 | 0.830 ± 0.010 | 0.8 ± 0.0 "
        "| 0.420 ± 0.010 | 0.330 ± 0.010 |" in lines
    )
    by_cut = [line for line in lines if line.startswith(tuple(f"| {cut} |" for cut in CUTS))]
    assert len(by_cut) == 2 * len(CUTS), "half of the weights was not published"
    assert by_cut[0].split(" | ")[:5] == [
        "| conv1",
        "0 %",
        "0.830 ± 0.010",
        "0.420 ± 0.010",
        "0.330 ± 0.010",
    ]


@pytest.mark.parametrize(
    "versions, mixed", [(("", "decoder:2"), True), (("decoder:2",) * 2, False)]
)
def test_the_ledger_says_where_decoders_are_of_different_versions(
    tmp_path: Path, versions: tuple[str, str], mixed: bool
) -> None:
    rows = [scored("decoder", "", level, 0.3, Network="titcombe") for level in (0.0, 0.95)]
    tables.write(suppress_table(tmp_path), rows)
    made = [
        {
            **dict.fromkeys(tables.ATTACKER_KEY, row["Model"]),
            "Attacker": row["Attacker"],
            "Versions": v,
        }
        for row, v in zip(rows, versions)
    ]
    tables.write(tables.attackers_table(tmp_path), made)
    assert ("of different versions" in section("mnist", tmp_path)) == mixed
