"""The linear attacker in closed form."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as Oracle
from torch import Tensor

from dpsnn.attacks import Knowledge, NotFinite
from dpsnn.attacks.base import held_out
from dpsnn.attacks.ridge import Linear
from dpsnn.cli import main
from dpsnn.errors import UsageError
from dpsnn.evaluation.attackers import attacker_row, load_attacked
from dpsnn.networks.ridge import PENALTIES, linear_error
from dpsnn.training import Fitted

torch.manual_seed(0)
MIXED = torch.randn(12, 9)
OWN = (torch.rand(400, 1, 3, 4) * 0.8 + 0.1).double().float()
TRUTH = torch.rand(100, 1, 3, 4) * 0.8 + 0.1


def client(images: Tensor) -> Tensor:
    return images.flatten(1) @ MIXED


def gaussian(std: float) -> Callable[[Tensor], Tensor]:
    return lambda z: z + std * torch.randn_like(z)


def learn(*arguments: Any, **options: Any) -> Fitted:
    raise AssertionError("there is nothing to learn in epochs")


def fitted(defend: Callable[[Tensor], Tensor] = torch.nn.Identity(), **options: int) -> Linear:
    made = Linear(Knowledge(client, defend, OWN), **options)
    made.prepare(learn)
    return made


def test_without_noise_it_is_scikits_with_the_penalty_that_served_best() -> None:
    made = fitted()
    known = client(OWN)
    standard = ((known - known.mean(0)) / known.std(0)).double().numpy()
    spectrum = np.linalg.eigvalsh((standard - standard.mean(0)).T @ standard)
    oracle = Oracle(alpha=made.penalty * spectrum.max(), solver="svd")
    oracle.fit(standard, OWN.flatten(1).double().numpy())
    heard = client(TRUTH)
    probe = ((heard - known.mean(0)) / known.std(0)).double().numpy()
    wanted = oracle.predict(probe).clip(0, 1)
    found = made.infer(heard[None])
    assert found.shape == TRUTH.shape
    np.testing.assert_allclose(found.flatten(1), wanted, atol=2e-4)


@pytest.mark.parametrize("queries", [1, 5])
def test_with_noise_it_comes_to_wieners_error(queries: int) -> None:
    """The best linear estimate of x from Ax + n in closed form, of uniform pixels; nothing lies beyond the clip."""
    torch.manual_seed(1)
    made = fitted(gaussian(0.5), queries=queries)
    variance = 0.8**2 / 12
    covariance = variance * MIXED.T @ MIXED + 0.25 / queries * torch.eye(9)
    gain = variance * MIXED @ torch.linalg.inv(covariance)
    wiener = variance * (1 - (gain @ MIXED.T).trace() / 12)
    many = torch.rand(20_000, 1, 3, 4) * 0.8 + 0.1
    heard = torch.stack([gaussian(0.5)(client(many)) for _ in range(queries)])
    error = (made.infer(heard) - many).square().mean()
    assert wiener * 0.97 < error < wiener * 1.05


def test_the_naive_one_never_asks_for_the_noise() -> None:
    def refuse(activation: Tensor) -> Tensor:
        raise AssertionError("a naive attacker does not know the noise")

    naive = fitted(refuse, naive=True)
    assert torch.equal(naive.weights, fitted().weights)


def test_more_values_than_images_and_dead_ones_change_nothing() -> None:
    wide = torch.randn(12, 700)
    wide[:, 5] = 0
    own = OWN[:60]
    made = Linear(Knowledge(lambda images: images.flatten(1) @ wide, torch.nn.Identity(), own))
    made.prepare(learn)
    heard = TRUTH.flatten(1) @ wide
    assert (made.infer(heard[None]) - TRUTH).square().mean() < 1e-4
    heard[:, 5] = 1e30
    assert (made.infer(heard[None]) - TRUTH).square().mean() < 1e-4
    heard[3, 5] = torch.nan
    with pytest.raises(NotFinite, match="smashed tensor of image 3 is nan"):
        made.infer(heard[None])


def test_images_held_out_are_others_and_one_image_is_too_few() -> None:
    rest, out = held_out(50, 3)
    assert sorted([*rest.tolist(), *out.tolist()]) == list(range(50)) and len(out) == 5
    with pytest.raises(UsageError, match="attacker with 1 images of its own.*needs 2 or more"):
        held_out(1, 0)


def test_from_the_command_line_to_the_table(
    place: Path, classifier_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    target = classifier_file(place / "models", network="lenet5", noise_scale=0.1)
    words = f"train_attacker --attack ridge --queries 2 --model {target.stem}"
    assert main(words.split()) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.name == f"digits_attacker_ridge_2queries_model<{target.stem}>.ckpt"
    row, _ = attacker_row(path, "models", "data", None)
    assert row["Attack"] == "ridge" and 0 < row["MSE"] < 0.08
    assert isinstance(load_attacked(path, "models").attack, Linear)


@pytest.mark.parametrize("spread", [0.1, 3.0, 100.0])
def test_noise_wider_than_the_range_of_the_values_breaks_nothing(spread: float) -> None:
    """The function that bent them is not undone where noise carries values beyond its range."""
    made = Linear(Knowledge(lambda images: (0.1 * client(images)).tanh(), gaussian(spread), OWN))
    assert made.prepare(learn).value <= 1.05 * float(OWN.var(0).mean())


@pytest.mark.parametrize(("rows", "values", "pixels"), [(90, 40, 7), (60, 200, 7), (60, 30, 50)])
def test_what_can_be_learnt_linearly_is_what_the_best_penalty_gives(
    rows: int, values: int, pixels: int
) -> None:
    """Beside scikit-learn's ridge regression, penalty by penalty."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, values, generator=generator).double()
    y = x @ torch.randn(values, pixels, generator=generator).double()
    y += torch.randn(rows, pixels, generator=generator)
    known, out = slice(0, rows - 20), slice(rows - 20, rows)
    centred = x[known] - x[known].mean(0)
    largest = float(torch.linalg.eigvalsh(centred.T @ centred).max())
    errors = []
    for penalty in PENALTIES:
        map_ = Oracle(alpha=penalty * largest, solver="svd").fit(x[known].numpy(), y[known].numpy())
        errors.append(float(np.square(map_.predict(x[out].numpy()) - y[out].numpy()).mean()))
    assert linear_error(x, y, 20) == pytest.approx(min(errors), rel=1e-6)
    assert linear_error(x[:20], y[:20], 20) == math.inf, "nothing is left to learn from"
    if values < rows - 20:
        assert linear_error(x, x, 20) < 1e-12
