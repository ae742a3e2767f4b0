"""Means and intervals over seeds."""

import csv
import math
from pathlib import Path

import pytest
from scipy import stats

from dpsnn.evaluation import tables
from dpsnn.evaluation.summary import interval, over_seeds, write_summaries


def test_intervals_are_students() -> None:
    values = [0.31, 0.27, 0.33, 0.30]
    low, high = stats.t.interval(0.95, 3, loc=sum(values) / 4, scale=stats.sem(values))
    assert interval(values) == pytest.approx((high - low) / 2)
    assert math.isnan(interval([0.3]))


def test_rows_that_differ_in_their_seed_alone_become_one() -> None:
    rows = [
        {"Noise": "0.5", "Seed": "0", "Acc": "97"},
        {"Noise": "1", "Seed": "0", "Acc": ""},
        {"Noise": "0.5", "Seed": "1", "Acc": "99"},
    ]
    half, whole = over_seeds(rows, ["Noise"], ["Acc"])
    assert (half["Noise"], half["Seeds"], half["Acc"]) == ("0.5", 2, 98)
    assert half["AccCI"] == pytest.approx(12.706, abs=1e-3), "t(0.975, 1) = 12.706, s/√n = 1"
    assert whole["Seeds"] == 1 and whole["Acc"] is None


def test_summaries_are_written_beside_their_tables_and_replaced(tmp_path: Path) -> None:
    assert write_summaries(tmp_path) == []
    table = tables.models_table(tmp_path)
    for seed, accuracy in ((0, 97.0), (1, 98.0)):
        row = {"Model": f"m{seed}", "NoiseScale": 0.5, "Seed": seed, "TestAcc": accuracy}
        tables.upsert(table, [row], tables.CLASSIFIER_KEY)
        (path,) = write_summaries(tmp_path)
        assert path.name == "model_performances_by_seed.csv"
    with open(path, newline="") as file:
        (line,) = csv.DictReader(file)
    assert (line["Seeds"], line["TestAcc"], line["NoiseScale"]) == ("2", "97.5", "0.5")
    assert float(line["TestAccCI"]) == pytest.approx(6.353, abs=1e-3)


def test_other_trainings_are_no_seeds(tmp_path: Path) -> None:
    """Columns say neither step size nor rate of an attacker's target; its name does."""
    trainings = ["", "_constantrate", "_1epochs", "_0005rate", "_32batch"]
    models = {
        f"digits_00noise_00nopeek{training}{seed}_epoch=0{epoch}": (training, value)
        for training in trainings
        for seed, epoch, value in (("", 5, 0.2), ("_seed1", 7, 0.4))
    }
    rows = [
        {"Model": model, "Attacker": f"digits_attacker{seed}_model<{model}>", "MSE": value}
        for model, (_, value) in models.items()
        for seed in ["_seed1" * ("_seed1" in model)]
    ]
    rows.append({**rows[0], "Attacker": rows[0]["Attacker"].replace("_model", "_1epochs_model")})
    tables.upsert(tables.attackers_table(tmp_path), rows, tables.ATTACKER_KEY)
    tables.upsert(
        tables.models_table(tmp_path), [{"Model": m, "TestAcc": 90.0} for m in models], ("Model",)
    )
    written = write_summaries(tmp_path)
    of_models, of_attackers = (
        list(csv.DictReader(path.read_text().splitlines())) for path in written
    )
    assert [(line["Model"], line["Seeds"]) for line in of_models] == [
        (f"digits_00noise_00nopeek{training}", "2") for training in trainings
    ]
    *pairs, other = of_attackers
    assert [(line["Attacker"], line["Seeds"]) for line in pairs] == [
        (f"digits_attacker_model<digits_00noise_00nopeek{training}>", "2") for training in trainings
    ]
    assert {line["MSE"] for line in pairs} == {"0.3"} and other["Seeds"] == "1"
