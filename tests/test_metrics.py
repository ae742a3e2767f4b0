"""Metrics against outside oracles, then their invariances, then both ends of the scale."""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import dcor_value
from scipy.ndimage import gaussian_filter
from scipy.stats import norm
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from dpsnn.metrics import (
    DistanceCorrelation,
    bias_corrected_distance_correlation,
    correct,
)
from dpsnn.metrics import distance_correlation
from dpsnn.metrics import distance_correlation as package_function
from dpsnn.metrics import (
    majority_share,
    mean_image,
    mse,
    psnr,
    relative_l2,
    shuffled,
    signed_root,
    ssim,
)
from dpsnn.metrics.privacy import gaussian_epsilon, laplace_epsilon

module = sys.modules[package_function.__module__]

SHAPES = [(4, 1, 1), (20, 3, 5), (64, 200, 30), (128, 784, 500)]
EXPONENTS = [0.5, 1.0, 1.5, 2.0]


def pair(n: int, p: int, q: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Dependent samples in float64, the relation not linear."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, p, dtype=torch.float64, generator=generator)
    y = torch.randn(n, q, dtype=torch.float64, generator=generator) + x[:, :1] ** 2
    return x, y


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("exponent", EXPONENTS)
def test_both_estimators_equal_dcor(shape: tuple[int, int, int], exponent: float) -> None:
    x, y = pair(*shape)
    biased = dcor_value("distance_correlation", x.numpy(), y.numpy(), exponent)
    corrected = dcor_value("u_distance_correlation_sqr", x.numpy(), y.numpy(), exponent)
    assert distance_correlation(x, y, exponent).item() == pytest.approx(biased, abs=1e-8)
    ours = bias_corrected_distance_correlation(x, y, exponent).item()
    assert ours == pytest.approx(corrected, abs=1e-8)


BOTH = [
    (distance_correlation, "distance_correlation"),
    (bias_corrected_distance_correlation, "u_distance_correlation_sqr"),
]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("function", "theirs"), BOTH)
def test_what_is_not_finite_gives_no_number(
    function: Callable[..., torch.Tensor], theirs: str, bad: float
) -> None:
    x, y = (t.float() for t in pair(20, 3, 2))
    y[7, 1] = bad
    assert math.isnan(dcor_value(theirs, x.numpy(), y.numpy(), 1.0))
    constant = torch.ones(20, 4)
    for first, second in ((x, y), (y, x), (y, y), (constant, y)):
        assert math.isnan(function(first, second).item())
        assert math.isnan(signed_root(function(first, second)).item())
    metric = DistanceCorrelation(bias_corrected="u_" in theirs)
    metric.update(x, y)
    assert math.isnan(metric.compute().item())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n", "factor"), [(40, 1e4), (500, 1e5), (8, 1e4)])
