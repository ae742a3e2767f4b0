"""Intervals of means of unequal values: how often they hold the truth, and what they are where there is no skew."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from dpsnn.audit.skewed import limits, skewness

Draw = Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]

VICTIMS: dict[str, tuple[Draw, float]] = {
    "alike": (lambda draws, size: draws.normal(1, 0.3, size), 1.0),
    "errors": (lambda draws, size: draws.exponential(1, size), 1.0),
    "unequal errors": (lambda draws, size: draws.lognormal(0, 1, size), math.exp(0.5)),
    "similarities": (lambda draws, size: draws.beta(8, 2, size), 0.8),
    "mostly nothing": (lambda draws, size: draws.beta(0.5, 2, size), 0.2),
}


def of(values: NDArray[np.float64], tail: float = 0.025) -> tuple[float, float]:
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return limits(float(values.mean()), error, values, tail)


def held(ends: list[tuple[float, float]], truth: float) -> float:
    return float(np.mean([low <= truth <= high for low, high in ends]))


@pytest.mark.parametrize("count", [5, 10, 30, 100])
@pytest.mark.parametrize("victims", VICTIMS)
def test_the_truth_is_held_about_as_often_as_is_said(victims: str, count: int) -> None:
    """Of very unequal ones nine times of ten; and where values are skewed more often than by Student's t."""
    draw, truth = VICTIMS[victims]
    table = draw(np.random.default_rng(count), (2000, count))
    found = held([of(row) for row in table], truth)
    error = stats.sem(table, axis=1)
    ends = np.array(stats.t.interval(0.95, count - 1, table.mean(1), error)).T
    students = held([(low, high) for low, high in ends], truth)
    assert found > (0.87 if victims == "unequal errors" and count < 100 else 0.9)
    # Of few values that are alike their skewness is chance, and costs a little.
    assert found > students - (0.02 if victims == "alike" else 0.005)
    if victims == "unequal errors" or (victims, count) in (("errors", 5), ("mostly nothing", 5)):
        assert found > students + 0.02


@pytest.mark.parametrize("count", [3, 10, 300])
def test_the_ends_are_where_the_transformed_ratio_is_students(count: int) -> None:
    """Hall's g(y) = y + γy²/3 + γ²y³/27 + γ/6n, forwards."""
    values = np.random.default_rng(count).lognormal(0, 1, count)
    skew, spread = stats.skew(values), values.std(ddof=1)
    assert skewness(values) == pytest.approx(skew)
    ratios = [(values.mean() - end) / spread for end in of(values)]
    there = [y + skew * y**2 / 3 + skew**2 * y**3 / 27 + skew / (6 * count) for y in ratios]
    wanted = stats.t.ppf(0.975, count - 1)
    assert [math.sqrt(count) * each for each in there] == pytest.approx([wanted, -wanted])


@pytest.mark.parametrize("count", [2, 3, 4, 30, 1000])
def test_it_holds_the_mean_and_turns_with_the_sign(count: int) -> None:
    """Of one value that is unlike all others the skew is greatest."""
    for values in (
        np.eye(1, count)[0],
        np.random.default_rng(count).lognormal(0, 3, count),
    ):
        low, high = of(values)
        assert low < values.mean() < high
        assert of(-values) == pytest.approx((-high, -low))
        assert of(3 * values + 7) == pytest.approx((3 * low + 7, 3 * high + 7))
        within = of(values, 0.05)
        assert low <= within[0] < within[1] <= high


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-30, 1e30])
def test_values_that_are_all_alike_have_a_point(value: float) -> None:
    values = np.full(7, value)
    assert skewness(values) == 0
    assert of(values) == pytest.approx((value, value))


def test_two_values_and_symmetric_ones_have_students_interval() -> None:
    for values in (np.array([0.2, 0.9]), np.array([-1.0, -0.5, 0, 0.5, 1])):
        wanted = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
        assert of(values) == pytest.approx(wanted)


@pytest.mark.parametrize("count", [30, 200])
def test_errors_end_at_none_and_similarities_at_one(count: int) -> None:
    """Of a few that are far from all others the spread is large, and goes to one side."""
    errors = np.zeros(count)
    errors[0] = 1e-4
    low, high = of(errors)
    assert low == 0 < errors.mean() < high
    assert of(1 - errors)[1] == 1
