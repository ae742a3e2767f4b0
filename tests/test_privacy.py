"""ε and δ against mpmath, scipy's integrals, draws, and opacus, up to where floating point ends."""

import csv
import itertools
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from scipy.stats import norm

from dpsnn.batches import PoissonBatches, poisson_lots
from dpsnn.cli import main
from dpsnn.evaluation.attackers import attacker_row
from dpsnn.evaluation.classifiers import classifier_row
from dpsnn.evaluation.tables import shown_epsilon
from dpsnn.metrics import accountants
from dpsnn.metrics.accountants import RDP_ORDERS, least_epsilon, prv_epsilon, rdp_epsilon
from dpsnn.metrics.privacy import (
    Unaccounted,
    _gaussian_curve,
    dp_sgd_epsilon,
    dp_sgd_noise_multiplier,
    dp_sgd_steps,
    gaussian_epsilon,
)
from dpsnn.studies.faces.measures import accounted

RATIOS = (1e-8, 1e-3, 0.1, 0.4999, 0.5, 1.0, 3.0, 30.0, 1e3, 1e8)
DELTAS = (1e-300, 1e-100, 1e-40, 1e-30, 1e-10, 1e-5, 0.01, 0.3, 0.9, 0.999)
RATE = 128 / 40_000


# ---------------------------------------------------------------- noise on the wire


def exact_delta(ratio: float, epsilon: "mpmath.mpf") -> "mpmath.mpf":
    """Balle & Wang's Theorem 8 with sixty digits."""
    r = mpmath.mpf(ratio)
    return mpmath.ncdf(r / 2 - epsilon / r) - mpmath.exp(epsilon) * mpmath.ncdf(
        -r / 2 - epsilon / r
    )


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_gaussian_curve_is_exact_for_every_ratio_and_delta(ratio: float) -> None:
    found = [_gaussian_curve(ratio, delta) for delta in DELTAS]
    assert found == sorted(found, reverse=True)
    with mpmath.workdps(60):
        for delta, epsilon in zip(DELTAS, found):
            if epsilon == 0:
                assert exact_delta(ratio, mpmath.mpf(0)) <= delta
                continue
            below, above = (mpmath.mpf(epsilon) * (1 + s * mpmath.mpf("1e-10")) for s in (-1, 1))
            assert exact_delta(ratio, above) < delta < exact_delta(ratio, below)


def test_the_gaussian_curve_at_its_ends() -> None:
    assert _gaussian_curve(1, 1e-30) == pytest.approx(11.7439, abs=1e-4)
    assert _gaussian_curve(0.0, 1e-5) == 0 and _gaussian_curve(math.inf, 1e-5) == math.inf
    grown = [_gaussian_curve(ratio, 1e-5) for ratio in np.logspace(-8, 8, 200)]
    assert grown == sorted(grown)
    for delta in (0.0, 1.0, -1e-5, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            _gaussian_curve(1.0, delta)


def test_the_guarantee_holds_for_what_is_really_sent() -> None:
    """Draws of whole transmissions of two opposite inputs."""
    generator = np.random.default_rng(0)
    queries, dimension, std = 4, 25, 10.0
    noise = std * generator.standard_normal((100_000, queries * dimension))
    loss = (((noise + 2) ** 2 - noise**2) / (2 * std**2)).sum(1)
    epsilon = gaussian_epsilon(std, 2 * math.sqrt(queries * dimension), 0.01)
    assert np.maximum(0, -np.expm1(epsilon - loss)).mean() == pytest.approx(0.01, rel=0.05)
    assert epsilon < 0.7 * queries * gaussian_epsilon(std, 2 * math.sqrt(dimension), 0.01)


def test_rows_of_gaussian_noise_name_their_delta(
    place: Path, few: None, classifier_file: Callable[..., Path], attacker_file: Callable[..., Path]
) -> None:
    models = place / "models"
    target = classifier_file(models, gaussian_std=2.0)
    row = classifier_row(target, "data")
    assert (row["Epsilon"], row["EpsilonDelta"]) == (
        gaussian_epsilon(2.0, 2 * math.sqrt(500)),
        1e-5,
    )
    row, _ = attacker_row(attacker_file(models, target, queries=9), models, "data", None)
    assert row["EpsilonDelta"] == 1e-5
    assert row["Epsilon"] == pytest.approx(gaussian_epsilon(2.0 / 3, 2 * math.sqrt(500)))
    target = classifier_file(models, noise_scale=2.0)
    assert classifier_row(target, "data")["EpsilonDelta"] is None
    row, _ = attacker_row(attacker_file(models, target, queries=9), models, "data", None)
    assert (row["Epsilon"], row["EpsilonDelta"]) == (4500, None)


@pytest.mark.parametrize(
    ("epsilon", "text"), [(math.inf, "∞"), (2000.0, "2,000"), (8.0, "8"), (0.0314, "0.0314")]
)
def test_a_small_epsilon_is_not_shown_as_none(epsilon: float, text: str) -> None:
    assert shown_epsilon(epsilon) == text


# ---------------------------------------------------------------- DP-SGD: each accountant


@pytest.mark.parametrize("noise", [0.3, 0.7, 1.0, 4.0])
@pytest.mark.parametrize("rate", [1e-3, 0.1, 0.9])
def test_renyi_divergences_equal_those_of_opacus(noise: float, rate: float) -> None:
    from opacus.accountants.analysis.rdp import compute_rdp

    theirs = compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=RDP_ORDERS)
    ours = accountants._rdp_of_step(noise, rate, RDP_ORDERS)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("noise", [0.02, 0.1])