@pytest.mark.parametrize("alone", [True, False])
def test_one_far_sample_does_not_drown_the_others(
    n: int, factor: float, alone: bool, seed: int
) -> None:
    x, y = (t.float() for t in pair(n, 3, 2, seed))
    x[0] *= factor
    if not alone:
        y[0] *= factor
    for function, theirs in BOTH:
        expected = dcor_value(theirs, x.double().numpy(), y.double().numpy(), 1.0)
        assert function(x, y).item() == pytest.approx(expected, abs=5e-4)
        wide = function(x.double(), y.double()).item()
        assert wide == pytest.approx(expected, abs=1e-5)
    assert bias_corrected_distance_correlation(x, y).item() == pytest.approx(wide, abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("exponent", [1.0, 2.0])
@pytest.mark.parametrize("factor", [1e-42, 1e-25, 1e-12, 1e12, 1e19, 1e37])
@pytest.mark.parametrize(("function", "theirs"), BOTH)
def test_no_scale_is_too_small_or_too_large(
    function: Callable[..., torch.Tensor],
    theirs: str,
    factor: float,
    exponent: float,
    dtype: torch.dtype,
) -> None:
    x, y = (t.to(dtype) for t in pair(40, 3, 2))
    expected = dcor_value(theirs, x.double().numpy(), y.double().numpy(), exponent)
    # Subnormal numbers of float32 have few digits.
    close = 2e-3 if dtype == torch.float32 and factor < 1e-38 else 2e-6
    for value in (function(x * factor, y, exponent), function(x, y * factor, exponent)):
        assert value.item() == pytest.approx(expected, abs=close)
    assert function(x * factor, -x).item() == pytest.approx(1, abs=close)


@pytest.mark.parametrize("constant", [0.0, 0.3, -1e30, 1e-30, 1 / 3])
@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_has_no_correlation(
    constant: float, exponent: float, dtype: torch.dtype
) -> None:
    x, _ = (t.to(dtype) for t in pair(17, 5, 1))
    y = torch.full((17, 3), constant, dtype=dtype)
    for first, second in ((x, y), (y, x), (y, y)):
        assert bias_corrected_distance_correlation(first, second, exponent).item() == 0
        assert distance_correlation(first, second, exponent).item() < 2e-6


def test_samples_at_equal_distances_vary_in_nothing() -> None:
    x, _ = pair(12, 5, 1)
    for y in (torch.eye(12), torch.eye(12)[:, :1]):  # a simplex; all but one the same
        assert bias_corrected_distance_correlation(x, y).item() == 0
        assert dcor_value(BOTH[1][1], x.numpy(), y.double().numpy(), 1.0) == pytest.approx(
            0, abs=1e-6
        )


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("function", [distance_correlation, bias_corrected_distance_correlation])
def test_gradients_equal_finite_differences(
    function: Callable[..., torch.Tensor], exponent: float
) -> None:
    x, y = (t.requires_grad_() for t in pair(6, 3, 2))
    assert torch.autograd.gradcheck(lambda a, b: function(a, b, exponent), (x, y))


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_gradients_stay_finite_where_points_coincide(exponent: float) -> None:
    x, y = (t.float() for t in pair(32, 50, 40))
    y[5] = y[9]
    y[:3] = 0
    y.requires_grad_()
    distance_correlation(x, y, exponent).backward()
    assert y.grad is not None and y.grad.isfinite().all() and y.grad.abs().max() > 0


def test_gradient_of_a_constant_is_finite_and_its_correlation_about_zero() -> None:
    x, _ = pair(16, 5, 5)
    y = torch.full((16, 4), 0.3, dtype=torch.float64, requires_grad=True)
    value = distance_correlation(x, y)
    value.backward()
    assert value.item() < 1e-5
    assert y.grad is not None and y.grad.isfinite().all()
    assert bias_corrected_distance_correlation(x, y).item() == 0


@pytest.mark.parametrize("exponent", [1.0, 2.0])
def test_blocks_change_neither_value_nor_gradient(
    exponent: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = (t.requires_grad_() for t in pair(50, 8, 6))
    whole = distance_correlation(x, y, exponent)
    gradient = torch.autograd.grad(whole, (x, y))
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 50 * 7)
    blocked = distance_correlation(x, y, exponent)
    assert blocked.item() == pytest.approx(whole.item(), abs=1e-12)
    for ours, theirs in zip(torch.autograd.grad(blocked, (x, y)), gradient):
        torch.testing.assert_close(ours, theirs)


def test_distance_correlation_ignores_shift_scale_rotation_and_order() -> None:
    x, y = pair(40, 6, 5)
    value = distance_correlation(x, y)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    order = torch.randperm(40)
    for other in (x + 1e3, x * 1e-7, x @ rotation):
        torch.testing.assert_close(distance_correlation(other, y), value)
    torch.testing.assert_close(distance_correlation(x[order], y[order]), value)
    torch.testing.assert_close(distance_correlation(y, x), value)


def test_both_ends_of_distance_correlation() -> None:
    x, _ = pair(200, 784, 1)
    assert distance_correlation(x, 3 * x - 1).item() == pytest.approx(1)
    independent = torch.randn(200, 500, dtype=torch.float64)
    assert distance_correlation(x, independent).item() > 0.9, "the biased one is near 1 regardless"
    assert abs(bias_corrected_distance_correlation(x, independent).item()) < 0.02


def test_exponent_two_is_blind_to_the_parabola_that_exponent_one_sees() -> None:
    x = torch.linspace(-1, 1, 501, dtype=torch.float64).unsqueeze(1)
    assert distance_correlation(x, x**2, 2.0).item() < 0.01
    assert distance_correlation(x, x**2, 1.0).item() > 0.4


def test_exponent_two_is_the_root_of_linear_cka() -> None:
    x, y = pair(60, 7, 4)
    a, b = x - x.mean(0), y - y.mean(0)
    cka = (a.T @ b).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
    torch.testing.assert_close(distance_correlation(x, y, 2.0), cka.sqrt())


@pytest.mark.parametrize(
    ("function", "n", "exponent", "message"),
    [
        (distance_correlation, 1, 1.0, "2 or more"),
        (bias_corrected_distance_correlation, 3, 1.0, "4 or more"),
        (distance_correlation, 8, 0.0, "must be in (0, 2]"),
        (distance_correlation, 8, 2.5, "must be in (0, 2]"),
    ],
)
def test_undefined_distance_correlation_is_refused(
    function: Callable[..., torch.Tensor], n: int, exponent: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace("]", r"\]")):
        function(torch.rand(n, 2), torch.rand(n, 2), exponent)


def test_metric_over_batches_equals_the_function_over_all() -> None:
    x, y = pair(50, 6, 5)
    for corrected in (True, False):
        metric = DistanceCorrelation(bias_corrected=corrected)
        for a, b in zip(x.split(16), y.split(16)):
            metric.update(a, b)
        whole = (
            signed_root(bias_corrected_distance_correlation(x, y))
            if corrected
            else distance_correlation(x, y)
        )
        torch.testing.assert_close(metric.compute(), whole)


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads Linux's own account of memory"
)
def test_ten_thousand_images_stay_below_two_gibibytes_forward_and_backward() -> None:
    code = """
import torch
from dpsnn.metrics import distance_correlation
x, y = torch.rand(10000, 784), torch.randn(10000, 500, requires_grad=True)
distance_correlation(x, y).backward()
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert int(printed) < 2 * 1024**2


# ---------------------------------------------------------------- reconstructions


def test_reconstruction_metrics_equal_scikit_image() -> None:
    images, guesses = torch.rand(3, 1, 28, 28), torch.rand(3, 1, 28, 28)
    for i in range(3):
        a, b = images[i, 0].numpy(), guesses[i, 0].numpy()
        assert mse(guesses, images)[i].item() == pytest.approx(((a - b) ** 2).mean(), abs=1e-6)
        expected = peak_signal_noise_ratio(a, b, data_range=1)
        assert psnr(guesses, images)[i].item() == pytest.approx(expected, abs=1e-4)
        expected = ssim_map(a, b)
        assert ssim(guesses, images)[i].item() == pytest.approx(expected.mean(), abs=1e-5)
        # scikit-image leaves out the border where the window hangs over; torchmetrics mirrors there.
        interior = structural_similarity(
            a, b, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert expected[5:-5, 5:-5].mean() == pytest.approx(interior, abs=1e-5)


def ssim_map(a: np.ndarray, b: np.ndarray, data_range: float = 1.0) -> np.ndarray:
    """Wang et al. 2004, equation 13, with scipy's Gaussian filter."""

    def blur(image: np.ndarray) -> np.ndarray:
        return gaussian_filter(image.astype(np.float64), 1.5, truncate=3.5, mode="mirror")

    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_a, mean_b = blur(a), blur(b)
    variance_a, variance_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    upper = (2 * mean_a * mean_b + c1) * (2 * (blur(a * b) - mean_a * mean_b) + c2)
    return upper / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))


