"""Noise is drawn so finely that the last bits of what is sent give nothing away (Mironov 2012)."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dpsnn.defences.base import DefenceModule
from dpsnn.defences.clamp import ClampLaplace
from dpsnn.defences.clip import ClipGaussian
from dpsnn.defences.noise import GaussianNoise, LaplaceNoise
from dpsnn.defences.secret import Secret

VALUES, CANDIDATES = 256, 20


def fits_single_precision(heard: Tensor, code: Tensor, scale: float) -> float:
    """Share of values that are the code's plus, in single precision, a draw in single precision."""
    residual = (heard - code).double()
    # The draw, of which -2 ln(1 - 2u) falls as u = j/2²⁴ rises: the few that rounding may have moved here.
    level = -torch.expm1(-residual.abs() / scale) / 2
    index = (level * 2**24).round() + torch.arange(-3.0, 4.0, dtype=torch.double)[:, None]
    uniform = index.clamp(min=0, max=2**23 - 1).float() * 2**-24
    draws = (scale * torch.log1p(-2 * uniform).neg()).copysign((heard - code).expand_as(uniform))
    return float((code + draws == heard).any(0).double().mean())


def in_single_precision(activation: Tensor, scale: float) -> Tensor:
    """As noise is drawn where nothing is promised."""
    return LaplaceNoise(scale).train()(activation)


def named(send: Callable[[Tensor], Tensor], scale: float) -> float:
    """How often the code that fits best is the one that was sent, of codes that differ by next to nothing."""
    codes = torch.rand(1, VALUES) + 1e-3 * torch.rand(CANDIDATES, VALUES)
    right = 0
    for row, code in enumerate(codes):
        heard = send(code.unsqueeze(0))[0]
        fits = [fits_single_precision(heard, each, scale) for each in codes]
        right += fits.index(max(fits)) == row
    return right / CANDIDATES


def test_single_precision_gives_the_code_away_and_what_is_deployed_does_not() -> None:
    """The true noise would be worth a guess: codes are 0.01 apart, behind noise of scale 20 on every value."""
    scale = 20.0
    assert named(lambda code: in_single_precision(code, scale), scale) > 0.9
    assert named(LaplaceNoise(scale).eval(), scale) < 0.4


@pytest.mark.parametrize(
    "noise",
    [LaplaceNoise(3.0), GaussianNoise(3.0), ClipGaussian(3.0, 1.0), ClampLaplace(3.0, 1.0)],
    ids=lambda noise: type(noise).__name__,
)
def test_what_is_sent_has_all_the_digits_that_it_can_have(noise: DefenceModule) -> None:
    """Sums of two numbers with 24 bits would leave trailing zeros in the smaller ones; here each last bit is a coin."""
    activation = torch.full((200, 500), 2.0**-3)
    sent = noise.eval()(activation)
    for low, high in ((2**-8, 2**-7), (2**-5, 2**-4), (0.5, 1.0), (2.0, 4.0)):
        some = sent[(sent.abs() >= low) & (sent.abs() < high)]
        odd = (some.view(torch.int32) & 1).double().mean()
        assert len(some) > 100
        assert abs(float(odd) - 0.5) < 4 * 0.5 / len(some) ** 0.5


def test_rounding_is_the_only_loss_and_gradients_pass() -> None:
    activation = torch.rand(3, 4, requires_grad=True)
    for noise in (
        LaplaceNoise(1.0),
        GaussianNoise(1.0),
        ClampLaplace(1.0),
        ClipGaussian(1.0, 99.0),
    ):
        sent = noise.eval()(activation)
        assert sent.dtype == activation.dtype
        (slope,) = torch.autograd.grad(sent.sum(), activation)
        assert torch.equal(slope, torch.ones_like(slope))


def off_the_radii(noise: Tensor) -> float:
    """How far radii of pairs are from those that torch has in single precision: 1/4 on average if they are others.

    A radius is √(-2 ln(k/2²⁴)) with a whole k; those of small k are few, and far apart.
    """
    pairs = noise.double().view(-1, 2, 8)
    k = 2**24 * torch.exp(-pairs.square().sum(1).flatten() / 2)
    large = k[k < 3e4]
    assert len(large) > 500
    return float((large - large.round()).abs().mean())


def test_the_noise_of_private_training_does_not_say_what_it_was_added_to() -> None:
    """As torch's in single precision does: here of two guesses of a sum that are 0.001 of the noise apart."""
    torch.manual_seed(0)
    total, other = (1e-3 * torch.randn(800_000) for _ in range(2))
    single = torch.empty_like(total).normal_() + total
    assert off_the_radii(single - total) < 0.1
    assert off_the_radii(single - other) > 0.2
    sent = Secret().gaussian(total, 1.0, 2)
    for guess in (total, other):
        assert abs(off_the_radii(sent - guess) - 0.25) < 0.03


def test_the_noise_of_private_training_has_all_the_digits_that_it_can_have() -> None:
    total = torch.full((2_000_000,), 2.0**-3)
    sent = Secret().gaussian(total, 3.0, 2)
    for low, high in ((2**-8, 2**-7), (2**-5, 2**-4), (0.5, 1.0), (2.0, 4.0)):
        some = sent[(sent.abs() >= low) & (sent.abs() < high)]
        odd = (some.view(torch.int32) & 1).double().mean()
        assert abs(float(odd) - 0.5) < 4 * 0.5 / len(some) ** 0.5


def test_the_noise_of_private_training_is_rounded_to_24_bits_also_in_double_precision() -> None:
    """Of small numbers few are drawn in double precision: which of them are possible tells what they were added to."""
    total = 1e-3 * torch.randn(1000, 10, dtype=torch.float64)
    for given in (total, total.mT):
        sent = Secret().gaussian(given, 1.0, 2, over=3)
        assert sent.dtype == torch.float64 and sent.stride() == given.stride()
        assert torch.equal(sent, sent.float().double())
