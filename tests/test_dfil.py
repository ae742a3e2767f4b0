"""Diagonal Fisher information leakage against written-out Jacobians and estimators that attain its bound."""

import math

import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from torch import Tensor, nn

from dpsnn.defences import DefenceList, DefenceModule
from dpsnn.defences.clip import ClipGaussian
from dpsnn.defences.mechanism import information
from dpsnn.defences.noise import GaussianNoise, LaplaceNoise
from dpsnn.defences.quantise import Quantise
from dpsnn.errors import NoLikelihood
from dpsnn.metrics import dfil
from dpsnn.metrics.dfil import squared_jacobians, unbiased_bound
from dpsnn.target import Target


def client() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 7), nn.Tanh())


@pytest.mark.parametrize("at_once", [2, 128])
def test_the_jacobian_is_that_of_autograd(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dfil, "AT_ONCE", at_once)
    images = torch.rand(3, 1, 6, 6)
    made = client().requires_grad_(False)
    exact = [torch.autograd.functional.jacobian(made, x[None]).pow(2).sum() for x in images]
    torch.testing.assert_close(squared_jacobians(made, images), torch.stack(exact))


def test_of_many_values_it_is_right_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    images, made = torch.rand(2, 1, 6, 6), client()
    exact = squared_jacobians(made, images)
    monkeypatch.setattr(dfil, "PROBES", 5)
    found = torch.stack([squared_jacobians(made, images, seed) for seed in range(150)])
    torch.testing.assert_close(found.mean(0), exact, rtol=0.1, atol=0)


@pytest.mark.parametrize("queries", [1, 4])
def test_an_unbiased_estimator_attains_it(queries: int) -> None:
    """A client that turns and stretches: who undoes that is unbiased, and none such is better."""
    torch.manual_seed(0)
    turned = 1.7 * torch.linalg.qr(torch.randn(6, 6)).Q
    linear = nn.Linear(6, 6, bias=False)
    linear.weight.data = turned
    target = Target.of_client(linear, (6,), GaussianNoise(0.5))
    images = torch.rand(4000, 6)
    heard = target.transmit(target.encode(images), queries).mean(0)
    error = ((heard @ turned) / 1.7**2 - images).pow(2).mean()
    bound = target.unbiased_bound(images[:2], queries)
    torch.testing.assert_close(bound, torch.full((2,), 0.5**2 / 1.7**2 / queries))
    assert error == pytest.approx(float(bound[0]), rel=0.03)
    # And a constant guess, which is not unbiased, is better where noise is large.
    loud = Target.of_client(linear, (6,), GaussianNoise(5.0))
    assert (images - 0.5).pow(2).mean() < loud.unbiased_bound(images[:1])[0] / 10


def score_variance(noise: object) -> float:
    """E(d/dx ln p)² by quadrature."""
    made = stats.laplace(scale=0.4) if isinstance(noise, LaplaceNoise) else stats.norm(scale=0.4)

    def at(x: float) -> float:
        slope = (made.logpdf(x + 1e-5) - made.logpdf(x - 1e-5)) / 2e-5
        return float(made.pdf(x) * slope**2)

    return 2 * quad(at, 1e-4, 8, limit=200)[0]


@pytest.mark.parametrize(
    ("defences", "expected"),
    [
        ([GaussianNoise(0.4)], 0.4**-2),
        ([LaplaceNoise(0.4)], 0.4**-2),
        ([GaussianNoise(0.3), LaplaceNoise(0.4)], 1 / (0.3**2 + 0.4**2)),
        ([ClipGaussian(0.3, 1.0), Quantise(3)], 0.3**-2),
        ([Quantise(0)], math.inf),
    ],
    ids=str,
)
def test_the_information_of_the_noise(defences: list[DefenceModule], expected: float) -> None:
    assert information(DefenceList(defences).mechanism()) == pytest.approx(expected)
    if len(defences) == 1 and expected < math.inf:
        assert score_variance(defences[0]) == pytest.approx(expected, rel=1e-3)


def test_where_there_is_no_derivative_there_is_none() -> None:
    with pytest.raises(NoLikelihood, match="Rounding.*has no derivative"):
        information(DefenceList([Quantise(3), GaussianNoise(1.0)]).mechanism())
    with pytest.raises(NoLikelihood, match="is not known"):
        information(DefenceList([GaussianNoise(1.0), ClipGaussian(1.0)]).mechanism())


def test_a_clip_takes_part() -> None:
    """Outside a small ball an activation may turn, not grow: of two directions one is left, and that is shrunk."""
    target = Target.of_client(nn.Flatten(), (1, 1, 2), ClipGaussian(1.0, 0.5))
    image = torch.tensor([0.6, 0.8]).view(1, 1, 1, 2)
    assert target.unbiased_bound(image)[0] == pytest.approx(2 / 0.5**2)
    inside: Tensor = 0.1 * image
    assert target.unbiased_bound(inside)[0] == pytest.approx(1.0)
    assert unbiased_bound(torch.tensor([2.0]), 0.5, 10, 4)[0] == 2.5
