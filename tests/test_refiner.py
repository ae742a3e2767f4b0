"""The refiner: steps along the gradient of the misfit, learnt from guesses of images nobody has seen."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpsnn.attacks import ATTACKS, Need
from dpsnn.attacks.refiner import LearnedSteps, Refiner
from dpsnn.building import build_attack
from dpsnn.cli import main
from dpsnn.data import Digits
from dpsnn.defences.noise import GaussianNoise, LaplaceNoise
from dpsnn.errors import Diverged, NoLikelihood, UsageError
from dpsnn.evaluation.attackers import load_attacked, reconstruct
from dpsnn.metrics import mse
from dpsnn.networks.refine import RefiningStep
from dpsnn.specs import AttackerSpec
from dpsnn.target import Target
from dpsnn.training import Fitted, fit


def learn(
    module: Any,
    *,
    monitor: str,
    mode: str,
    max_epochs: int,
    trial: str = "",
    precision: str = "32",
) -> Fitted:
    return fit(
        module, monitor=monitor, mode=mode, max_epochs=max_epochs, seed=0, precision=precision
    )


def refiner(target: Target, count: int = 100, **settings: Any) -> LearnedSteps:
    """One that starts from the nearest image, which learns nothing."""
    chosen = {"refiner_first": "nearest", "refiner_epochs": 2, **settings}
    spec = AttackerSpec(attack="refiner", **chosen)
    torch.manual_seed(0)
    own = Digits().tensors("surrogate")[0][:count]
    return build_attack(spec, target, own)  # type: ignore[return-value]


def flat(images: Tensor) -> Tensor:
    return images.flatten(1)


@pytest.mark.parametrize("shape", [(1, 7, 5), (3, 8, 6)])
def test_a_step_that_has_learnt_nothing_changes_nothing(shape: tuple[int, ...]) -> None:
    step = RefiningStep(shape[0], 2, 1)
    guess = torch.rand(4, *shape)
    out = step(guess, [torch.rand_like(guess), torch.rand_like(guess)], torch.rand(4, 1))
    torch.testing.assert_close(out.sigmoid(), guess, rtol=0, atol=1.1e-4)


def test_it_follows_the_gradient_of_the_mechanisms_misfit() -> None:
    torch.manual_seed(0)
    client = nn.Sequential(nn.Flatten(), nn.Linear(784, 6), nn.Tanh())
    target = Target.of_client(client, (1, 28, 28), LaplaceNoise(0.7))
    made = refiner(target)
    guess, heard = torch.rand(3, 1, 28, 28), torch.randn(2, 3, 6)
    with torch.inference_mode():
        slope, _ = made._hints(made.first, guess, heard)
    # |h - f(x)| / b, the mean over six values of the sum over two transmissions.
    weight, bias = client[1].weight.detach(), client[1].bias.detach()
    value = (flat(guess) @ weight.T + bias).tanh()
    outer = -(heard - value).sign().sum(0) / 0.7 / 6 * (1 - value**2)
    torch.testing.assert_close(flat(slope), outer @ weight, rtol=1e-4, atol=1e-6)


def test_it_comes_closer_than_its_first_guess_to_images_it_does_not_own() -> None:
    target = Target.of_client(flat, (1, 28, 28), GaussianNoise(0.2))
    made = refiner(target, 200, refiner_epochs=3)
    fitted = made.prepare(learn)
    truth = Digits().tensors("scoring")[0][:100] / 255
    torch.manual_seed(1)
    heard = target.transmit(flat(truth))
    first, refined = (
        mse(guess, truth).mean() for guess in (made.first.infer(heard), made.infer(heard))
    )
    assert refined < 0.5 * first
    assert fitted.value == pytest.approx(refined.item(), rel=0.3)


@pytest.mark.parametrize(
    "errors, kept, gain", [([1.0, 0.8, 0.79], 2, 0.0125), ([1.0, 1.1], 0, -0.1)]
)
def test_its_epochs_are_doubled_until_that_pays_no_more(
    errors: list[float], kept: int, gain: float
) -> None:
    made = refiner(Target.of_client(flat, (1, 28, 28)), refiner_doublings=4)
    epochs: list[int] = []
    starts: list[Tensor] = []

    def lesson(module: Any, *, max_epochs: int, **options: Any) -> Fitted:
        assert module.training
        starts.append(weight.detach().clone())
        nn.init.constant_(weight, len(epochs))
        epochs.append(max_epochs)
        module.eval()
        return Fitted(0, errors[len(epochs) - 1], 1.0, "32-true")

    weight = next(made.steps.parameters())
    fitted = made.prepare(lesson)
    assert epochs == [2, 4, 8][: len(errors)] and fitted.value == errors[kept]
    assert all(torch.equal(start, starts[0]) for start in starts)  # each learns from the start
    assert bool((weight == kept).all())
    assert made.chosen() == {"doubling": pytest.approx(gain), "epochs": epochs[kept]}


@pytest.mark.parametrize("precision", ["bf16", "32"])
def test_its_way_through_the_client_is_short_while_it_learns_in_bf16(precision: str) -> None:
    """And float32 where it is judged, in its attack, and afterwards."""
    on_cpu: Any = torch.backends.mkldnn
    kinds = (on_cpu.conv, on_cpu.matmul)
    usual = [kind.fp32_precision for kind in kinds]
    seen: list[list[str]] = []
    trained: list[bool] = []

    def client(images: Tensor) -> Tensor:
        if torch.is_grad_enabled() and images.requires_grad:
            seen.append([kind.fp32_precision for kind in kinds])
            trained.append(bool(learning) and learning[0].training)
        return flat(images)

    made = refiner(Target.of_client(client, (1, 28, 28)), 60, refiner_epochs=1)
    learning: list[Any] = []

    def lesson(module: Any, **options: Any) -> Fitted:
        learning.append(module)
        return learn(module, **options, precision=precision)

    made.prepare(lesson)
    learnt = ["bf16"] * 2 if precision == "bf16" else usual
    assert {True, False} == {*trained} and not trained[-1]
    assert all(each == (learnt if it_was else usual) for each, it_was in zip(seen, trained))
    made.infer(torch.rand(1, 3, 784))
    assert seen[-1] == usual == [kind.fp32_precision for kind in kinds]

    def fails(images: Tensor) -> Tensor:
        raise RuntimeError("no client")

    broken = refiner(Target.of_client(flat, (1, 28, 28)), 60)
    broken.knowledge = replace(broken.knowledge, client=fails)
    with pytest.raises(RuntimeError, match="no client"), torch.autocast("cpu", torch.bfloat16):
        broken._hints(broken.first, torch.rand(2, 1, 28, 28), torch.rand(1, 2, 784))
    assert [kind.fp32_precision for kind in kinds] == usual


def test_a_doubling_that_diverges_leaves_what_was_found() -> None:
    made = refiner(Target.of_client(flat, (1, 28, 28)), refiner_doublings=4)
    weight = next(made.steps.parameters())
    before: list[Tensor] = []

    def lesson(module: Any, **options: Any) -> Fitted:
        if before:
            nn.init.constant_(weight, torch.nan)
            raise Diverged("training diverged")
        nn.init.constant_(weight, 7.0)
        before.append(weight.detach().clone())
        module.eval()
        return Fitted(0, 1.0, 1.0, "32-true")

    assert made.prepare(lesson).value == 1.0
    assert torch.equal(weight, before[0]) and not made.training
    assert made.chosen() == {"doubling": -math.inf, "epochs": 2}


def test_its_guesses_are_of_images_that_the_first_attack_does_not_own() -> None:
    target = Target.of_client(flat, (1, 28, 28))
    made = refiner(target, 60)
    guessed = []

    def spy(first: Any, rows: Tensor, *stream: int) -> Any:
        guessed.append((first, rows))
        return overheard(first, rows, *stream)

    overheard = made._overheard
    made._overheard = spy  # type: ignore[method-assign]
    made.prepare(learn)
    own = made.knowledge.surrogate
    for first, rows in guessed:
        known = {tuple(image.flatten().tolist()) for image in first.own}
        assert not known & {tuple(image.flatten().tolist()) for image in own[rows]}
    trained = torch.cat([rows for _, rows in guessed[1:3]])
    assert len(trained.unique()) == 54 and len(guessed[0][1]) == 6


def test_it_needs_what_both_need() -> None:
    assert Refiner(first="nearest").needs == {Need.WEIGHTS, Need.QUERIES, Need.TRANSMISSIONS}
    assert Refiner(first="mixture").needs - Refiner(first="nearest").needs == {Need.DENSITY}
    assert {"refiner"} < set(ATTACKS)


@pytest.mark.parametrize(
    ("first", "message"),
    [("refiner", "cannot refine itself; name another"), ("nobody", "unknown attack 'nobody'")],
)
def test_a_first_attack_that_is_none_is_refused(first: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AttackerSpec(attack="refiner", refiner_first=first)


def test_without_likelihood_there_is_nothing_to_follow() -> None:
    made = refiner(Target.of_client(flat, (1, 28, 28), torch.round), 30)
    with pytest.raises(NoLikelihood, match="is not known"):
        made.prepare(learn)
    with pytest.raises(UsageError, match="with 5 images of its own cannot learn; it needs 6"):
        refiner(Target.of_client(flat, (1, 28, 28)), 5).prepare(learn)


class Interrupted(Exception):
    pass


def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    target = Target.of_client(flat, (1, 28, 28), GaussianNoise(0.3))
    kept = tmp_path / "progress"

    def resumable(
        module: Any, *, monitor: str, mode: str, max_epochs: int, trial: str = ""
    ) -> Fitted:
        where = None if trial else kept
        return fit(
            module,
            monitor=monitor,
            mode=mode,
            max_epochs=max_epochs,
            seed=0,
            precision="32",
            progress_file=where,
        )

    whole = refiner(target, 60)
    whole.prepare(learn)
    broken = refiner(target, 60)
    epochs = []

    def stop(*arguments: Any) -> Any:
        if epochs:
            raise Interrupted
        epochs.append(1)
        return loader()

    loader = broken.train_dataloader
    broken.train_dataloader = stop  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        broken.prepare(resumable)
    assert kept.exists()
    again = refiner(target, 60)
    torch.rand(7)  # whatever was drawn before
    again.prepare(resumable)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


@pytest.mark.parametrize("first", ["nearest", "ridge"])
def test_it_takes_its_first_attack_along(
    first: str, place: Path, classifier_file: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    target = classifier_file(place / "models", network="lenet5", cut="fc2", noise_scale=0.5)
    words = f"--attack refiner --refiner_first {first} --refiner_epochs 1 --refiner_steps 1"
    assert main(f"train_attacker {words} --data_pct 20 --model {target.stem}".split()) == 0
    path = Path(capsys.readouterr().out.strip())
    images = Digits().tensors("scoring")[0][:20] / 255
    attacked = load_attacked(path, "models")
    guesses = reconstruct(attacked, images)
    assert guesses.shape == images.shape and 0 <= guesses.min() and guesses.max() <= 1
    assert torch.equal(reconstruct(attacked, images), guesses)
