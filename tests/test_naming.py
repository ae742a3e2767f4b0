"""How often inputs can be named, against the best attacker on codes of all kinds, and other accountants."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from dpsnn.defences import DefenceList, DefenceModule
from dpsnn.defences.clamp import ClampLaplace
from dpsnn.defences.clip import ClipGaussian
from dpsnn.defences.mechanism import naming
from dpsnn.defences.noise import GaussianNoise, LaplaceNoise
from dpsnn.defences.quantise import Quantise
from dpsnn.defences.values import Values
from dpsnn.metrics.naming import gaussian_power, laplace_power, pairwise_naming
from dpsnn.target import Target


def named(codes: Tensor, noise: DefenceModule, times: int = 2, queries: int = 1) -> float:
    """The share that the best attacker names: of equally likely codes that nearest in the norm of the noise."""
    p, right = 2.0 if isinstance(noise, GaussianNoise) else 1.0, 0.0
    for _ in range(times):
        distance = torch.zeros(len(codes), len(codes))
        for _ in range(queries):
            distance += torch.cdist(noise(codes), codes, p=p) ** p
        right += float((distance.argmin(1) == torch.arange(len(codes))).float().mean())
    return right / times


def on_a_sphere(count: int = 1000, dimension: int = 32) -> Tensor:
    torch.manual_seed(0)
    return nn.functional.normalize(torch.randn(count, dimension), dim=1)


# ---------------------------------------------------------------- Gaussian noise


@pytest.mark.parametrize(
    ("std", "measured", "bound"), [(1.0, 0.015, 0.018), (0.5, 0.098, 0.138), (0.25, 0.647, 0.819)]
)
def test_random_codes_on_a_sphere(std: float, measured: float, bound: float) -> None:
    found = named(on_a_sphere(), GaussianNoise(std), 10)
    promised = naming([*GaussianNoise(std).mechanism()], Values(32, l2=2.0), 1000)
    assert promised == gaussian_power(1 / 1000, 1 / std) == pytest.approx(bound, abs=0.0006)
    assert found == pytest.approx(measured, abs=0.01) and found < promised


@pytest.mark.parametrize("queries", [2, 5])
def test_transmissions_of_gaussian_noise_are_one_of_a_larger_shift(queries: int) -> None:
    codes, noise = on_a_sphere(400, 8), GaussianNoise(0.7)
    found = named(codes, noise, 2, queries)
    promised = naming(noise.mechanism(), Values(8, l2=2.0), 400, queries)
    once = naming(GaussianNoise(0.7 / math.sqrt(queries)).mechanism(), Values(8, l2=2.0), 400)
    assert promised == pytest.approx(once) and 0.3 * promised < found < promised


def test_two_codes_attain_it() -> None:
    """The best test for one of two: Φ of half their distance over σ."""
    assert gaussian_power(0.5, 1.0) == pytest.approx(stats.norm.cdf(1.0))
    codes = torch.tensor([[1.0], [-1.0]]).repeat(20_000, 1)
    heard = GaussianNoise(1.0)(codes)
    assert ((heard > 0) == (codes > 0)).float().mean() == pytest.approx(
        stats.norm.cdf(1), abs=0.006
    )


# ---------------------------------------------------------------- Laplace noise


@pytest.mark.parametrize("queries", [1, 2])
@pytest.mark.parametrize(("scale", "dimension"), [(1.0, 6), (3.0, 6), (2.0, 40)])
def test_corners_of_a_box(scale: float, dimension: int, queries: int) -> None:
    torch.manual_seed(0)
    codes = torch.randint(2, (500, dimension)) * 2.0 - 1
    noise = LaplaceNoise(scale)
    found = named(codes.unique(dim=0), noise, 6, queries)
    count = len(codes.unique(dim=0))
    assert found <= naming(noise.mechanism(), Values(dimension, -1, 1), count, queries)


def test_spread_out_codes_in_an_l1_ball() -> None:
    """All have the L1 norm 8; one at a distance of 8 in one value alone would be named more often still."""
    torch.manual_seed(0)
    codes = []
    for (i, j), (a, b) in itertools.product(
        itertools.combinations(range(16), 2), itertools.product((4.0, -4.0), repeat=2)
    ):
        code = torch.zeros(16)
        code[i], code[j] = a, b
        codes.append(code)
    noise, together = LaplaceNoise(1.0), torch.stack(codes)
    found, promised = named(together, noise), naming(noise.mechanism(), Values(16, l1=16.0), 480)
    assert 0.45 < found < promised < 1
    alone = torch.cat([8 * torch.eye(16), -8 * torch.eye(16)])
    assert found < named(alone, noise, 20) <= naming(noise.mechanism(), Values(16, l1=16.0), 32)


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("shift", [0.3, 2.0, 8.0])
def test_in_an_l1_ball_no_shift_is_worse_than_that_of_one_value(shift: float, times: int) -> None:
    """Of two values, by the masses of their losses on a grid; a test errs without the shift as often as `level`."""

    def power(shares: tuple[float, ...], level: float) -> float:
        masses = [np.ones(1), np.ones(1)]
        for share in shares * times:
            grid = np.linspace(0, shift * share, 81)
            edges = np.array([-np.inf, *grid[1:-1], np.inf])
            for at, centre in enumerate((0.0, shift * share)):
                masses[at] = np.outer(masses[at], np.diff(stats.laplace(centre).cdf(edges))).ravel()
            if len(masses[0]) > 1000:  # pool those of nearly the same loss
                loss = np.round(np.log(masses[1] / masses[0]), 2)
                _, where = np.unique(loss, return_inverse=True)
                masses = [np.bincount(where, mass) for mass in masses]
        order = np.argsort(-masses[1] / masses[0])
        errs, right = (mass[order].cumsum() for mass in masses)
        return float(np.interp(level, [0, *errs], [0, *right]))

    for level in (0.5, 0.1, 1e-3):
        alone = laplace_power(level, shift, times)
        assert power((1.0,), level) <= alone * (1 + 1e-9)
        for share in (0.5, 0.8, 0.95):
            assert power((share, 1 - share), level) <= alone * (1 + 1e-3)


@pytest.mark.parametrize("shift", [0.0, 0.01, 1.0, 5.0, 20.0])
@pytest.mark.parametrize("level", [1e-6, 1e-3, 0.2, 0.5, 1.0])
def test_of_a_single_value_it_has_a_closed_form(shift: float, level: float) -> None:
    """e^s·level as far as the tail reaches, 1 - e^-s / 4 level up to one half, and from there on the other tail."""
    tail = math.exp(-shift) / 2
    if level <= tail:
        exact = math.exp(shift) * level
    else:
        exact = 1 - tail / 2 / level if level <= 0.5 else 1 - math.exp(-shift) * (1 - level)
    assert laplace_power(level, shift) == pytest.approx(exact, rel=1e-6)
    assert laplace_power(level, shift) >= exact * (1 - 1e-9)


@pytest.mark.parametrize(("shift", "times"), [(0.02, 500), (0.1, 500), (0.05, 2000), (2.0, 3)])
def test_of_many_values_it_is_what_draws_show(shift: float, times: int) -> None:
    generator = np.random.default_rng(0)
    losses = []
    for centre in (0.0, shift):
        heard = generator.laplace(centre, size=(1000, times))
        losses.append((np.abs(heard) - np.abs(heard - shift)).sum(1))
    level = 0.05
    threshold = np.quantile(losses[0], 1 - level)
    assert laplace_power(level, shift, times) == pytest.approx(
        (losses[1] > threshold).mean(), abs=0.05
    )
    # Many small ones are like Gaussian noise; a sum of d losses has the variance d·shift².
    if shift < 0.1:
        near = gaussian_power(level, shift * math.sqrt(times))
        assert laplace_power(level, shift, times) == pytest.approx(near, abs=0.02)


def test_few_points_are_enough_and_too_few_are_on_the_safe_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fine = laplace_power(1e-3, 0.4, 50)
    for points in (2**16, 2**12, 2**8):
        monkeypatch.setattr("dpsnn.metrics.naming.GRID", points)
        assert fine <= laplace_power(1e-3, 0.4, 50) < 1
    monkeypatch.setattr("dpsnn.metrics.naming.GRID", 10)
    assert laplace_power(1e-3, 0.4, 50) == 1


# ---------------------------------------------------------------- other accountants


@pytest.mark.parametrize(("shift", "times"), [(0.5, 1), (1.0, 4), (0.2, 20)])
def test_googles_privacy_losses_agree(shift: float, times: int) -> None:
    losses = pytest.importorskip(
        "dp_accounting.pld.privacy_loss_distribution", reason="dp-accounting is not installed"
    )
    made = losses.from_laplace_mechanism(1 / shift, value_discretization_interval=1e-3)
    composed = made.self_compose(times)
    epsilons = np.linspace(0, shift * times, 2000)
    deltas = np.array([composed.get_delta_for_epsilon(epsilon) for epsilon in epsilons])
    for level in (1e-3, 0.1):
        theirs = float(np.min(deltas + np.exp(epsilons) * level))
        assert laplace_power(level, shift, times) == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("shift", [0.1, 1.0, 4.0])
def test_riskcal_agrees(shift: float) -> None:
    analysis = pytest.importorskip("riskcal.analysis", reason="riskcal is not installed")
    for level in (1e-3, 0.1, 0.5):
        missed = float(analysis.get_beta_from_gdp(mu=shift, alpha=level))
        assert gaussian_power(level, shift) == pytest.approx(1 - missed, rel=1e-6)


def test_what_epsilon_leaves_is_attained_by_randomised_response() -> None:
    """Of N answers the true one is given e^ε times as often as each other."""
    for count, epsilon in ((2, 1.0), (10, 3.0), (1000, 0.1)):
        honest = math.exp(epsilon) / (math.exp(epsilon) + count - 1)
        assert pairwise_naming(count, epsilon) == pytest.approx(honest)
    assert pairwise_naming(7, 0.0) == pytest.approx(1 / 7)
    assert pairwise_naming(7, math.inf) == pairwise_naming(7, 0.0, 1.0) == 1
    # A part δ of the time all is told.
    assert pairwise_naming(5, 0.0, 0.1) == pytest.approx(0.1 + 0.9 / 5, rel=0.1)


# ---------------------------------------------------------------- through the mechanism


@pytest.mark.parametrize(
    ("defences", "bound", "expected"),
    [
        ([], 1.0, 1.0),
        ([GaussianNoise(2.0)], None, 1.0),
        ([GaussianNoise(2.0)], 1.0, gaussian_power(0.01, math.sqrt(4) / 2)),
        ([ClipGaussian(2.0, 0.5)], None, gaussian_power(0.01, 0.25)),
        ([LaplaceNoise(2.0)], 1.0, laplace_power(0.01, 0.5, 4)),
        ([ClampLaplace(2.0, 0.3)], None, laplace_power(0.01, 0.15, 4)),
        ([GaussianNoise(2.0), LaplaceNoise(2.0)], 1.0, laplace_power(0.01, 0.5, 4)),
        ([GaussianNoise(9.0), Quantise(3)], 1.0, gaussian_power(0.01, 2 / 9)),
        ([LaplaceNoise(1.0), ClipGaussian(2.0, 0.5)], None, gaussian_power(0.01, 0.25)),
    ],
    ids=str,
)
def test_it_goes_through_the_steps_as_the_guarantee_does(
    defences: list[DefenceModule], bound: float | None, expected: float
) -> None:
    limit = math.inf if bound is None else bound
    found = naming(DefenceList(defences).mechanism(), Values(4, -limit, limit), 100)
    assert found == pytest.approx(expected)


def test_where_nothing_differs_it_is_chance() -> None:
    assert naming([], Values(3, 0.5, 0.5), 8) == 1 / 8
    assert naming(LaplaceNoise(1e9).mechanism(), Values(3, -1, 1), 8) == pytest.approx(1 / 8)


@pytest.mark.parametrize(
    ("layer", "low", "high", "l1"),
    [
        (nn.Tanh(), -1, 1, math.inf),
        (nn.Sigmoid(), 0, 1, math.inf),
        (nn.Hardtanh(-2, 0.5), -2, 0.5, math.inf),
        (nn.ReLU6(), 0, 6, math.inf),
        (nn.Softmax(1), 0, 1, 2),
        (nn.Softmax(-1), 0, 1, 2),
        (nn.ReLU(), -math.inf, math.inf, math.inf),
        (nn.Sequential(nn.Sequential(nn.Tanh(), nn.Dropout()), nn.Flatten()), -1, 1, math.inf),
    ],
    ids=str,
)
def test_a_cut_states_the_set_of_its_values(
    layer: nn.Module, low: float, high: float, l1: float
) -> None:
    target = Target.of_client(nn.Sequential(nn.Flatten(), nn.Linear(9, 5), layer), (1, 3, 3))
    assert target.values == Values(5, low, high, l1=l1)
    sent = target.encode(100 * torch.randn(50, 1, 3, 3))
    assert low <= sent.min() and sent.max() <= high
    assert torch.cdist(sent, sent, p=1).max() <= l1 * (1 + 1e-5)


def test_a_softmax_over_channels_adds_up_at_every_place() -> None:
    assert Values.behind(nn.Softmax(1), (3, 2, 2)).l1 == 8


@pytest.mark.parametrize(
    "behind", [nn.Flatten(), nn.Unflatten(1, (2, 1)), nn.Sequential(nn.Flatten())]
)
def test_a_softmax_that_was_moved_adds_up_to_nothing_known(behind: nn.Module) -> None:
    """Along which axis it did is no longer to be seen; the box stays."""
    client = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Softmax(1), nn.Dropout(), behind)
    target = Target.of_client(client, (1, 8, 8), LaplaceNoise(2.0))
    assert target.values == Values(128, 0, 1)
    sent = target.encode(100 * torch.rand(9, 1, 8, 8))
    assert (
        torch.cdist(sent.flatten(1), sent.flatten(1), p=1).max() <= target.values.apart_l1() == 128
    )


class Scaled(nn.Sequential):
    def forward(self, given: Tensor) -> Tensor:
        return 10 * super().forward(given)


@pytest.mark.parametrize(
    "whole", [Scaled(nn.Linear(3, 3), nn.Tanh()), nn.Sequential(Scaled(nn.Tanh()))]
)
def test_who_does_more_than_its_last_layer_is_not_where_that_puts_it(whole: nn.Module) -> None:
    assert Values.behind(whole, (3,)) == Values(3)


def test_around_activations_the_bound_is_smaller_and_holds() -> None:
    torch.manual_seed(0)
    client = nn.Sequential(nn.Flatten(), nn.Linear(9, 5), nn.Tanh())
    images = 0.3 * torch.rand(200, 1, 3, 3)
    for noise in (GaussianNoise(0.5), LaplaceNoise(0.5)):
        target = Target.of_client(client, (1, 3, 3), noise)
        codes = target.encode(images)
        here, anywhere = target.naming(200, among=codes), target.naming(200)
        assert named(codes, noise, 5) < here < anywhere
    around = Values.around(codes)
    assert around.apart_l2() / 2 < 1.03 * float((codes - codes.mean(0)).norm(dim=1).max())
    square = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 2)
    assert Values.around(square).apart_l2() == pytest.approx(2 * math.sqrt(2), rel=0.02)
