"""Attacks that are trained, against Wiener's error, the least that there is: Gaussian images, a linear client."""

from typing import Any

import pytest
import torch
from torch import nn

from dpsnn.building import build_attack
from dpsnn.defences.noise import GaussianNoise
from dpsnn.metrics import mse
from dpsnn.specs import AttackerSpec
from dpsnn.target import Target
from dpsnn.training import Fitted, fit, seeded

SPREAD, NOISE = 0.1, 0.03
SIDE, CUT = 4, 12
PIXELS = SIDE * SIDE


def learn(module: Any, *, monitor: str, mode: str, max_epochs: int, trial: str = "") -> Fitted:
    return fit(module, monitor=monitor, mode=mode, max_epochs=max_epochs, seed=0, precision="32")


@pytest.mark.slow
@pytest.mark.parametrize("queries", [1, 4])
@pytest.mark.parametrize("attack", ["decoder", "refiner"])
def test_it_comes_within_5_percent(attack: str, queries: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = 0.5 + SPREAD * torch.randn(6000, 1, SIDE, SIDE, generator=generator)
    own, victims = images.clamp(0, 1).split([4000, 2000])
    with seeded(0, 0):
        layer = nn.Linear(PIXELS, CUT)
    target = Target.of_client(
        nn.Sequential(nn.Flatten(), layer), own.shape[1:], GaussianNoise(NOISE)
    )
    a = layer.weight.detach().double()
    heard = SPREAD**2 * a @ a.T + NOISE**2 / queries * torch.eye(CUT)
    left = SPREAD**2 * torch.eye(PIXELS) - SPREAD**4 * a.T @ torch.linalg.solve(heard, a)
    wiener = float(left.trace()) / PIXELS
    made = build_attack(AttackerSpec(queries=queries, attack=attack), target, own)
    made.prepare(learn)
    with seeded(0, 1):
        sent = target.transmit(target.encode(victims), queries)
    error = float(mse(made.infer_in_parts(sent), victims).mean())
    assert 0.97 * wiener < error < 1.05 * wiener
    assert wiener < 0.6 * SPREAD**2  # much is heard
