"""What the learned attack does before and around its training: looking, augmenting, doubling; and what it once was."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dpsnn import checkpoints
from dpsnn.attacks import DecoderAttack, Knowledge
from dpsnn.attacks.base import held_out
from dpsnn.attacks.decoder import COPIES
from dpsnn.building import build_attack
from dpsnn.data import Digits
from dpsnn.errors import Diverged, UsageError
from dpsnn.networks.augment import AUGMENTATIONS, chosen, mirrored, pictures, warped
from dpsnn.networks.decoder import DECODERS, Decoder
from dpsnn.specs import AttackerSpec
from dpsnn.target import Target
from dpsnn.training import Fitted, fit

OWN = Digits().tensors("surrogate")[0]


def identity(images: Tensor) -> Tensor:
    return images.flatten(1)


def module(client: Callable[[Tensor], Tensor] = identity, **options: Any) -> DecoderAttack:
    torch.manual_seed(0)
    knowledge = Knowledge(client, torch.nn.Identity(), OWN[:60])
    layers = torch.nn.Flatten(), torch.nn.Linear(784, 784), torch.nn.Unflatten(1, (1, 28, 28))
    decoder = Decoder(*layers, bounded=False, channels_last=False)
    return DecoderAttack(decoder, knowledge, **{"learning_rate": 1e-3, "max_epochs": 3, **options})


class Lessons:
    """Trainings that end as they are told to; each leaves its number in the decoder."""

    def __init__(self, *values: float) -> None:
        self.values, self.epochs = list(values), list[int]()

    def __call__(
        self, module: Any, *, monitor: str, mode: str, max_epochs: int, trial: str = ""
    ) -> Fitted:
        assert all(layer.training for layer in module.modules()), "as `fit` demands"
        self.epochs.append(max_epochs)
        torch.nn.init.constant_(module.decoder.layers[1].bias, len(self.epochs))
        module.eval()  # as `fit` leaves it
        return Fitted(0, self.values[len(self.epochs) - 1], 1.0, "32-true")


# ---------------------------------------------------------------- for how long


@pytest.mark.parametrize(
    ("errors", "doublings", "epochs", "kept", "gain"),
    [
        ([1.0], 0, [3], 1, None),
        ([1.0, 0.98], 1, [3, 6], 2, 0.02),
        ([1.0, 0.98], 4, [3, 6], 2, 0.02),
        ([1.0, 1.1], 4, [3, 6], 1, -0.1),
        ([1.0, 0.8, 0.79], 4, [3, 6, 12], 3, 0.0125),
        ([1.0, 0.8, 0.6], 2, [3, 6, 12], 3, 0.25),
    ],
)
def test_epochs_are_doubled_until_that_pays_no_more(
    errors: list[float], doublings: int, epochs: list[int], kept: int, gain: float | None
) -> None:
    made, lessons = module(doublings=doublings), Lessons(*errors)
    fitted = made.prepare(lessons)
    assert lessons.epochs == epochs and fitted.seconds == len(epochs)
    layer = made.decoder.layers[1]
    assert isinstance(layer, torch.nn.Linear) and layer.bias[0] == kept
    assert fitted.value == errors[kept - 1] and made.max_epochs == epochs[kept - 1]
    assert made.chosen().get("doubling") == (None if gain is None else pytest.approx(gain))


@pytest.mark.parametrize("errors, gain", [([1.0], -math.inf), ([1.0, 0.8], 0.2), ([0.0, 0.0], 0.0)])
def test_a_doubling_that_diverges_or_has_nothing_to_lower_leaves_what_was_found(
    errors: list[float], gain: float
) -> None:
    class Breaks(Lessons):
        def __call__(self, module: Any, **options: Any) -> Fitted:
            if len(self.epochs) == len(errors):
                torch.nn.init.constant_(module.decoder.layers[1].bias, torch.nan)
                raise Diverged("training diverged")
            return super().__call__(module, **options)

    made = module(doublings=4)
    fitted = made.prepare(Breaks(*errors))
    kept = len(errors) if errors[-1] else 1
    layer = made.decoder.layers[1]
    assert isinstance(layer, torch.nn.Linear) and layer.bias[0] == kept
    assert fitted.value == errors[-1]
    assert made.chosen()["doubling"] == pytest.approx(gain)
    assert made.chosen()["epochs"] == 3 * 2 ** (kept - 1)


def test_twice_the_epochs_start_from_the_same_weights() -> None:
    starts = []

    class Starts(Lessons):
        def __call__(self, module: Any, **options: Any) -> Fitted:
            starts.append(module.decoder.layers[1].weight.clone())
            torch.nn.init.zeros_(module.decoder.layers[1].weight)
            return super().__call__(module, **options)

    module(doublings=1).prepare(Starts(1.0, 0.9))
    assert torch.equal(*starts)


# ---------------------------------------------------------------- augmentation


@pytest.mark.parametrize("way", [warped, mirrored])
def test_warped_images_stay_pictures_near_to_what_they_were(way: Callable[..., Tensor]) -> None:
    images = OWN[:40] / 255
    if way is mirrored:
        images = (images + images.flip(3)) / 2  # of which a mirror makes nothing new
    found = way(images, torch.Generator().manual_seed(0))
    assert found.shape == images.shape and found.min() >= 0 and found.max() <= 1
    moved = (found - images).square().mean() / images.var()
    assert 0.01 < moved < 0.3
    assert (found.mean() / images.mean() - 1).abs() < 0.05, "no ink comes or goes"
    assert torch.equal(found, way(images, torch.Generator().manual_seed(0)))


def test_a_mirror_turns_half_of_them() -> None:
    images = torch.zeros(400, 1, 16, 16)
    images[..., :8] = 1
    found = mirrored(images, torch.Generator().manual_seed(0))
    left = found[..., :8].mean((1, 2, 3)) > 0.5
    assert 150 < left.sum() < 250


def test_the_client_is_asked_for_what_is_trained_on_and_nothing_held_out_is_augmented() -> None:
    asked = []

    def client(images: Tensor) -> Tensor:
        asked.append(images)
        return images.flatten(1)

    made = module(client, augment="warp")
    made.prepare(lambda module, **options: fit(module, seed=0, precision="32", **options))  # type: ignore
    rows, out = held_out(60, 0)
    every = torch.cat(asked)
    assert len(every) == 60 + COPIES * len(rows)
    assert len(made._copies) == COPIES
    own = OWN[rows] / 255
    for activation, images in made._copies:
        assert torch.equal(activation, images.flatten(1) / 255)
        assert 0 < (images / 255 - own).abs().mean() < 0.1, "row by row the same images"
    epochs = [chosen(made._train, made._copies, seed) for seed in (1, 2)]
    assert not torch.equal(epochs[0][1], epochs[1][1])
    for activation, images in epochs:
        assert torch.equal(activation, images.flatten(1) / 255)
        assert len(images) == len(rows)


def test_two_own_images_are_enough_to_look_and_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpsnn.attacks.decoder.LEAST_STEPS", 1)
    target = Target.of_client(identity, (1, 28, 28))
    made = build_attack(AttackerSpec(max_epochs=1, learning_rate=1e-3), target, OWN[:2])
    made.prepare(lambda module, **options: fit(module, seed=0, precision="32", **options))  # type: ignore
    assert made.reconstruct(identity(OWN[:3] / 255)).isfinite().all()


@pytest.mark.parametrize(("values", "images", "some"), [(300, 60, True), (4, 450, False)])
def test_what_serves_on_own_images_is_chosen(values: int, images: int, some: bool) -> None:
    """Of a linear client's own images there may be too few, or plenty; then others are only others."""
    torch.manual_seed(0)
    mixed = torch.randn(784, values) / 28
    made = module(augment="auto")
    made.knowledge = Knowledge(lambda x: x.flatten(1) @ mixed, torch.nn.Identity(), OWN[:images])
    made._augment(*held_out(images, 0))
    assert (made.chosen()["augment"] in ("warp", "mirror"), len(made._copies)) == (
        (some, COPIES * some)
    )


