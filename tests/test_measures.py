"""What every metric of reconstructions owes: an outside oracle, its invariances, its floor; NaN stays NaN."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import dcor_value
from scipy.special import softmax
from skimage.metrics import (
    mean_squared_error,
    normalized_root_mse,
    peak_signal_noise_ratio,
    structural_similarity,
)
from test_metrics import ssim_map
from torchmetrics.image import MultiScaleStructuralSimilarityIndexMeasure

from dpsnn import parts, registry
from dpsnn.evaluation.attackers import score
from dpsnn.metrics import Metric, Scored, mean_image
from dpsnn.metrics.base import known, marks
from dpsnn.metrics.floors import class_means
from dpsnn.metrics.gaussian_ssim import gaussian_ssim

DOCS = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
OWN = [each.key for each in parts.declared("metric")]
EVERY = [*OWN, "msssim"]
"""Those of this package, and that of the documentation, as a plug-in."""

COUNT = 8


@pytest.fixture(autouse=True)
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(# multiscale.py\n.*?)```", DOCS.read_text("utf-8"), re.S)
    (tmp_path / "multiscale.py").write_text(code)
    monkeypatch.setenv(registry.PLUGINS, "")
    registry.use(tmp_path / "multiscale.py")


def metric(key: str) -> Metric:
    found = parts.find("metric", key)()
    assert isinstance(found, Metric)
    return found


def seen(side: int = 28, channels: int = 1) -> Scored:
    """Guesses a little off, and a judge who is mostly right."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(COUNT, channels, side, side, generator=generator)
    off = 0.2 * torch.rand(images.shape, generator=generator)
    labels = torch.tensor([0, 1, 2, 0, 0, 1, 2, 0])
    logits = torch.randn(COUNT, 3, generator=generator) + 2 * torch.eye(3)[labels]
    return Scored((images + off).clamp(0, 1), images, labels, logits)


Pictures = Callable[[np.ndarray, np.ndarray], float]


def over(pictures: Pictures) -> Callable[[Scored], list[float]]:
    """An oracle for one grey picture and the truth, for all of them."""
    return lambda s: [
        pictures(a[0].double().numpy(), b[0].double().numpy())
        for a, b in zip(s.reconstructions, s.images)
    ]


def scikit_ssim(a: np.ndarray, b: np.ndarray) -> float:
    how = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    return float(structural_similarity(a, b, data_range=1, **how))


def blocks(s: Scored) -> list[float]:
    squares = [
        dcor_value("u_distance_correlation_sqr", x.flatten(1).numpy(), y.flatten(1).numpy(), 1.0)
        for x, y in zip(s.images.double().split(4), s.reconstructions.double().split(4))
    ]
    return [math.copysign(math.sqrt(abs(square)), square) for square in squares]


def judged(s: Scored) -> np.ndarray:
    assert s.judged is not None
    return softmax(s.judged.double().numpy(), axis=1)


def multiscale(s: Scored) -> list[float]:
    """The Metric of torchmetrics rather than its function, image by image."""
    weights = (0.0448 / 0.3304, 0.2856 / 0.3304)
    theirs = MultiScaleStructuralSimilarityIndexMeasure(data_range=1.0, betas=weights)
    return [float(theirs(a[None], b[None])) for a, b in zip(s.reconstructions, s.images)]


ORACLES: dict[str, Callable[[Scored], list[float]]] = {
    "mse": over(mean_squared_error),
    "psnr": over(lambda a, b: peak_signal_noise_ratio(b, a, data_range=1)),
    "ssim": over(lambda a, b: ssim_map(a, b).mean()),
    "ssim2": over(lambda a, b: ssim_map(a, b, 2.0).mean()),
    "ssim_gaussian": over(scikit_ssim),
    "relative_l2": over(lambda a, b: normalized_root_mse(b, a)),
    "dcorr": blocks,
    "recognised": lambda s: list(100.0 * (judged(s).argmax(1) == s.labels.numpy())),
    "confidence": lambda s: [100.0 * row[i] for row, i in zip(judged(s), s.labels)],
    "msssim": multiscale,
}


def test_every_metric_has_an_oracle() -> None:
    assert {*ORACLES} == {*EVERY} == {each.key for each in known()}


@pytest.mark.parametrize("key", EVERY)
def test_the_mean_and_its_error_are_those_of_an_outside_oracle(key: str) -> None:
    each, values = metric(key), np.array(ORACLES[key](seen()))
    cells, names = each.measured(seen()), each.columns()
    assert cells[names["column"]] == pytest.approx(values.mean(), rel=1e-4)
    if names["error"]:
        error = values.std(ddof=1) / math.sqrt(len(values))
        assert cells[names["error"]] == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize(("sides", "channels"), [((11, 11), 1), ((12, 30), 1), ((16, 14), 3)])
def test_gaussian_ssim_equals_scikit_image(sides: tuple[int, int], channels: int) -> None:
    images, guesses = torch.rand(2, 3, channels, *sides).unbind(0)
    guesses[1] = 0.0
    images[2], guesses[2] = 0.5, 0.5
    theirs = [
        np.mean([scikit_ssim(x.double().numpy(), y.double().numpy()) for x, y in zip(a, b)])
        for a, b in zip(guesses, images)
    ]
    assert gaussian_ssim(guesses, images).tolist() == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("key", EVERY)
