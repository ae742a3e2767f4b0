"""The average of several attackers: weighed exactly, on own images that none of them knows."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dpsnn.attacks import Need
from dpsnn.attacks.ensemble import Ensemble, best_weights
from dpsnn.building import build_attack
from dpsnn.checkpoints import read
from dpsnn.cli import main
from dpsnn.data import Digits
from dpsnn.defences.noise import GaussianNoise
from dpsnn.errors import UsageError
from dpsnn.evaluation.attackers import load_attacked, reconstruct
from dpsnn.metrics import mse
from dpsnn.specs import AttackerSpec
from dpsnn.target import Target


def flat(images: Tensor) -> Tensor:
    return images.flatten(1)


def learn(*arguments: Any, **named: Any) -> Any:
    raise AssertionError("there is nothing to learn in epochs")


def test_weights_are_the_best_of_a_fine_grid() -> None:
    torch.manual_seed(0)
    truth = torch.rand(50, 1, 3, 3)
    common = 0.3 * torch.randn_like(truth)
    # The third errs as the first does, and more; the second in its own way.
    errors = [common, 0.4 * torch.randn_like(truth), 1.5 * common + 0.1 * torch.randn_like(truth)]
    guesses = torch.stack([truth + error for error in errors])
    found = best_weights(guesses, truth)
    steps = torch.linspace(0, 1, 101).tolist()
    grid = [(a, b, 1 - a - b) for a, b in itertools.product(steps, steps) if a + b <= 1]

    def error(weights: Any) -> float:
        return float(
            (torch.tensordot(torch.as_tensor(weights), guesses, 1) - truth).square().mean()
        )

    assert error(found) <= min(error(weights) for weights in grid) + 1e-7
    assert found.sum().item() == pytest.approx(1) and found.min() >= 0 and found[2] == 0


def test_one_that_diverged_does_not_hide_how_the_others_differ() -> None:
    torch.manual_seed(1)
    truth = torch.rand(50, 1, 4, 4)
    guesses = torch.stack([truth + spread * torch.randn_like(truth) for spread in (0.1, 0.3)])
    lost = 1e6 * torch.randn_like(truth)
    found = best_weights(torch.cat([guesses, lost[None]]), truth)
    assert found[:2].tolist() == pytest.approx(best_weights(guesses, truth).tolist(), abs=1e-3)
    assert found[0] > 0.85 and abs(float(found[2])) < 1e-5


def test_guesses_that_are_the_same_share_the_weight() -> None:
    truth = torch.rand(5, 1, 2, 2)
    found = best_weights(torch.stack([truth + 0.1] * 2), truth)
    assert found.sum().item() == pytest.approx(1) and found.min() >= 0


def test_an_average_is_no_worse_than_its_members() -> None:
    target = Target.of_client(flat, (1, 28, 28), GaussianNoise(1.0))
    own = Digits().tensors("surrogate")[0][:150]
    spec = AttackerSpec(attack="ensemble", ensemble_members="nearest+mixture", queries=2)
    made: Any = build_attack(spec, target, own)
    torch.manual_seed(0)
    made.prepare(learn)
    assert sum(made.chosen().values()) == pytest.approx(1)
    truth = Digits().tensors("scoring")[0][:100] / 255
    heard = target.transmit(flat(truth), 2)
    errors = [mse(each.infer(heard), truth).mean() for each in made.members.values()]
    assert mse(made.infer(heard), truth).mean() < 1.1 * min(errors)
    torch.testing.assert_close(
        torch.cat([made.infer(part) for part in heard.split(40, 1)]), made.infer(heard)
    )


def test_it_needs_what_its_members_need() -> None:
    both = frozenset({Need.QUERIES, Need.TRANSMISSIONS})
    assert Ensemble(members="decoder+nearest").needs == both
    assert Ensemble().needs == both | {Need.DENSITY}
    assert Ensemble(members="nearest+inversion").needs == both | {Need.WEIGHTS}
    assert (Ensemble().scored, Ensemble(members="nearest+inversion").scored) == (None, 500)


@pytest.mark.parametrize("members", ["nearest", "nearest+nearest", "nearest+ensemble", ""])
def test_members_that_make_no_average_are_refused(members: str) -> None:
    with pytest.raises(UsageError, match="name 2 to 8 different other attacks, with . between"):
        AttackerSpec(attack="ensemble", ensemble_members=members)


def test_it_takes_its_members_along(
    place: Path, classifier_file: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    target = classifier_file(place / "models", network="lenet5", noise_scale=0.5)
    words = f"--ensemble_members nearest+mixture --data_pct 20 --model {target.stem}"
    assert main(["train_attacker", "--attack", "ensemble", *words.split()]) == 0
    path = Path(capsys.readouterr().out.strip())
    stored = read(path, "attacker")
    assert stored.record["weight_nearest"] + stored.record["weight_mixture"] == pytest.approx(1)
    images = Digits().tensors("scoring")[0][:20] / 255
    assert reconstruct(load_attacked(path, "models"), images).shape == images.shape


def test_members_without_any_error_share_the_weight() -> None:
    truth = torch.rand(5, 1, 2, 2)
    assert best_weights(truth.expand(3, *truth.shape), truth).sum() == pytest.approx(1)