def test_rows_that_are_no_pictures_are_left_alone() -> None:
    assert pictures(OWN) and not pictures(OWN / 255) and not pictures(OWN.flatten(1))
    assert torch.equal(AUGMENTATIONS["none"](OWN / 255, torch.Generator()), OWN / 255)
    with pytest.raises(UsageError, match="unknown augment 'flip'; choose from"):
        AttackerSpec(augment="flip")


# ---------------------------------------------------------------- versions


def attacks(**options: Any) -> tuple[DecoderAttack, DecoderAttack]:
    """As it is and as it was."""
    target = Target.of_client(identity, (1, 28, 28))
    made = [build_attack(AttackerSpec(**options, was=was), target, OWN[:20]) for was in (0, 1)]
    assert isinstance(made[0], DecoderAttack) and isinstance(made[1], DecoderAttack)
    return made[0], made[1]


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_default_decoder_looks_and_augments_and_published_ones_are_as_they_were(
    decoder: str,
) -> None:
    now, then = attacks(decoder=decoder)
    assert then.front is None and then.augment == "none"
    assert (now.front is not None, now.augment) == (
        (True, "auto") if decoder in ("conv", "grid") else (False, "none")
    )


def test_an_attacker_of_the_first_version_loads_as_what_it_was(
    place: Path, classifier_file: Callable[..., Path]
) -> None:
    target = classifier_file(place / "models", network="lenet5")
    read = checkpoints.read(target, "classifier")
    spec = AttackerSpec(model=target.stem, surrogate="digits")
    classifier, _, _ = checkpoints.load_classifier(target)
    attack = build_attack(AttackerSpec(was=1), Target.of(classifier), OWN[:20])
    arguments = checkpoints.attacker_arguments(spec, read)
    for name in ("augment", "doublings"):
        del arguments[name]
    record = dict(epoch=0, precision="32-true", mean_image=OWN[0] / 255, surrogate_source="digits")
    folder, name = place / "models" / "attackers", checkpoints.attacker_name(spec)
    path = folder / f"{name}.ckpt"
    parts = {"decoder": {"version": 1, "plugin": ""}}
    checkpoints.save(
        path, "attacker", arguments, {**record, "surrogate_images": 20}, attack.state_dict(), parts
    )
    loaded, was, _ = checkpoints.load_attacker(path, Target.of(classifier))
    assert was.was == 1 and isinstance(loaded, DecoderAttack) and loaded.front is None
    heard = torch.randn(2, *attack.knowledge.cut_shape)  # type: ignore[union-attr]
    torch.testing.assert_close(loaded.reconstruct(heard), attack.eval().reconstruct(heard))
    # It is not the one that is asked for now.
    wanted = checkpoints.attacker_arguments(spec, read)
    assert checkpoints.already(folder, name, "attacker", wanted) is None


def test_a_naive_one_takes_the_wire_as_it_comes() -> None:
    """It neither straightens values, which the least noise would upset, nor moves its images: as was published."""
    target = Target.of_client(lambda images: images.flatten(1).tanh(), (1, 28, 28))
    for naive in (False, True):
        made = build_attack(AttackerSpec(naive=naive), target, OWN[:60])
        assert isinstance(made, DecoderAttack)
        assert (made.front is None, made.augment) == (naive, "none" if naive else "auto")
