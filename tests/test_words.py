"""Tables for readers say what the rows say, under words."""

import math

import pandas as pd
import pytest
from invented import write_tables
from scipy.stats import beta

from dpsnn.evaluation.measures import ACCURACY, named
from dpsnn.evaluation.plots import estimate
from dpsnn.evaluation.results import Results
from dpsnn.evaluation.summary import interval
from dpsnn.evaluation.words import in_words, plus_minus, reachable

BY = {"TrainNoiseScale": "noise", "Kind": "attacker"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return Results(write_tables(tmp_path_factory.mktemp("words"), 0, 1, group="noise"), "digits")


def test_repetitions_become_a_line_with_mean_and_interval(results: Results) -> None:
    rows = results.attacks(NopeekWeight=0.0)
    table = in_words(rows, BY)
    assert table.index.names == ["noise", "attacker"]
    for (noise, kind), own in rows.groupby([*BY]):
        line = table.loc[(noise, kind)]
        assert line["± over"] == "2 seeds" and len(own) == 2
        assert line["MSE"] == f"{own.MSE.mean():.4f} ± {interval([*own.MSE]):.4f}"
        assert (
            line["recognised %"]
            == f"{own.ValAccuracy.mean():.1f} ± {interval([*own.ValAccuracy]):.1f}"
        )
    floor, ceiling = table.loc[("floor", "")], table.loc[("ceiling", "")]
    assert (floor["MSE"], floor["SSIM"], floor["recognised %"]) == ("0.0700", "0.300", "10.0")
    assert (ceiling["MSE"], ceiling["SSIM"], ceiling["recognised %"]) == ("0", "1", "98.0")
    assert len(table) == rows.groupby([*BY]).ngroups + 2


def test_a_floor_that_differs_stands_beside_its_measure(results: Results) -> None:
    rows = results.attacks(NopeekWeight=0.0, Kind="adaptive")
    own = rows.assign(MSEFloor=0.07 + 0.01 * rows.TrainNoiseScale)
    table = in_words(own, {"TrainNoiseScale": "noise"}, ["mse", "ssim"])
    assert [*table.columns] == ["± over", "MSE", "MSE, floor", "SSIM"]
    assert [*table["MSE, floor"]][:3] == ["0.0710", "0.0720", "0.0750"]
    assert table.loc["floor", "MSE"] == table.loc["floor", "MSE, floor"] == ""
    assert table.loc["floor", "SSIM"] == "0.300"


def test_one_seed_has_the_interval_over_images_and_a_setting_may_be_empty(results: Results) -> None:
    models = results.classifiers(NopeekWeight=0.0, Seed=0).assign(Budget=None)
    table = in_words(models, {"NoiseScale": "noise", "Budget": "ε"}, ["accuracy", "wire"])
    assert [*table.columns] == ["± over", "test accuracy %", "DCorr on the wire"]
    best: pd.DataFrame = models.sort_values("NoiseScale")
    expected = [f"{value:.2f} ± {1.96 * 0.1:.2f}" for value in best.TestAcc]
    assert [*table["test accuracy %"]][:-1] == expected
    assert [*table["± over"]][:-1] == ["images"] * len(models)


def test_intervals_over_seeds_stand_beside_none_over_images(results: Results) -> None:
    rows = results.attacks(NopeekWeight=0.0)
    fewer = rows[(rows.Seed == 0) | (rows.Kind != "naive")]
    table = in_words(fewer, BY)
    assert {*table["± over"]} == {"images", ""}
    (own,) = (group for key, group in rows.groupby([*BY]) if key == (1.0, "adaptive"))
    assert table.loc[(1.0, "adaptive"), "MSE"] == f"{own.MSE.mean():.4f} ± {1.96 * 0.001:.4f}"


@pytest.mark.parametrize(("right", "count"), [(0, 10), (7, 10), (10, 10), (4_865, 5_000)])
def test_shares_have_exact_intervals(right: int, count: int) -> None:
    """Clopper & Pearson, by the quantiles of the beta distribution that define it."""
    share = 100 * right / count
    row = pd.DataFrame([{"ValAccuracy": share, "SEValAccuracy": 1.0, "Images": count}])
    low = beta.ppf(0.025, right, count - right + 1) if right else 0.0
    high = beta.ppf(0.975, right + 1, count - right) if right < count else 1.0
    middle, half = estimate(row, named("recognised"))
    assert (middle, half) == (share, pytest.approx(50 * (high - low)))


@pytest.mark.parametrize(
    ("bound", "measured", "text"),
    [(0.01, 0.02, "0.010"), (0.003, 0.02, "0.003, not informative"), (math.nan, 0.02, "")],
)
def test_a_bound_far_below_what_is_measured_is_not_informative(
    bound: float, measured: float, text: str
) -> None:
    assert reachable(bound, measured, 3) == text


def test_what_has_no_interval_has_no_plus_minus() -> None:
    rows = pd.DataFrame({"TestAcc": [98.7], "Seed": [0]})
    assert plus_minus(rows, ACCURACY) == "98.70"
    assert plus_minus(rows.assign(SETestAcc=[0.1]), ACCURACY).startswith("98.70 ± 0.")
    assert plus_minus(rows.assign(TestAcc=[float("nan")]), ACCURACY) == ""