def test_both_ends_of_reconstruction_metrics() -> None:
    images = torch.rand(4, 1, 28, 28)
    assert mse(images, images).tolist() == [0] * 4
    assert psnr(images, images).tolist() == [100] * 4
    assert ssim(images, images).tolist() == pytest.approx([1] * 4)
    black, white = torch.zeros(1, 1, 28, 28), torch.ones(1, 1, 28, 28)
    assert mse(black, white).item() == 1
    assert psnr(black, white).item() == pytest.approx(0)
    assert ssim(black, white).item() == pytest.approx(0, abs=1e-3)


def test_floors() -> None:
    pixels = torch.randint(0, 256, (50, 1, 4, 4), dtype=torch.uint8)
    guess = mean_image(pixels, 3)
    assert guess.shape == (3, 1, 4, 4)
    torch.testing.assert_close(guess[2], pixels.float().mean(0) / 255)
    assert majority_share(torch.tensor([0, 1, 1, 2])) == 50
    rows = torch.arange(40)
    moved = shuffled(rows)
    assert sorted(moved.tolist()) == rows.tolist() and (moved != rows).all()


# ---------------------------------------------------------------- guarantees


@pytest.mark.parametrize(
    ("scale", "epsilon"), [(0.1, 10_000), (1.0, 1_000), (125.0, 8), (0.0, math.inf)]
)
def test_laplace_epsilon_of_five_hundred_tanh_outputs(scale: float, epsilon: float) -> None:
    assert laplace_epsilon(scale, 1000.0) == pytest.approx(epsilon)


