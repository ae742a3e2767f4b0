"""The learned attack: wins where everything leaks, gains nothing where nothing does, and sees only its own."""

import dataclasses
import math
from typing import Any

import pytest
import torch

from dpsnn.attacks import DecoderAttack, Knowledge, NotFinite
from dpsnn.attacks.decoder import OWN_VALIDATION, averaged
from dpsnn.data import Digits
from dpsnn.defences import LaplaceNoise
from dpsnn.errors import UsageError
from dpsnn.metrics import mean_image, mse
from dpsnn.networks.decoder import DECODERS, Decoder
from dpsnn.training import fit


def images(role: str) -> torch.Tensor:
    return Digits().tensors(role)[0] / 255


def identity(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.flatten(1)


def attack(
    knowledge: Knowledge, cut: int, decoder: str = "conv", epochs: int = 2, **options: Any
) -> DecoderAttack:
    torch.manual_seed(0)
    made = DecoderAttack(DECODERS[decoder]((cut,), (1, 28, 28)), knowledge, **options)
    fit(made, monitor="val/mse", mode="min", max_epochs=epochs, seed=0, precision="32")
    return made


def error(made: DecoderAttack, smashed: torch.Tensor) -> float:
    return mse(made.reconstruct(smashed), images("scoring")).mean().item()


@pytest.fixture(scope="module")
def floor() -> float:
    scoring = images("scoring")
    return mse(mean_image(Digits().tensors("surrogate")[0], len(scoring)), scoring).mean().item()


@pytest.mark.parametrize("decoder", ["conv", pytest.param("linear", marks=pytest.mark.slow)])
def test_wins_against_an_identity_client(decoder: str, floor: float) -> None:
    knowledge = Knowledge(identity, torch.nn.Identity(), Digits().tensors("surrogate")[0])
    made = attack(knowledge, 784, decoder, epochs=4)
    assert error(made, identity(images("scoring"))) < 0.25 * floor


def test_gains_nothing_against_a_constant_client(floor: float) -> None:
    def constant(pictures: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(pictures), 20)

    knowledge = Knowledge(constant, torch.nn.Identity(), Digits().tensors("surrogate")[0])
    made = attack(knowledge, 20)
    assert error(made, constant(images("scoring"))) > 0.98 * floor


@pytest.mark.slow
def test_adapting_to_the_noise_beats_ignoring_it(floor: float) -> None:
    noise = LaplaceNoise(1.0)
    knowledge = Knowledge(identity, noise, Digits().tensors("surrogate")[0])
    torch.manual_seed(1)
    smashed = noise(identity(images("scoring")))
    adaptive = error(attack(knowledge, 784, epochs=4), smashed)
    naive = error(attack(knowledge, 784, epochs=4, naive=True), smashed)
    assert adaptive < 0.6 * naive
    assert adaptive < 0.8 * floor


def test_the_client_is_asked_for_own_images_only_and_noise_is_fresh() -> None:
    own = Digits().tensors("surrogate")[0][:100]
    asked, drawn = [], []

    def client(pictures: torch.Tensor) -> torch.Tensor:
        asked.append(pictures)
        return pictures.flatten(1)

    class Recorder(LaplaceNoise):
        def forward(self, activation: torch.Tensor) -> torch.Tensor:
            smashed = super().forward(activation)
            drawn.append((smashed - activation).flatten()[:50])
            return smashed

    attack(Knowledge(client, Recorder(1.0), own), 784, epochs=2)
    assert torch.equal(torch.cat(asked), own / 255), "each own image once, no other"
    noise = torch.stack(drawn)
    assert len(noise.unique(dim=0)) == len(noise), "a draw of the noise was used twice"


def test_it_is_judged_on_images_it_is_not_trained_on() -> None:
    own = torch.arange(100, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 28, 28)
    made = attack(Knowledge(identity, torch.nn.Identity(), own), 784, epochs=1)
    parts = [{int(image[0, 0, 0]) for image in part[1]} for part in (made._train, made._val)]
    assert parts[0] | parts[1] == set(range(100)) and not parts[0] & parts[1]
    assert len(parts[1]) == OWN_VALIDATION * 100


def test_naive_trains_on_clean_activations() -> None:
    def refuse(activation: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a naive attacker does not know the noise")

    attack(
        Knowledge(identity, refuse, Digits().tensors("surrogate")[0][:64]),
        784,
        epochs=1,
        naive=True,
    )


def test_averaging_queries_averages_the_noise_away(floor: float) -> None:
    activation = torch.zeros(300, 500)
    spread = [averaged(LaplaceNoise(1.0), activation, k).std().item() for k in (1, 4, 16)]
    assert spread == pytest.approx([2**0.5, 2**0.5 / 2, 2**0.5 / 4], rel=0.02)
    assert torch.equal(averaged(torch.nn.Identity(), activation + 0.3, 1), activation + 0.3)
    seen = []

    class Recorder(LaplaceNoise):
        def forward(self, activation: torch.Tensor) -> torch.Tensor:
            seen.append(len(activation))
            return super().forward(activation)

    knowledge = Knowledge(identity, Recorder(1.0), Digits().tensors("surrogate")[0][:64])
    attack(knowledge, 784, epochs=1, queries=5)
    assert len(seen) % 5 == 0 and seen[:5] == [seen[0]] * 5, "five transmissions of each batch"


def test_reconstructions_are_pictures_also_of_the_linear_decoder() -> None:
    made = DecoderAttack(DECODERS["linear"]((50,), (1, 28, 28)))
    pictures = made.reconstruct(100 * torch.randn(4, 50))
    assert pictures.min() >= 0 and pictures.max() <= 1 and not pictures.requires_grad


def test_knowledge_holds_no_more_than_the_threat_model_grants() -> None:
    names = {field.name for field in dataclasses.fields(Knowledge)}
    assert names == {"client", "defend", "surrogate", "threat_model"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        Knowledge(identity, identity, torch.zeros(1, 1, 2, 2, dtype=torch.uint8)).surrogate = None  # type: ignore


def test_one_image_of_its_own_is_too_few_to_learn_from() -> None:
    one = Digits().tensors("surrogate")[0][:1]
    with pytest.raises(UsageError, match="attacker with 1 images of its own.*needs 2 or more"):
        attack(Knowledge(identity, torch.nn.Identity(), one), 784)
    two = Digits().tensors("surrogate")[0][:2]
    made = attack(Knowledge(identity, torch.nn.Identity(), two), 784, epochs=1)
    assert made.reconstruct(identity(images("scoring"))[:3]).shape == (3, 1, 28, 28)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_decoder_that_gives_no_numbers_is_not_clipped_to_pictures(bad: float) -> None:
    class Broken(Decoder):
        def forward(self, smashed: torch.Tensor) -> torch.Tensor:
            return torch.where(smashed > 0, bad, smashed).view(-1, 1, 2, 2)

    made = DecoderAttack(Broken(bounded=False, channels_last=False))
    smashed = torch.zeros(3, 4)
    assert made.reconstruct(smashed).tolist() == torch.zeros(3, 1, 2, 2).tolist()
    smashed[1, 2] = 1
    with pytest.raises(NotFinite, match=f"reconstruction of image 1 is {bad}; "):
        made.reconstruct(smashed)