def test_all_columns_are_written_and_no_others_but_counts(key: str) -> None:
    each = metric(key)
    written = each.measured(seen()) | each.references(seen(), seen())
    assert {*written} - {"DCorrN"} == {name for name in each.columns().values() if name}


@pytest.mark.parametrize("key", EVERY)
@pytest.mark.parametrize("channels", [1, 3])
def test_neither_order_nor_mirrors_matter(key: str, channels: int) -> None:
    each, there = metric(key), seen(channels=channels)
    # Within the blocks of which distance correlations are made.
    order = torch.tensor([2, 0, 3, 1, 7, 4, 6, 5])
    assert there.judged is not None
    moved = Scored(
        there.reconstructions[order].flip(-1),
        there.images[order].flip(-1),
        there.labels[order],
        there.judged[order],
    )
    column = each.column
    assert each.measured(moved)[column] == pytest.approx(each.measured(there)[column], rel=1e-4)


@pytest.mark.parametrize("key", EVERY)
def test_the_true_image_is_the_best_and_nothing_the_floor(key: str) -> None:
    each, there = metric(key), seen()
    own = (255 * torch.rand(20, 1, 28, 28)).to(torch.uint8)
    nothing = replace(there, reconstructions=mean_image(own, COUNT), judged=torch.zeros(COUNT, 3))
    sure = replace(there, reconstructions=there.images, judged=9 * torch.eye(3)[there.labels])
    best, names = each.measured(sure)[each.column], each.columns()
    cells = each.measured(there) | each.references(nothing, sure)
    floor = cells[names["floor"]]
    if "mean image" in each.floor_label:
        assert floor == each.measured(nothing)[each.column]
    if each.perfect:
        assert best == pytest.approx(float(each.perfect), abs=1e-6)
    if names["ceiling"]:
        assert cells[names["ceiling"]] == best
    assert isinstance(best, float) and isinstance(floor, float)
    sign = {"higher": 1, "lower": -1}[each.leaks]
    assert sign * best > sign * floor
    if names["shuffled"]:
        others = cells[names["shuffled"]]
        assert isinstance(others, float) and sign * best > sign * others


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("key", EVERY)
def test_what_is_not_finite_is_no_number(key: str, bad: float) -> None:
    each, there = metric(key), seen()
    assert there.judged is not None
    there.reconstructions[3, 0, 14, 14] = there.judged[3, 0] = bad
    cells = each.measured(there)
    for name in ("column", "error"):
        if each.columns()[name]:
            value = cells[each.columns()[name]]
            assert isinstance(value, float) and not math.isfinite(value)


@pytest.mark.parametrize("key", EVERY)
def test_of_images_that_are_too_small_there_is_no_value(key: str) -> None:
    each = metric(key)
    value = each.measured(seen(each.smallest))[each.column]
    assert isinstance(value, float) and math.isfinite(value)
    if each.smallest > 1:
        value = each.measured(seen(each.smallest - 1))[each.column]
        assert isinstance(value, float) and math.isnan(value)


@pytest.mark.parametrize("key", ["recognised", "confidence"])
def test_without_a_judge_nothing_is_judged(key: str) -> None:
    there = replace(seen(), judged=None)
    cells = metric(key).measured(there) | metric(key).references(there, there)
    assert {*cells.values()} == {None}


def test_the_most_frequent_class_is_the_floor_of_recognition() -> None:
    floors = metric("recognised").references(seen(), seen())
    assert floors["ValAccuracyFloor"] == 50, "class 0 is that of 4 of 8"


def test_a_score_has_the_columns_of_all_metrics_each_once() -> None:
    there = seen()
    row = score(there.reconstructions, there.images, there.labels, there.reconstructions)
    columns = [name for each in known() for name in each.columns().values() if name]
    assert sorted(row) == sorted([*columns, "Images", "DCorrN"])
    assert [*row][:5] == ["MeanValDCorr", "SEValDCorr", "ValAccuracy", "SEValAccuracy", "MSE"]
    assert [*row][-4:-2] == ["SSIMGaussianFloor", "SSIMGaussianClassFloor"]
    assert row["MSEClassFloor"] is None  # of no classes


def test_a_later_version_of_a_metric_has_another_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts.find("metric", "mse"), "version", 2)
    assert marks([metric("mse"), metric("ssim")]) == "mse:2 ssim"


def test_the_class_alone_gives_its_mean() -> None:
    """Against a loop by hand; it stands below the mean image, and nobody's class is made up."""
    draws = torch.Generator().manual_seed(5)
    own, labels = (torch.randint(3, (n,), generator=draws) for n in (60, 9))
    pixels = torch.randint(256, (60, 1, 4, 4), generator=draws, dtype=torch.uint8)
    found = class_means(pixels, own, labels)
    assert found is not None
    for label, image in zip(labels.tolist(), found):
        members = [pixels[i].double() / 255 for i in range(60) if own[i] == label]
        torch.testing.assert_close(image.double(), sum(members) / len(members))
    assert class_means(pixels, own, torch.tensor([0, 7])) is None
