"""What no attacker can beat, against Wiener's error, integrals in one dimension, and attackers who cheat."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from torch import Tensor

from dpsnn.defences import DefenceList, DefenceModule
from dpsnn.defences.noise import GaussianNoise, LaplaceNoise
from dpsnn.metrics.optimum import (
    BEYOND_DOUBT,
    capital,
    evidence,
    named,
    posterior,
    posterior_mean,
)


def nats(mechanism: DefenceList, known: Tensor, heard: Tensor) -> Tensor:
    """-ln of how likely each of m rows makes each of n heard ones, by the public `misfit`."""
    found = []
    for part in heard.split(max(1, 200_000 // len(known)), 1):
        pairs = known.repeat(part.shape[1], 1), part.repeat_interleave(len(known), 1)
        found.append(known.shape[1] * mechanism.misfit(*pairs).view(-1, len(known)))
    return torch.cat(found)


def sent(mechanism: DefenceList, codes: Tensor, queries: int = 1) -> Tensor:
    return torch.stack([mechanism(codes) for _ in range(queries)])


@pytest.mark.parametrize(("dimension", "queries"), [(1, 1), (1, 4), (2, 1), (3, 1)])
def test_of_gaussian_data_and_a_linear_encoder_it_is_wieners_error(
    dimension: int, queries: int
) -> None:
    torch.manual_seed(dimension)
    spread, std, count, times = torch.tensor([1.0, 0.7, 0.5])[:dimension], 0.9, 1500, 6
    even = torch.quasirandom.SobolEngine(dimension, scramble=True, seed=0).draw(count)
    images, encoder = torch.special.ndtri(even.double()).float() * spread, torch.randn(dimension, 4)
    noise, codes = DefenceList([GaussianNoise(std * math.sqrt(queries))]), images @ encoder
    weights = posterior(nats(noise, codes, sent(noise, codes.repeat(times, 1), queries)))
    error = (posterior_mean(weights, images) - images.repeat(times, 1)).pow(2).sum(1).mean()
    wiener = (torch.diag(spread**-2) + encoder @ encoder.T / std**2).inverse().trace()
    assert error == pytest.approx(float(wiener), rel=0.02)


def integral(
    places: np.ndarray, density: Callable[[np.ndarray], np.ndarray], of: str, reach: float = 60
) -> float:
    """Least squared error, or the largest share named right, of points on a line, one value of which is heard."""

    def at(heard: float) -> float:
        likely = density(heard - places) / len(places)
        if of == "named":
            return float(likely.max())
        mean = (likely * places).sum() / likely.sum() if likely.sum() > 0 else 0.0
        return float((likely * (places - mean) ** 2).sum())

    corners = sorted({-reach, *places.tolist(), reach})
    return sum(quad(at, *ends, limit=200)[0] for ends in itertools.pairwise(corners))


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("dimension", [1, 40])
@pytest.mark.parametrize("places", [(0.0, 2.0), (0.0, 1.0, 4.0), (-3.0, 0.0, 0.5, 2.0)])
def test_of_known_points_it_is_an_integral_over_the_line_through_them(
    places: tuple[float, ...], dimension: int, queries: int
) -> None:
    torch.manual_seed(0)
    along = torch.nn.functional.normalize(torch.randn(dimension), dim=0)
    images, times = torch.tensor(places)[:, None] * along, 40_000
    noise = DefenceList([GaussianNoise(math.sqrt(queries))])
    errors, right = [], []
    for index, image in enumerate(images):
        weights = posterior(nats(noise, images, sent(noise, image.expand(times, -1), queries)))
        errors.append((posterior_mean(weights, images) - image).pow(2).sum(1).mean())
        right.append((weights.argmax(1) == index).float().mean())
    line, density = np.array(places), stats.norm.pdf
    assert torch.stack(errors).mean() == pytest.approx(integral(line, density, "error"), rel=0.02)
    assert torch.stack(right).mean() == pytest.approx(integral(line, density, "named"), rel=0.01)


@pytest.mark.parametrize("places", [(0.0, 2.0), (-3.0, 0.0, 0.5, 2.0)])
def test_of_laplace_noise_as_well(places: tuple[float, ...]) -> None:
    torch.manual_seed(0)
    images = torch.zeros(len(places), 6)  # five values tell nothing
    images[:, 2] = torch.tensor(places)
    noise = DefenceList([LaplaceNoise(1.5)])
    errors, right = [], []
    for index, image in enumerate(images):
        weights = posterior(nats(noise, images, sent(noise, image.expand(20_000, -1))))
        errors.append((posterior_mean(weights, images) - image).pow(2).sum(1).mean())
        right.append((weights.argmax(1) == index).float().mean())
    line, density = np.array(places), stats.laplace(scale=1.5).pdf
    assert torch.stack(errors).mean() == pytest.approx(integral(line, density, "error"), rel=0.02)
    assert torch.stack(right).mean() == pytest.approx(integral(line, density, "named"), rel=0.01)


def test_without_any_leak_it_is_the_mean_image_and_chance() -> None:
    images = torch.rand(50, 1, 3, 3)
    weights = posterior(torch.full((50, 50), 7.0))
    torch.testing.assert_close(
        posterior_mean(weights, images), images.mean(0, keepdim=True).expand(50, 1, 3, 3)
    )
    assert named(weights).sum() == 1


def test_rows_may_come_in_parts() -> None:
    torch.manual_seed(0)
    images = torch.rand(30, 8)
    weights = posterior(nats(*_heard(images, GaussianNoise(0.4))))
    best = posterior_mean(weights, images)
    guesses = best + 0.1 * torch.randn_like(best)
    parts = [slice(0, 13), slice(13, 30)]
    split = [evidence(guesses[p], best[p], weights[p], images, p.start) for p in parts]
    torch.testing.assert_close(
        torch.stack(split).sum(0), evidence(guesses, best, weights, images), rtol=1e-4, atol=1e-4
    )
    assert torch.equal(torch.cat([named(weights[p], p.start) for p in parts]), named(weights))


# ---------------------------------------------------------------- nobody beats it


def _heard(codes: Tensor, noise: DefenceModule) -> tuple[DefenceList, Tensor, Tensor]:
    mechanism = DefenceList([noise])
    return mechanism, codes, sent(mechanism, codes)


def _of(guesses: Tensor, weights: Tensor, images: Tensor) -> float:
    return capital(evidence(guesses, posterior_mean(weights, images), weights, images))


NOISES = [GaussianNoise(0.9), GaussianNoise(0.3), LaplaceNoise(0.6), LaplaceNoise(0.1)]


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_attackers_who_are_as_good_as_can_be_gain_nothing(noise: DefenceModule) -> None:
    """The capital is 1 on average or less: against the mode, one who is too sure, and one too careful."""
    torch.manual_seed(0)
    images = torch.rand(20, 4)
    found: list[list[float]] = []
    for _ in range(120):
        misfits = nats(*_heard(images, noise))
        weights = posterior(misfits)
        others = (1e6 * misfits, 1.5 * misfits, 0.7 * misfits)
        tried = [posterior_mean(posterior(other), images) for other in others]
        found.append([_of(guess, weights, images) for guess in (images[:1].expand(20, 4), *tried)])
    capitals = torch.tensor(found).exp()
    assert (capitals.log() < BEYOND_DOUBT).all()
    assert (capitals.mean(0) < 1 + 4 * capitals.std(0) / math.sqrt(120)).all()


@pytest.mark.parametrize("noise", [GaussianNoise(1.0), LaplaceNoise(0.8)], ids=str)
def test_who_hears_twice_what_is_accounted_for_once_is_caught(noise: DefenceModule) -> None:
    torch.manual_seed(0)
    images = torch.rand(300, 6)
    mechanism = DefenceList([noise])
    heard = sent(mechanism, images, 2)
    once, twice = (posterior(nats(mechanism, images, heard[:q])) for q in (1, 2))
    guesses = posterior_mean(twice, images)
    assert (guesses - images).pow(2).mean() < (posterior_mean(once, images) - images).pow(2).mean()
    assert _of(guesses, once, images) > BEYOND_DOUBT
    assert _of(guesses, twice, images) == pytest.approx(0, abs=1e-4)


def test_who_is_handed_the_truth_is_caught_even_where_he_hides_it() -> None:
    torch.manual_seed(0)
    images = torch.rand(200, 6)
    weights = posterior(nats(*_heard(images, GaussianNoise(1.0))))
    best = posterior_mean(weights, images)
    assert _of(images, weights, images) > 10 * BEYOND_DOUBT
    # His error is that of the optimum and more, yet nobody can know what he knows.
    hidden = best + 0.3 * (images - best) + 0.25 * torch.randn_like(best)
    assert (hidden - images).pow(2).mean() > (best - images).pow(2).mean()
    assert _of(hidden, weights, images) > BEYOND_DOUBT


def test_less_noise_than_is_accounted_for_is_caught() -> None:
    torch.manual_seed(0)
    images = torch.rand(300, 6)
    heard = sent(DefenceList([GaussianNoise(0.5)]), images)
    told, true = (
        posterior(nats(DefenceList([GaussianNoise(std)]), images, heard)) for std in (1.0, 0.5)
    )
    assert _of(posterior_mean(true, images), told, images) > BEYOND_DOUBT
