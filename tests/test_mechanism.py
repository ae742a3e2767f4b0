"""Likelihood and guarantee of every pair of defences against draws, scipy, mpmath and transition matrices."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.integrate import quad
from torch import Tensor

from dpsnn.cli import main
from dpsnn.defences import DEFENCES, CutInfo, DefenceList, DefenceModule
from dpsnn.defences.clamp import ClampLaplace
from dpsnn.defences.clip import ClipGaussian
from dpsnn.defences.densities import Gaussian, Laplace, Noise, NormalLaplace, TwoLaplaces
from dpsnn.defences.mechanism import naming
from dpsnn.defences.noise import GaussianNoise, LaplaceNoise
from dpsnn.defences.nopeek import NoPeek
from dpsnn.defences.quantise import Quantise
from dpsnn.defences.values import Clamp, Clip, Map, Rounding, Values
from dpsnn.defences.wire import ToFloat, Wire
from dpsnn.errors import NoLikelihood, UsageError
from dpsnn.evaluation.attackers import attacker_row, load_attacked
from dpsnn.evaluation.classifiers import classifier_row
from dpsnn.metrics import relative_misfit
from dpsnn.metrics.privacy import gaussian_epsilon, laplace_epsilon

PARTS: dict[str, DefenceModule] = {
    "laplace": LaplaceNoise(0.5),
    "gaussian": GaussianNoise(0.4),
    "clip": ClipGaussian(0.3, radius=0.6),
    "clamp": ClampLaplace(0.4, radius=0.6),
    "quantise": Quantise(2),
    "wire": Wire("float16"),
    "nopeek": NoPeek(0.3),
}
CLIPS = ("clip", "clamp")
NOISY = ("laplace", "gaussian", *CLIPS)
CUT = CutInfo((500,), (1, 8, 8), 10, bound=1.0)
PAIRS = list(itertools.product(PARTS, repeat=2))
DELTA = 1e-5


def both(first: str, second: str) -> DefenceList:
    return DefenceList([PARTS[first], PARTS[second]])


def sent(
    laplace: float, gaussian: float, dimension: int, bound: float | None, queries: int = 1
) -> tuple[float, float | None]:
    """What noise of both kinds guarantees."""
    noise = DefenceList([LaplaceNoise(laplace), GaussianNoise(gaussian)])
    return noise.guarantee((dimension,), bound, queries)


def test_no_part_is_left_out() -> None:
    built = {key: part().build(CUT) for key, part in DEFENCES.items()}
    on_the_wire = {type(module) for module in built.values() if module}
    assert on_the_wire == {type(module) for module in PARTS.values()}


# ---------------------------------------------------------------- likelihood

ACTIVATION = torch.tensor([[0.5, -0.7]])
"""Outside the clip, and on no level."""

DRAWS = 100_000


def likelihood(defences: DefenceList, heard: Tensor) -> NDArray[np.float64]:
    """Of each pair of values, up to a common factor: the misfit is the mean of the two."""
    activation = ACTIVATION.to(heard.dtype).expand(len(heard), 2)
    return np.exp(-2 * defences.misfit(activation, heard[None]).numpy())


def drawn(defences: DefenceList) -> NDArray[np.float64]:
    torch.manual_seed(0)
    return np.asarray(defences(ACTIVATION.expand(DRAWS, 2)).double())


def agreement(defences: DefenceList, draws: NDArray[np.float64]) -> float:
    """p of the chi-square test over 64 bins of both values, which hold the integral of the likelihood."""
    width, reach = 0.02, 10
    centres = np.arange(-reach + width / 2, reach, width)
    grid = torch.from_numpy(np.stack(np.meshgrid(centres, centres, indexing="ij"), -1))
    mass = likelihood(defences, grid.view(-1, 2)).reshape(len(centres), -1)
    # Between centres of the grid.
    inner = width * (np.quantile(draws, np.linspace(0, 1, 9)[1:-1], axis=0) / width).round()
    edges = [np.array([-np.inf, *column, np.inf]) for column in inner.T]
    rows, columns = (np.digitize(centres, edge) - 1 for edge in edges)
    expected = np.zeros((8, 8))
    np.add.at(expected, (rows[:, None], columns[None]), mass)
    counts = np.histogram2d(*draws.T, bins=edges)[0]
    return float(stats.chisquare(counts.ravel(), DRAWS * expected.ravel() / mass.sum()).pvalue)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_the_misfit_of_a_pair_is_the_histogram_of_its_draws(first: str, second: str) -> None:
    defences = both(first, second)
    draws = drawn(defences)
    if first in NOISY and second in CLIPS:
        with pytest.raises(NoLikelihood, match=r"what Cl.*\(radius=0.6\) after .* is not known"):
            defences.misfit(ACTIVATION, torch.zeros(1, 1, 2))
    elif first not in NOISY and second not in NOISY:
        assert not any(step.random for step in defences.mechanism())
        assert len(np.unique(draws, axis=0)) == 1
        misfit = defences.misfit(ACTIVATION, torch.from_numpy(draws[:1]).float()[None])
        assert misfit.tolist() == [0]
    elif second == "quantise":
        levels = torch.linspace(-1, 1, 4).double()
        lattice = torch.cartesian_prod(levels, levels)
        mass = likelihood(defences, lattice)
        assert mass.sum() == pytest.approx(1, abs=1e-6)
        places = ((draws + 1) * 1.5).round().astype(int)
        counts = np.bincount(places @ [4, 1], minlength=16)
        assert stats.chisquare(counts, DRAWS * mass / mass.sum()).pvalue > 0.001
    elif second == "wire":
        heard = torch.from_numpy(draws[:2000])
        lower, upper = ToFloat("float16").cells(heard[None])
        density = likelihood(DefenceList([PARTS[first]]), heard)
        mass = density * np.asarray((upper - lower)[0].prod(1))
        ratio = likelihood(defences, heard) / mass
        np.testing.assert_allclose(ratio / np.median(ratio), 1, atol=0.01)
    else:
        assert agreement(defences, draws) > 0.001


@pytest.mark.parametrize(
    "nearly",
    [
        [LaplaceNoise(0.52)],
        [GaussianNoise(math.sqrt(0.5))],
        [LaplaceNoise(0.5), GaussianNoise(0.1)],
    ],
    ids=str,
)
def test_the_histogram_tells_other_noise_from_it(nearly: list[DefenceModule]) -> None:
    assert agreement(DefenceList(nearly), drawn(DefenceList([LaplaceNoise(0.5)]))) < 1e-6


def test_maps_before_the_noise_are_applied_and_others_change_nothing() -> None:
    activation, heard = torch.randn(6, 3, 2), torch.randn(4, 6, 3, 2)
    norms = activation.flatten(1).norm(dim=1).view(6, 1, 1)
    clipped = torch.where(norms > 0.6, 0.6 * activation / norms, activation)
    by_hand = GaussianNoise(0.3)
    plain = [NoPeek(0.5), ClipGaussian(0.3, 0.6), NoPeek(0.1), GaussianNoise(0), Quantise(0)]
    torch.testing.assert_close(
        DefenceList(plain).misfit(activation, heard),
        DefenceList([by_hand]).misfit(clipped, heard),
    )
    rounded = (activation.clamp(-1, 1) * 1.5 + 1.5).round() / 1.5 - 1
    for defences in ([], [by_hand]):
        torch.testing.assert_close(
            DefenceList([Quantise(2), *defences]).misfit(activation, heard),
            DefenceList(defences).misfit(rounded, heard),
        )
    assert torch.equal(DefenceList().misfit(activation, heard), relative_misfit(activation, heard))


@pytest.mark.parametrize("noise", [[], [GaussianNoise(0.3)], [LaplaceNoise(0.5)]], ids=str)
def test_rounding_is_valued_exactly_and_descended_as_if_it_were_none(
    noise: list[DefenceModule],
) -> None:
    activation = torch.tensor([[0.1, -0.4, 0.8, 2.0]], requires_grad=True)
    heard = torch.tensor([[[0.3, 0.2, -1.0, 0.9]]])
    misfit = DefenceList([Quantise(1), *noise]).misfit(activation, heard)
    (slope,) = torch.autograd.grad(misfit.sum(), activation)
    rounded = torch.tensor([[1.0, -1.0, 1.0, 1.0]])
    assert torch.equal(misfit.detach(), DefenceList(noise).misfit(rounded, heard))
    inside = activation.clamp(-1, 1)
    known = DefenceList(noise).misfit(inside, heard)
    assert torch.equal(slope, torch.autograd.grad(known.sum(), activation)[0])
    assert slope[0, 3] == 0 and slope[0, :3].all()


@pytest.mark.parametrize(
    ("defences", "words"),
    [
        ([LaplaceNoise(1), GaussianNoise(1), LaplaceNoise(2)], "Laplace.*1.0.*2.0.*Gaussian"),
        ([LaplaceNoise(1), Quantise(4), LaplaceNoise(1)], "Laplace.* after Rounding"),
        ([LaplaceNoise(1), Quantise(4), Quantise(2)], "Rounding.* after Rounding"),
    ],
)
def test_what_has_no_likelihood_says_so_in_one_line(
    defences: list[DefenceModule], words: str
) -> None:
    with pytest.raises(NoLikelihood, match=words) as caught:
        DefenceList(defences).misfit(torch.zeros(1, 2), torch.zeros(1, 1, 2))
    assert "\n" not in str(caught.value)


NOISES: list[Noise] = [
    Laplace(0.7),
    Gaussian(0.7),
    NormalLaplace(0.5, 0.3),
    NormalLaplace(0.05, 2.0),
    NormalLaplace(3.0, 0.01),
    TwoLaplaces(0.5, 0.5),
    TwoLaplaces(0.5, 0.499999),
    TwoLaplaces(0.5, 0.1),
]


def mp_density(noise: Noise) -> Callable[["mpmath.mpf"], "mpmath.mpf"]:
    """The normalised density, with as many digits as are asked for."""

    def laplace(scale: float, x: "mpmath.mpf") -> "mpmath.mpf":
        return mpmath.exp(-abs(x) / mpmath.mpf(scale)) / (2 * mpmath.mpf(scale))

    match noise:
        case Laplace(scale):
            return lambda x: laplace(scale, x)
        case Gaussian(std):
            return lambda x: mpmath.npdf(x, 0, std)
        case NormalLaplace(scale, std):
            b, s = mpmath.mpf(scale), mpmath.mpf(std)
            # ∫ Laplace(t) N(x - t) dt, each half of it completed to a square.
            return lambda x: sum(
                mpmath.exp(s**2 / (2 * b**2) - sign * x / b)
                * mpmath.ncdf(sign * x / s - s / b)
                / (2 * b)
                for sign in (1, -1)
            )
        case TwoLaplaces(scale, narrow):
            b, c = mpmath.mpf(scale), mpmath.mpf(narrow)
            if b == c:
                return lambda x: laplace(b, x) * (1 + abs(x) / b) / 2
            return lambda x: (b**2 * laplace(b, x) - c**2 * laplace(c, x)) / (b**2 - c**2)
    raise AssertionError(noise)


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_densities_are_those_of_the_sum(noise: Noise) -> None:
    """The oracle above is the convolution by scipy's quadrature, and ours is the oracle, up to a constant."""
    residuals = [-6.0, -0.9, -0.02, 0.0, 0.3, 2.0, 11.0]
    with mpmath.workdps(60):
        expected = [mp_density(noise)(mpmath.mpf(r)) for r in residuals]
        logs = np.array([float(mpmath.log(value)) for value in expected])
    ours = noise.misfit(torch.tensor(residuals).double()).numpy()
    np.testing.assert_allclose(ours - ours[3], logs[3] - logs, rtol=1e-9, atol=1e-7)
    if isinstance(noise, NormalLaplace | TwoLaplaces):
        other = (
            stats.norm(scale=noise.std)
            if isinstance(noise, NormalLaplace)
            else stats.laplace(scale=noise.narrow)
        )
        wide = stats.laplace(scale=noise.scale)
        for residual, density in zip(residuals[1:-1], expected[1:-1]):
            points = sorted({0.0, residual, residual - 0.05, residual + 0.05, -40.0, 40.0})
            found = sum(
                quad(lambda t: wide.pdf(t) * other.pdf(residual - t), *ends, epsabs=0, limit=200)[0]
                for ends in itertools.pairwise(points)
            )
            assert found == pytest.approx(float(density), rel=1e-6)