def test_without_a_bound_nothing_is_guaranteed() -> None:
    assert laplace_epsilon(1.0, math.inf) == math.inf
    assert gaussian_epsilon(1.0, math.inf) == math.inf


@pytest.mark.parametrize("std", [0.5, 5.0, 50.0, 500.0])
def test_gaussian_epsilon_spends_exactly_delta(std: float) -> None:
    epsilon = gaussian_epsilon(std, 2 * math.sqrt(500))
    ratio = 2 * math.sqrt(500) / std
    # Balle & Wang's curve, by scipy's normal distribution in logarithms.
    first = norm.logcdf(ratio / 2 - epsilon / ratio)
    second = epsilon + norm.logcdf(-ratio / 2 - epsilon / ratio)
    assert math.exp(first) - math.exp(second) == pytest.approx(1e-5, rel=1e-3)


# ---------------------------------------------------------------- not a number


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("measure", [mse, relative_l2, ssim, psnr])
def test_pictures_that_are_not_finite_have_no_measure(
    measure: Callable[..., torch.Tensor], bad: float
) -> None:
    images = torch.rand(3, 1, 8, 8)
    guesses = images.clone() * 0.9
    good = measure(guesses, images)
    guesses[1, 0, 2, 2] = bad
    values = measure(guesses, images)
    assert values[[0, 2]].tolist() == good[[0, 2]].tolist()
    assert not values[1].isfinite()


def test_an_image_whose_scores_are_not_finite_is_neither_right_nor_wrong() -> None:
    logits = torch.tensor(
        [[0.0, 1.0], [2.0, 1.0], [math.nan, 1.0], [math.inf, 0.0], [0.0, -math.inf]]
    )
    right = correct(logits, torch.tensor([1, 1, 0, 0, 0]))
    assert right[:2].tolist() == [1, 0] and right[2:].isnan().all()


@pytest.mark.parametrize("side", [1, 5])
def test_ssim_of_pictures_smaller_than_half_its_window_is_undefined(side: int) -> None:
    assert ssim(torch.rand(2, 1, side, 9), torch.rand(2, 1, side, 9)).isnan().all()
    image = torch.rand(2, 1, 6, 9)
    assert ssim(image, image).tolist() == pytest.approx([1, 1])


def test_a_single_row_has_no_other_order() -> None:
    with pytest.raises(ValueError, match="2 or more"):
        shuffled(torch.rand(1, 3))