@pytest.mark.parametrize("order", [1.1, 1.5, 2.0, 7.3, 40.0])
def test_renyi_divergences_with_hardly_any_noise(noise: float, order: float) -> None:
    (ours,) = accountants._rdp_of_step(noise, 0.01, (order,))
    with mpmath.workdps(30):
        s = mpmath.mpf(noise)

        def density(z: "mpmath.mpf") -> "mpmath.mpf":
            mixture = mpmath.mpf("0.99") + mpmath.mpf("0.01") * mpmath.exp((2 * z - 1) / (2 * s**2))
            return mpmath.npdf(z, 0, s) * mixture**order

        kink = s**2 * mpmath.log(99) + 0.5
        points = sorted({-12 * s, 0, 12 * s, kink, order - 12 * s, order, order + 12 * s})
        theirs = mpmath.log(mpmath.quad(density, points)) / (order - 1)
    assert ours == pytest.approx(float(theirs), rel=1e-6)


def test_no_noise_is_too_small_or_too_large_for_renyi() -> None:
    found = [rdp_epsilon([(noise, RATE, 3130)], 1e-5) for noise in np.logspace(-6, 4, 80).tolist()]
    assert all(math.isfinite(epsilon) for epsilon in found)
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize(("noise", "steps"), [(0.5, 1), (3.0, 30), (30.0, 1000), (50.0, 10_000)])
@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-8, 1e-10, 1e-12, 1e-14])
def test_composed_losses_never_fall_below_the_exact_value(
    noise: float, steps: int, delta: float
) -> None:
    """Where nearly all take part, all but exactly known; opacus itself is too low by 0.02 for some of these."""
    exact = _gaussian_curve(math.sqrt(steps) / noise, delta)
    history = [(noise, 1 - 1e-9, steps)]
    try:
        found = dp_sgd_epsilon(history, delta, "prv")
    except Unaccounted as refused:
        assert steps * 2e-16 > 0.9 * delta / 1000 and "rounding errors" in refused.reason
        return
    assert exact <= found <= exact + 0.03


def composed(noise: float, rate: float, steps: int, delta: float, half: float, add: bool) -> float:
    """ε of the composition for an example that is taken out or added, on a fine grid of our own."""
    n = 2**18
    mesh = half / n
    edges = (np.arange(-n, n + 2) - 0.5) * mesh

    def at(loss: np.ndarray) -> np.ndarray:
        inner = (np.exp(loss) - (1 - rate)) / rate
        return np.where(inner > 0, noise**2 * np.log(np.maximum(inner, 1e-300)) + 0.5, -np.inf)

    if add:
        cdf = norm.sf(at(-edges) / noise)
    else:
        z = at(edges)
        cdf = (1 - rate) * norm.cdf(z / noise) + rate * norm.cdf((z - 1) / noise)
    mass = np.roll(np.diff(cdf, prepend=0)[1:], -n)
    mass = np.maximum(np.roll(np.fft.irfft(np.fft.rfft(mass) ** steps, len(mass)), n), 0)
    loss = (np.arange(len(mass)) - n) * mesh
    above, weighted = (np.cumsum(m[::-1])[::-1] for m in (mass, mass * np.exp(-loss)))
    i = int(np.nonzero(above - np.exp(loss) * weighted > delta)[0][-1]) + 1
    return math.log((above[i] - delta) / weighted[i])


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "delta", "half"),
    [(1.0, 0.01, 500, 1e-6, 12), (0.5, 0.01, 200, 1e-5, 20), (2.0, 0.1, 300, 1e-7, 12)],
)
def test_composed_losses_bound_both_directions(
    noise: float, rate: float, steps: int, delta: float, half: float
) -> None:
    """opacus counts an example that is taken out; one that is added costs less."""
    removed, added = (composed(noise, rate, steps, delta, half, add) for add in (False, True))
    found = prv_epsilon([(noise, rate, steps)], delta)
    assert added < removed < found < removed + 0.02
    assert (
        least_epsilon([(noise, rate, steps)], delta)
        < removed
        < rdp_epsilon([(noise, rate, steps)], delta)
    )