CELLS = [(-0.2, 0.3), (0.0, 0.5), (-0.5, 0.0), (3.0, 3.0001), (-9.0, -8.0), (12.0, 14.0)]


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_the_mass_of_a_cell_is_the_integral_of_the_density(noise: Noise) -> None:
    cells = [*CELLS, (-math.inf, -4.0), (-math.inf, 0.1), (-0.1, math.inf), (7.0, math.inf)]
    lower, upper = torch.tensor(cells).double().unbind(1)
    ours = noise.log_mass(lower, upper)
    with mpmath.workdps(25):
        for found, (low, high) in zip(ours.tolist(), zip(lower.tolist(), upper.tolist())):
            start, end = max(low, -400.0), min(high, 400.0)
            # The quadrature needs help at the kink, and where the density falls steeply.
            near = np.concatenate([np.linspace(start, start + 2, 9), np.linspace(end - 2, end, 9)])
            edges = {*near.tolist(), -30.0, -3.0, 0.0, 3.0, 30.0}
            ends = [start, *sorted(edge for edge in edges if start < edge < end), end]
            mass = mpmath.quad(mp_density(noise), ends)
            assert found == pytest.approx(float(mpmath.log(mass)), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("ratio", [1.0, 30.0, 1000.0])
def test_single_precision_is_enough_for_what_is_sent(ratio: float) -> None:
    """Only differences between images count: where the Laplace noise is next to none they are those of the Gaussian."""
    noise, normal = NormalLaplace(1 / ratio, 1.0), Gaussian(1.0)
    residual = 3 * torch.randn(500)
    exact = noise.misfit(residual.double())
    assert (noise.misfit(residual).double() - exact).abs().sum() < 1e-3
    if ratio > 100:
        nearly = exact - normal.misfit(residual.double())
        assert float(nearly.max() - nearly.min()) < 1e-3


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_far_tails_are_finite_and_have_the_slope_of_the_density(noise: Noise) -> None:
    """Thousands of standard deviations out, where every difference of distribution functions is 0 - 0 or 1 - 1."""
    for sign in (-1, 1):
        place = (sign * torch.tensor([0.0, 5.0, 100.0, 2000.0]).double()).requires_grad_()
        mass = noise.log_mass(place - 1e-4, place + 1e-4)
        (slope,) = torch.autograd.grad(mass.sum(), place)
        density = -noise.misfit(place)
        (wanted,) = torch.autograd.grad(density.sum(), place)
        assert mass.isfinite().all()
        torch.testing.assert_close(slope[1:], wanted[1:], rtol=1e-3, atol=1e-3)
        # Without end on one side the slope is that of the tail, and flat where all the mass lies.
        for ends in ((place - math.inf, place), (place, place + math.inf)):
            (slope,) = torch.autograd.grad(noise.log_mass(*ends).sum(), place)
            assert slope.isfinite().all()


# ---------------------------------------------------------------- guarantee

WIDTH, REACH = 0.02, 8.0
GRID = np.arange(-400, 401) * WIDTH


def kernel(distribution: stats.rv_continuous) -> NDArray[np.float64]:
    """Transitions between points of the grid by noise that is rounded to it; the ends take what lies beyond."""
    distance = np.abs(GRID[:, None] - GRID)
    near = distribution.cdf(WIDTH / 2 - distance)
    made = near - distribution.cdf(-WIDTH / 2 - distance)
    for end in (0, -1):
        made[:, end] = near[:, end]
    return np.asarray(made)


def moved(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Transitions by a map of the grid into itself."""
    made = np.zeros((len(GRID), len(GRID)))
    made[np.arange(len(GRID)), np.abs(places[:, None] - GRID).argmin(1)] = 1
    return made


TRANSITIONS: dict[str, NDArray[np.float64]] = {
    "laplace": kernel(stats.laplace(scale=0.5)),
    "gaussian": kernel(stats.norm(scale=0.4)),
    "clip": moved(GRID.clip(-0.6, 0.6)) @ kernel(stats.norm(scale=0.3)),
    "clamp": moved(GRID.clip(-0.6, 0.6)) @ kernel(stats.laplace(scale=0.4)),
    "quantise": moved((GRID.clip(-1, 1) * 1.5 + 1.5).round() / 1.5 - 1),
    "wire": np.eye(len(GRID)),
    "nopeek": np.eye(len(GRID)),
}


def divergence(p: NDArray[np.float64], q: NDArray[np.float64], epsilon: float) -> float:
    """δ at ε of telling one from the other: the hockey-stick divergence."""
    return float(np.maximum(0, p - math.exp(epsilon) * q).sum())


def worst(transitions: NDArray[np.float64], epsilon: float) -> float:
    """Over inputs in [-1, 1]."""
    rows = transitions[np.abs(GRID[:, None] - [-1, -0.34, 0.3, 1]).argmin(0)]
    return max(divergence(p, q, epsilon) for p, q in itertools.permutations(rows, 2))


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_the_guarantee_of_a_pair_holds(first: str, second: str) -> None:
    """One value is sent; all that happens to it is written out as a matrix."""
    epsilon, delta = both(first, second).guarantee((1,), 1.0)
    transitions = TRANSITIONS[first] @ TRANSITIONS[second]
    if {first, second}.isdisjoint(NOISY):
        assert (epsilon, delta) == (math.inf, None)
        return
    assert delta in (None, DELTA)
    assert worst(transitions, epsilon) <= 1.000001 * (delta or 0) + 1e-13
    if first not in NOISY:  # and no less would do
        assert worst(transitions, 0.98 * epsilon) > (delta or 1e-9)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_nobody_names_more_inputs_than_a_pair_allows(first: str, second: str) -> None:
    """Whoever hears a value names the input that makes it most likely."""
    transitions, defences = TRANSITIONS[first] @ TRANSITIONS[second], both(first, second)
    for inputs in ([-1, 1], [-1, -0.34, 0.3, 1]):
        rows = transitions[np.abs(GRID[:, None] - inputs).argmin(0)]
        named, count = float(rows.max(0).sum()) / len(inputs), len(inputs)
        bound = naming(defences.mechanism(), Values(1, -1, 1), count)
        assert named <= bound + 1e-9 <= 1 + 1e-9
        if count == 2 and first not in NOISY:  # and no less would do
            assert named > 0.98 * bound


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_what_is_clipped_after_noise_is_hidden_by_the_noise_after_it(scale: float) -> None:
    """With almost no noise before, the second alone must do; with much, the first is the better."""
    defences = DefenceList([LaplaceNoise(scale), ClipGaussian(0.3, 0.6)])
    epsilon, delta = defences.guarantee((1,), 1.0)
    transitions = kernel(stats.laplace(scale=scale)) @ TRANSITIONS["clip"]
    if scale == 100:
        assert (epsilon, delta) == (2 / 100, None)
        assert worst(transitions, epsilon) < 1e-13
    else:
        assert (epsilon, delta) == (gaussian_epsilon(0.3, 1.2), DELTA)
        assert 0.9 * DELTA < worst(transitions, epsilon) <= DELTA


def test_no_two_clipped_pictures_are_told_apart_more_easily_than_opposite_ones() -> None:
    """Two values, not bounded by the network, over a grid in the plane."""
    defence = ClipGaussian(0.5, radius=1.0)
    epsilon, delta = DefenceList([defence]).guarantee((2,), None)
    assert epsilon == gaussian_epsilon(0.5, 2.0) and delta == DELTA
    axis = torch.linspace(-5, 5, 401).double()
    places = torch.cartesian_prod(axis, axis).numpy()

    def density(activation: Tensor) -> NDArray[np.float64]:
        centre = defence.clip.apply(activation[None].double())[0].numpy()
        made = stats.multivariate_normal(centre, 0.25).pdf(places)
        return np.asarray(made / made.sum())

    torch.manual_seed(0)
    for one, other in zip(5 * torch.randn(20, 2), 5 * torch.randn(20, 2)):
        assert divergence(density(one), density(other), epsilon) <= DELTA
    one = torch.tensor([3.0, 4.0])
    opposite = divergence(density(one), density(-one), epsilon)
    assert opposite == pytest.approx(DELTA, rel=0.03)


@pytest.mark.parametrize("queries", [1, 2, 3])
def test_transmissions_of_laplace_noise_lose_no_more_than_their_sum(queries: int) -> None:
    epsilon, delta = DefenceList([LaplaceNoise(0.5), Quantise(3)]).guarantee((1,), 1.0, queries)
    assert (epsilon, delta) == (4.0 * queries, None)
    levels = np.linspace(-1, 1, 8)
    edges = np.array([-np.inf, *(levels[1:] + levels[:-1]) / 2, np.inf])
    one, other = (np.diff(stats.laplace(loc, 0.5).cdf(edges)) for loc in (-1, 1))
    heard = [np.prod(np.meshgrid(*[mass] * queries), axis=0).ravel() for mass in (one, other)]
    # Rounding takes a little: the outer levels lie on one another's side of the truth in no case.
    loss = np.log(heard[0] / heard[1]).max()
    assert 0.9 * epsilon < loss <= epsilon


@pytest.mark.parametrize("queries", [1, 4, 25])
def test_gaussian_noise_of_several_transmissions_spends_its_delta(queries: int) -> None:
    epsilon, delta = sent(0.0, 40.0, 500, 1.0, queries)
    assert delta == 1e-5
    ratio = 2 * math.sqrt(500 * queries) / 40

    def excess(x: float) -> float:
        return max(0.0, stats.norm.pdf(x - ratio) - math.exp(epsilon + stats.norm.logpdf(x)))

    start = epsilon / ratio + ratio / 2
    assert quad(excess, start, start + 12, epsabs=0)[0] == pytest.approx(1e-5, rel=1e-6)


def test_either_noise_alone_suffices() -> None:
    laplace = laplace_epsilon(1.0, 1000.0)
    gaussian = gaussian_epsilon(2.0, 2 * math.sqrt(500))
    assert sent(1.0, 0.0, 500, 1.0) == (laplace, None)
    assert sent(0.0, 2.0, 500, 1.0) == (gaussian, 1e-5)
    assert sent(1.0, 2.0, 500, 1.0) == (gaussian, 1e-5)
    assert sent(0.0, 0.0, 500, 1.0) == (math.inf, None)


def test_laplace_noise_of_several_transmissions_costs_each_in_full() -> None:
    assert sent(2.0, 0.0, 500, 1.0, 7) == (3500.0, None)
    # With both, the smaller holds with its own δ; which that is depends on how often is sent.
    assert sent(50.0, 20.0, 500, 1.0, 1)[1] == 1e-5
    assert sent(1000.0, 20.0, 500, 1.0, 1) == (1.0, None)
    assert sent(60.0, 14.0, 500, 1.0, 1) == (pytest.approx(1000 / 60), None)
    assert sent(60.0, 14.0, 500, 1.0, 100)[1] == 1e-5


@pytest.mark.parametrize(
    ("scale", "dimension", "bound", "epsilon"),
    [
        (1e-320, 500, 1.0, math.inf),
        (1e-300, 500, 1.0, 1e303),
        (1e300, 500, 1.0, 1e-297),
        (1.0, 500, 0.0, 0.0),
        (0.0, 500, 0.0, 0.0),
        (1.0, 0, 1.0, 0.0),
        (0.0, 500, 1.0, math.inf),
        (1.0, 500, None, math.inf),
    ],
)
def test_guarantees_at_the_edges_of_floating_point(
    scale: float, dimension: int, bound: float | None, epsilon: float
) -> None:
    assert sent(scale, 0.0, dimension, bound)[0] == pytest.approx(epsilon)
    if epsilon in (0, math.inf):
        assert sent(0.0, scale, dimension, bound)[0] == epsilon


def test_gaussian_noises_add_their_variances_and_of_laplace_noises_the_wider_counts() -> None:
    two = DefenceList([GaussianNoise(3.0), NoPeek(0.1), GaussianNoise(4.0)])
    assert two.guarantee((500,), 1.0) == DefenceList([GaussianNoise(5.0)]).guarantee((500,), 1.0)
    two = DefenceList([LaplaceNoise(3.0), LaplaceNoise(4.0)])
    assert two.guarantee((500,), 1.0) == (250.0, None)


@pytest.mark.parametrize("part", [LaplaceNoise, GaussianNoise, ClipGaussian])
def test_stronger_noise_promises_more_and_none_nothing(part: type[DefenceModule]) -> None:
    epsilons = [
        DefenceList([part(strength)]).guarantee((20,), 1.0)[0]  # type: ignore[arg-type]
        for strength in (0.0, 0.1, 1.0, 10.0, 100.0)
    ]
    assert epsilons == sorted(epsilons, reverse=True) and len(set(epsilons)) == 5
    assert epsilons[0] == math.inf


def test_a_smaller_ball_promises_more_whatever_the_number_of_values() -> None:
    epsilons = [
        [DefenceList([ClipGaussian(1.0, r)]).guarantee((d,), None)[0] for d in (3, 3000)]
        for r in (0.1, 1.0, 10.0)
    ]
    assert epsilons == sorted(epsilons) and all(few == many for few, many in epsilons)


# ---------------------------------------------------------------- sets


@pytest.mark.parametrize(
    "step", [Clip(0.8), Clip(3.0), Clamp(0.8), Clamp(0.1), Rounding(-1, 1, 4), Rounding(0, 3, 2)]
)
@pytest.mark.parametrize("box", [(-1.0, 1.0), (0.5, 2.0), (-3.0, -1.0), (-0.2, 4.0)])
def test_a_map_keeps_points_within_its_image(step: Map, box: tuple[float, float]) -> None:
    torch.manual_seed(0)
    low, high = box
    values = Values(3, low, high)
    corners = torch.cartesian_prod(*[torch.tensor(box)] * 3)
    points = torch.cat([low + (high - low) * torch.rand(500, 3), corners])
    image = step.image(values)
    found = step.apply(points)
    assert found.min() >= image.low - 1e-6 and found.max() <= image.high + 1e-6
    for norm, limit in ((1, image.apart_l1()), (2, image.apart_l2())):
        assert torch.cdist(found, found, p=norm).max() <= limit * (1 + 1e-6)
    assert step.image(Values(3)).apart_l2() < math.inf


def test_balls_and_boxes_limit_each_other() -> None:
    ball = Values(4, l2=2.0)
    assert (ball.apart_l1(), ball.apart_l2(), ball.apart_l2(9)) == (4, 2, 6)
    assert Values(4, -1, 1, l2=100.0).apart_l2() == 4
    assert Values(4, -1, 1, l1=1.5).apart_l2() == 1.5
    assert Values(500, -1, 1).apart_l1() == 1000
    assert Values(3).apart_l1() == Values(3).apart_l2(5) == math.inf


# ---------------------------------------------------------------- parts


class Mystery(DefenceModule):
    """Does something, and does not say what."""

    def forward(self, activation: Tensor) -> Tensor:
        return activation.sort().values


def test_who_does_not_say_what_it_does_has_no_likelihood_and_promises_nothing() -> None:
    with pytest.raises(NoLikelihood, match="what Mystery gives is not known"):
        DefenceList([Mystery()]).misfit(torch.zeros(1, 2), torch.zeros(1, 1, 2))
    laplace = LaplaceNoise(1.0)
    for defences, epsilon in (
        ([Mystery()], math.inf),
        ([Mystery(), laplace], math.inf),
        ([laplace, Mystery()], 10.0),
        ([Mystery(), ClipGaussian(1.0)], gaussian_epsilon(1.0, 2.0)),
    ):
        assert DefenceList(defences).guarantee((5,), 1.0)[0] == epsilon


def test_parts_say_whether_they_are_random() -> None:
    assert [name for name, part in PARTS.items() if part.random] == list(NOISY)
    noisy = {type(part().build(CUT)) for part in DEFENCES.values() if part.noisy}
    assert noisy == {type(PARTS[name]) for name in NOISY}
    assert Mystery().random and not LaplaceNoise(0.0).random


@pytest.mark.parametrize("bits", [1, 2, 3, 8, 16])
def test_quantised_values_are_the_nearest_levels(bits: int) -> None:
    activation = torch.randn(30, 4, 5)
    levels = np.linspace(-1, 2, 2**bits)
    found = Quantise(bits, -1, 2)(activation)
    distance = np.abs(activation.numpy().clip(-1, 2)[..., None] - levels[:: max(1, 2**bits // 256)])
    assert found.min() >= -1 and found.max() <= 2
    moved_by = (found - activation.clamp(-1, 2)).abs().numpy()
    assert moved_by.max() <= 3 / (2**bits - 1) / 2 + 1e-6
    assert (moved_by <= distance.min(-1) + 1e-6).all()
    assert len(found.unique()) <= 2**bits
    assert torch.equal(Quantise(bits, -1, 2)(found), found)


def test_training_sees_through_the_rounding_but_not_beyond_the_range() -> None:
    activation = torch.tensor([[-1.5, -0.3, 0.0, 0.9, 1.1]], requires_grad=True)
    Quantise(3)(activation).sum().backward()
    assert activation.grad is not None and activation.grad.tolist() == [[0, 1, 1, 1, 0]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1.5,), "number of bits is 1.5; it must be a whole number from 0 to 16"),
        ((17,), "number of bits is 17; it must be"),
        ((4, 1.0, 1.0), "range is from 1.0 to 1.0; there is nothing between"),
        ((4, 1.0, -1.0), "range from 1.0 to -1.0 is -2.0"),
        ((4, -math.inf, 1.0), "range from -inf to 1.0 is inf"),
    ],
)
def test_ranges_and_bits_that_are_none_are_refused(values: tuple[float, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Quantise(*values)


@pytest.mark.parametrize("step", [Clip(2.0), Clamp(2.0)])
def test_no_number_escapes_a_clip(step: Map) -> None:
    """Infinity and NaN would be heard through any noise."""
    given = torch.tensor([[math.inf, 1.0], [math.nan, 3e38], [-math.inf, -3e38], [0.0, 1.0]])
    for dtype in (torch.float32, torch.float64):
        clipped = step.apply(given.to(dtype))
        assert clipped.dtype == dtype and clipped.isfinite().all() and clipped.abs().max() <= 2
    assert clipped[3].tolist() == [0, 1]


def test_clipping_shortens_what_is_too_long_and_nothing_else() -> None:
    activation = torch.randn(50, 3, 4) * torch.logspace(-3, 2, 50).view(50, 1, 1)
    clipped = Clip(1.0).apply(activation)
    norms = activation.flatten(1).norm(dim=1)
    short = norms <= 1
    assert torch.equal(clipped[short], activation[short]) and 5 < short.sum() < 45
    torch.testing.assert_close(clipped.flatten(1).norm(dim=1), norms.clamp(max=1))
    assert torch.equal(Clip(1.0).apply(torch.zeros(2, 3)), torch.zeros(2, 3))
    with pytest.raises(UsageError, match="radius of the clip is 0"):
        ClipGaussian(1.0, 0.0)


# ---------------------------------------------------------------- the command line


def test_both_new_defences_go_through_the_command_line(
    place: Path, few: None, capsys: pytest.CaptureFixture[str]
) -> None:
    common = "--max_epochs 1 --network lenet5 --cut fc2".split()
    options = "--clip_std 0.5 --clip_radius 2 --quantise_bits 3 --quantise_low -4 --quantise_high 4"
    assert main(["train_model", *common, *options.split()]) == 0
    target = Path(capsys.readouterr().out.strip())
    assert "_05clip_20radius_3quantise_-40low_40high_" in target.name
    attack = "train_attacker --attack inversion --steps 2 --restarts 1 --queries 3 --model".split()
    assert main([*attack, target.stem]) == 0
    attacker = Path(capsys.readouterr().out.strip())
    row = classifier_row(target, "data")
    assert (row["Epsilon"], row["EpsilonDelta"]) == (gaussian_epsilon(0.5, 4.0), DELTA)
    assert (row["ClipStd"], row["ClipRadius"], row["QuantiseBits"]) == (0.5, 2.0, 3)
    row, _ = attacker_row(attacker, "models", "data", None)
    assert row["Epsilon"] == gaussian_epsilon(0.5, 4.0 * math.sqrt(3))
    attack = load_attacked(attacker, "models").attack
    attack.reconstruct(torch.zeros(1, 84))
    assert attack.blind == "", "a clip, noise and rounding have a likelihood"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--quantise_bits 17", "number of bits is 17"),
        ("--quantise_low -1", "quantise_low says nothing without --quantise_bits"),
        ("--quantise_bits 4 --network lenet5", "give --quantise_low and --quantise_high"),
        ("--quantise_bits 4 --quantise_low 1 --quantise_high 1", "there is nothing between"),
        ("--clip_std -1", "clip_std is -1.0; it must be a finite number, 0 or greater"),
        ("--clip_std 1 --clip_radius 0", "clip_radius is 0.0; it must be a finite number"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], options: str, message: str
) -> None:
    assert main(["train_model", *options.split()]) == 2
    err = capsys.readouterr().err
    assert message in err.splitlines()[-1] and "Traceback" not in err
    assert not list(place.glob("models/**/*.ckpt"))
