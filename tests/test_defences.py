"""Defences: nothing at strength 0, the stated distribution otherwise, and no composition classes."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats

from dpsnn.defences import DEFENCES, CutInfo, DefenceList, DefenceModule
from dpsnn.defences.clamp import ClampLaplace
from dpsnn.defences.clip import ClipGaussian
from dpsnn.defences.noise import GaussianNoise, LaplaceNoise
from dpsnn.defences.nopeek import NoPeek
from dpsnn.defences.quantise import Quantise
from dpsnn.errors import UsageError
from dpsnn.metrics import distance_correlation


@pytest.fixture
def activation() -> torch.Tensor:
    return torch.randn(20, 500).tanh()


@pytest.mark.parametrize("name", sorted(DEFENCES))
def test_strength_zero_is_exactly_the_identity(name: str, activation: torch.Tensor) -> None:
    defence = DEFENCES[name]().build(CutInfo((500,), (1, 8, 8), 10, bound=1.0))
    if defence is None:  # it changes the training alone
        return
    assert torch.equal(defence(activation), activation)
    assert defence.penalty(torch.rand(20, 1, 8, 8), activation).item() == 0


@pytest.mark.parametrize(
    "part", [ClampLaplace, ClipGaussian, GaussianNoise, LaplaceNoise, NoPeek, Quantise]
)
@pytest.mark.parametrize("strength", [-0.1, math.nan, math.inf])
def test_impossible_strengths_are_refused(
    part: Callable[[float], DefenceModule], strength: float
) -> None:
    with pytest.raises(UsageError, match=f"is {strength}; it must be a finite number"):
        part(strength)


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_noise_has_the_laplace_distribution(scale: float) -> None:
    torch.manual_seed(0)
    zeros = torch.zeros(200, 500)
    noise = LaplaceNoise(scale)(zeros).flatten().numpy()
    assert stats.kstest(noise, stats.laplace(scale=scale).cdf).pvalue > 0.01
    # The test has the power to tell it from a Gaussian of the same variance.
    normal = stats.norm(scale=scale * math.sqrt(2)).cdf
    assert stats.kstest(noise, normal).pvalue < 1e-6


def test_gaussian_noise_has_the_normal_distribution() -> None:
    torch.manual_seed(0)
    noise = GaussianNoise(0.7)(torch.zeros(200, 500)).flatten().numpy()
    assert stats.kstest(noise, stats.norm(scale=0.7).cdf).pvalue > 0.01


@pytest.mark.parametrize("defence", [LaplaceNoise(1.0), GaussianNoise(1.0)])
def test_noise_is_fresh_independent_and_not_in_place(
    defence: LaplaceNoise | GaussianNoise, activation: torch.Tensor
) -> None:
    before = activation.clone()
    first, second = defence(activation) - activation, defence(activation) - activation
    assert torch.equal(activation, before)
    assert abs(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) < 0.05
    assert (
        abs(torch.corrcoef(torch.stack([first[:, 0:-1].flatten(), first[:, 1:].flatten()]))[0, 1])
        < 0.05
    )
    defence.eval()
    assert not torch.equal(defence(activation), activation), "noise is not a training-time trick"


def test_more_noise_leaks_less() -> None:
    torch.manual_seed(0)
    images = torch.rand(400, 1, 8, 8)
    correlations = [
        distance_correlation(images, LaplaceNoise(scale)(images.flatten(1))).item()
        for scale in (0.0, 0.1, 0.5, 2.0)
    ]
    assert correlations == sorted(correlations, reverse=True)
    assert correlations[0] == pytest.approx(1, abs=1e-4)


def test_nopeek_is_weight_times_distance_correlation(activation: torch.Tensor) -> None:
    images = torch.rand(20, 1, 8, 8)
    for exponent in (1.0, 2.0):
        expected = 0.5 * distance_correlation(images, activation, exponent)
        torch.testing.assert_close(NoPeek(0.5, exponent).penalty(images, activation), expected)
    assert torch.equal(NoPeek(0.5)(activation), activation)


def test_nopeek_lets_a_last_batch_of_one_pass() -> None:
    assert NoPeek(0.5).penalty(torch.rand(1, 1, 8, 8), torch.rand(1, 5)).item() == 0


def test_training_on_the_penalty_lowers_it() -> None:
    torch.manual_seed(0)
    images = torch.rand(64, 1, 6, 6)
    client = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 20), torch.nn.Tanh())
    optimiser = torch.optim.Adam(client.parameters(), 1e-2)
    values = []
    for _ in range(60):
        penalty = NoPeek(1.0).penalty(images, client(images))
        optimiser.zero_grad()
        penalty.backward()
        optimiser.step()
        values.append(penalty.item())
    assert values[-1] < values[0] - 0.1


def test_a_combination_is_a_list(activation: torch.Tensor) -> None:
    images = torch.rand(20, 1, 8, 8)
    both = DefenceList([LaplaceNoise(1.0), NoPeek(0.5), NoPeek(0.25)])
    torch.manual_seed(3)
    smashed = both(activation)
    torch.manual_seed(3)
    torch.testing.assert_close(smashed, LaplaceNoise(1.0)(activation))
    expected = 0.75 * distance_correlation(images, smashed)
    torch.manual_seed(3)
    again, penalty = both.train_on(images, activation)
    assert torch.equal(again, smashed)
    torch.testing.assert_close(penalty, expected)
    assert torch.equal(DefenceList()(activation), activation)


def test_nopeek_looks_at_what_has_come_as_far_as_it(activation: torch.Tensor) -> None:
    images = activation[:, :64].reshape(20, 1, 8, 8) + 2
    noise, nopeek = LaplaceNoise(1.0), NoPeek(1.0)
    smashed, noisy = DefenceList([noise, nopeek]).train_on(images, activation)
    torch.testing.assert_close(noisy, distance_correlation(images, smashed))
    smashed, clean = DefenceList([nopeek, noise]).train_on(images, activation)
    torch.testing.assert_close(clean, distance_correlation(images, activation))
    assert not torch.equal(smashed, activation), "the noise is on the wire all the same"
    assert not torch.isclose(clean, noisy)
