"""The most likely image near a guess: against its closed form where client and noise are linear and Gaussian."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dpsnn.attacks import Need
from dpsnn.attacks.posterior import WEIGHTS, Descent, MaximumAPosteriori
from dpsnn.building import build_attack
from dpsnn.data import Digits
from dpsnn.defences.noise import GaussianNoise
from dpsnn.errors import NoLikelihood, UsageError
from dpsnn.metrics import mse
from dpsnn.specs import AttackerSpec
from dpsnn.target import Target


def learn(*arguments: Any, **named: Any) -> Any:
    raise AssertionError("there is nothing to learn in epochs")


def flat(images: Tensor) -> Tensor:
    return images.flatten(1)


def attack(target: Target, count: int = 100, **settings: Any) -> Descent:
    spec = AttackerSpec(attack="map", map_first="nearest", **settings)
    own = Digits().tensors("surrogate")[0][:count]
    return build_attack(spec, target, own)  # type: ignore[return-value]


def test_it_ends_at_the_most_likely_image() -> None:
    """‖h - x‖²/2σ²d + w‖x - g‖²/d is least at the mean of h and g, weighted by 1/2σ² and w, within [0, 1]."""
    target = Target.of_client(flat, (1, 28, 28), GaussianNoise(0.5))
    made = attack(target, map_steps=400)
    made.weight.fill_(3.0)
    guess = 0.2 + 0.6 * torch.rand(2, 1, 28, 28)
    heard = 0.2 + 0.6 * torch.rand(1, 2, 784)
    found = made._descend(guess, heard, made.weight)
    wanted = (2 * heard[0] + 3 * flat(guess)) / 5
    torch.testing.assert_close(flat(found), wanted, rtol=0, atol=0.01)


def test_it_comes_closer_than_its_first_guess() -> None:
    target = Target.of_client(flat, (1, 28, 28), GaussianNoise(0.1))
    made = attack(target, 60)
    torch.manual_seed(0)
    made.prepare(learn)
    assert made.chosen()["prior_weight"] in [pytest.approx(each) for each in WEIGHTS]
    truth = Digits().tensors("scoring")[0][:20] / 255
    heard = target.transmit(flat(truth))
    first, found = (mse(each.infer(heard), truth).mean() for each in (made.first, made))
    assert found < 0.3 * first


def test_what_it_needs_and_what_it_refuses() -> None:
    assert MaximumAPosteriori(first="nearest").needs == {
        Need.WEIGHTS,
        Need.QUERIES,
        Need.TRANSMISSIONS,
    }
    with pytest.raises(UsageError, match="cannot start from itself"):
        AttackerSpec(attack="map", map_first="map")
    with pytest.raises(NoLikelihood, match="is not known"):
        attack(Target.of_client(flat, (1, 28, 28), torch.round), 20).prepare(learn)
    with pytest.raises(UsageError, match="with 3 images of its own cannot choose; it needs 4"):
        attack(Target.of_client(flat, (1, 28, 28)), 3).prepare(learn)