@pytest.mark.parametrize(
    ("noise", "rate", "steps"),
    [*itertools.product([0.05, 0.3, 1.0, 10.0], [RATE, 0.3, 1.0], [1, 3130])],
)
def test_the_least_epsilon_is_one(noise: float, rate: float, steps: int) -> None:
    least = least_epsilon([(noise, rate, steps)], 1e-5)
    assert 0 <= least <= dp_sgd_epsilon([(noise, rate, steps)], 1e-5)
    if rate == 1:
        assert least > 0.5 * _gaussian_curve(math.sqrt(steps) / noise, 1e-5)


@pytest.mark.slow
def test_one_wide_grid_stays_below_two_gibibytes() -> None:
    tracemalloc.start()
    found = prv_epsilon([(0.3, RATE, 3130)], 1e-5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == pytest.approx(54.53, abs=0.02) and peak < 2 * 2**30


# ---------------------------------------------------------------- DP-SGD: what is asked


@pytest.mark.parametrize("accountant", ["rdp", "prv", "gdp", "classic"])
def test_accountants_at_both_ends(accountant: str) -> None:
    assert dp_sgd_epsilon([(1.0, 0.1, 0), (1.0, 0.0, 5)], 1e-5, accountant) == 0
    assert dp_sgd_epsilon([(0.0, 0.1, 1)], 1e-5, accountant) == math.inf
    with pytest.raises(Unaccounted, match="cannot be computed.*at least [1-9]"):
        dp_sgd_epsilon([(1e-200, 0.1, 1000)], 1e-5, accountant)
    for delta in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="delta"):
            dp_sgd_epsilon([(1.0, 0.1, 1)], delta, accountant)
    for part in ((-1.0, 0.1, 1), (math.nan, 0.1, 1), (1.0, 1.1, 1), (1.0, 0.1, -1)):
        with pytest.raises(ValueError, match="no training"):
            dp_sgd_epsilon([part], 1e-5, accountant)


def test_parts_with_and_without_sampling_add_up() -> None:
    history = [(1.0, 1.0, 1), (2.0, 0.1, 5)]
    alone = _gaussian_curve(1.0, 1e-5)
    assert alone < dp_sgd_epsilon(history, 1e-5, "prv") < dp_sgd_epsilon(history, 1e-5, "rdp")


def test_gdp_has_no_limit_of_five_hundred() -> None:
    found = dp_sgd_epsilon([(0.3, RATE, 3130)], 1e-5, "gdp")
    ratio = RATE * math.sqrt(3130 * math.expm1(1 / 0.09))
    assert found == pytest.approx(_gaussian_curve(ratio, 1e-5)) and found > 1000


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_the_least_noise_may_be_hardly_any(
    monkeypatch: pytest.MonkeyPatch, accountant: str
) -> None:
    monkeypatch.setattr(accountants, "MAX_GRID", 2**18)
    budget = {"rdp": 1e5, "prv": 300.0}[accountant]
    noise = dp_sgd_noise_multiplier(budget, RATE, 100, 1e-5, accountant)
    assert noise < 0.15
    assert dp_sgd_epsilon([(noise, RATE, 100)], 1e-5, accountant) <= budget
    try:
        assert dp_sgd_epsilon([(noise / 1.01, RATE, 100)], 1e-5, accountant) > budget
    except Unaccounted:
        assert accountant == "prv"


def test_steps_that_cannot_be_accounted_for_are_not_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(accountants, "MAX_GRID", 2**16)
    assert dp_sgd_steps(1e300, 1.0, RATE, 1e-40, "prv") == 0
    allowed = dp_sgd_steps(1e300, 0.5, 0.01, 1e-5, "prv")
    assert dp_sgd_epsilon([(0.5, 0.01, allowed)], 1e-5, "prv") < math.inf
    with pytest.raises(Unaccounted):
        dp_sgd_epsilon([(0.5, 0.01, allowed + 1)], 1e-5, "prv")
    with pytest.raises(ValueError, match="rounding errors"):
        dp_sgd_noise_multiplier(3.0, RATE, 3130, 1e-40, "prv")


def test_a_row_leaves_out_what_cannot_be_computed() -> None:
    row = accounted(0.1, RATE, 3130, 1e-5)
    assert row["DPEpsilon_prv"] is None
    assert row["DPEpsilon_rdp"] == dp_sgd_epsilon([(0.1, RATE, 3130)], 1e-5)


@pytest.mark.parametrize(("examples", "batch_size"), [(40_000, 128), (320, 32), (7, 7), (10, 3)])
def test_lots_are_counted_as_they_are_drawn(examples: int, batch_size: int) -> None:
    loader = PoissonBatches(torch.zeros(examples, 1), batch_size=batch_size, seed=0)
    assert (loader.sample_rate, len(loader)) == poisson_lots(examples, batch_size)
    assert sum(1 for _ in loader) == len(loader)


@pytest.mark.parametrize(
    ("options", "values", "refused"),
    [
        ("1", {"rdp": 1.191, "prv": 0.9396, "gdp": 0.8643}, ()),
        ("0.01", {"rdp": 1.702e7}, ("prv", "gdp")),
        ("0.1 --epochs 1000", {"rdp": 1.136e6, "gdp": 4.308e43}, ("prv",)),
        ("1 --epochs 1e7", {"rdp": 3.017e4, "gdp": 2.854e4}, ("prv",)),
        ("1 --delta 1e-40 --classic", {"rdp": 9.361, "gdp": 3.08, "classic": 9.646}, ("prv",)),
        ("1 --batch_size 40000", {"rdp": 17.86, "prv": 17.86, "gdp": 17.86}, ()),
    ],
)
def test_the_command_says_what_it_can(
    capsys: pytest.CaptureFixture[str],
    options: str,
    values: dict[str, float],
    refused: tuple[str, ...],
) -> None:
    assert main(["epsilon", "--noise_multiplier", *options.split()]) == 0
    out, err = capsys.readouterr()
    assert not err
    first, *lines = (line.split() for line in out.splitlines())
    assert first[:2] == (["10", "steps,"] if "batch" in options else first[:2])
    if options == "1":
        assert first[0] == "3,130"
    with_value = {line[0]: float(line[-1]) for line in lines if "cannot" not in line}
    assert with_value == pytest.approx(values, rel=1e-3)
    without = {line[0]: float(line[-1]) for line in lines if "cannot" in line}
    assert set(without) == set(refused)
    assert all(1 < least <= values["rdp"] for least in without.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--noise_multiplier 1e-200", "cannot be computed"),
        ("--noise_multiplier 1 --epochs 1e300", "the most that can be counted"),
        ("--noise_multiplier 1 --epochs inf", "epochs is inf"),
        ("--noise_multiplier nan", "noise_multiplier is nan"),
        ("--noise_multiplier 1 --examples 0", "batch_size is 128"),
    ],
)
def test_the_command_ends_in_one_line_where_nothing_holds(
    capsys: pytest.CaptureFixture[str], options: str, message: str
) -> None:
    assert main(["epsilon", *options.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_the_command_finds_noise_by_those_accountants_that_can(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["epsilon", "--target_epsilon", "3", "--delta", "1e-40"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["rdp", "prv", "gdp"]
    assert float(lines[0].split()[-1]) == pytest.approx(1.707, abs=0.01)
    assert "rounding errors" in lines[1]


def test_committed_rows_have_a_delta_where_their_noise_is_gaussian() -> None:
    for table in Path("results/quantitative_measures").glob("*_performances*.csv"):
        with open(table, newline="") as file:
            for row in csv.DictReader(file):
                gaussian = float(row.get("GaussianStd") or 0) > 0
                assert not gaussian or row.get("EpsilonDelta"), f"{table}: {row}"
