"""The learned attack: wins where everything leaks, gains nothing where nothing does, and sees only its own."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from dpsnn.attacks import ATTACKS, DecoderAttack, Knowledge, Nearest, NotFinite
from dpsnn.attacks.decoder import OWN_VALIDATION, averaged
from dpsnn.attacks.nearest import nearest
from dpsnn.building import build_attack
from dpsnn.checkpoints import read
from dpsnn.cli import main
from dpsnn.data import Digits
from dpsnn.defences.noise import LaplaceNoise
from dpsnn.errors import UsageError
from dpsnn.evaluation import tables
from dpsnn.evaluation.attackers import load_attacked, reconstruct
from dpsnn.metrics import mean_image, mse
from dpsnn.networks.decoder import DECODERS, Decoder
from dpsnn.specs import AttackerSpec
from dpsnn.target import Target
from dpsnn.training import Fitted, fit


def images(role: str) -> torch.Tensor:
    return Digits().tensors(role)[0] / 255


def identity(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.flatten(1)


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps an epoch, still several passes over 100 images: for what asks of what is learnt, not how well."""
    monkeypatch.setattr("dpsnn.attacks.decoder.LEAST_STEPS", 6)


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


# ---------------------------------------------------------------- what every attack owes

QUICK: dict[str, dict[str, Any]] = {
    "decoder": {"max_epochs": 4, "batch_size": 32, "learning_rate": 3e-3, "augment": "none"},
    "refiner": {"refiner_first": "nearest", "refiner_epochs": 2},
    "inversion": {"steps": 150},
    "map": {"map_first": "nearest"},
    "ensemble": {"ensemble_members": "nearest+mixture"},
}
"""Settings with which a test need not wait; others are as they come."""


def learn(module: Any, *, monitor: str, mode: str, max_epochs: int, trial: str = "") -> Fitted:
    return fit(module, monitor=monitor, mode=mode, max_epochs=max_epochs, seed=0, precision="32")


def prepared(key: str, client: Any, count: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """Its guesses of images that it does not own, and these."""
    target = Target.of_client(client, (1, 28, 28))
    spec = AttackerSpec(attack=key, **QUICK.get(key, {}))
    torch.manual_seed(0)
    made = build_attack(spec, target, Digits().tensors("surrogate")[0])
    made.prepare(learn)
    truth = images("scoring")[: 40 if spec.method.scored else count]
    return made.infer(target.transmit(target.encode(truth))), truth


def unexplained(guesses: torch.Tensor, truth: torch.Tensor) -> float:
    """Share of the truth's variance that is left once each guess has its best brightness and contrast.

    The published attack leaves all pictures too dark.
    """
    both = [
        pictures.flatten(1) - pictures.flatten(1).mean(1, True) for pictures in (guesses, truth)
    ]
    return 1 - F.cosine_similarity(*both).square().mean().item()


@pytest.mark.parametrize("key", ATTACKS)
def test_every_attack_wins_against_an_identity_client(key: str) -> None:
    guesses, truth = prepared(key, identity)
    floor = mean_image(Digits().tensors("surrogate")[0], len(truth))
    assert unexplained(guesses, truth) < 0.6 * unexplained(floor, truth)


@pytest.mark.parametrize("key", ATTACKS)
def test_every_attack_gains_nothing_against_a_constant_client(key: str) -> None:
    def constant(pictures: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(pictures), 20) + 0 * pictures.flatten(1)[:, :20]

    guesses, truth = prepared(key, constant)
    floor = mean_image(Digits().tensors("surrogate")[0], len(truth))
    assert mse(guesses, truth).mean() > 0.98 * mse(floor, truth).mean()


# ---------------------------------------------------------------- the learned one


@pytest.mark.slow  # of the usual decoder the test of every attack says as much
@pytest.mark.parametrize("decoder", ["conv", "linear"])
def test_wins_against_an_identity_client(decoder: str, floor: float) -> None:
    knowledge = Knowledge(identity, torch.nn.Identity(), Digits().tensors("surrogate")[0])
    made = attack(knowledge, 784, decoder, epochs=4)
    assert error(made, identity(images("scoring"))) < 0.25 * floor


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


def test_the_client_is_asked_for_own_images_only_and_noise_is_fresh(briefly: None) -> None:
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


def test_naive_trains_on_clean_activations(briefly: None) -> None:
    def refuse(activation: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a naive attacker does not know the noise")

    attack(
        Knowledge(identity, refuse, Digits().tensors("surrogate")[0][:64]),
        784,
        epochs=1,
        naive=True,
    )


def test_averaging_queries_averages_the_noise_away(briefly: None) -> None:
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


def test_one_image_of_its_own_is_too_few_to_learn_from(briefly: None) -> None:
    one = Digits().tensors("surrogate")[0][:1]
    with pytest.raises(UsageError, match="attacker with 1 images of its own.*needs 2 or more"):
        attack(Knowledge(identity, torch.nn.Identity(), one), 784)
    two = Digits().tensors("surrogate")[0][:2]
    made = attack(Knowledge(identity, torch.nn.Identity(), two), 784, epochs=1, batch_size=2)
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


# ---------------------------------------------------------------- the nearest own image


def test_the_nearest_is_found_as_a_loop_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpsnn.attacks.nearest.AT_ONCE", 7)
    torch.manual_seed(1)
    wanted, known = torch.randn(11, 2, 3), torch.randn(40, 2, 3)
    found = nearest(wanted, known)
    for row, at in zip(wanted, found.tolist()):
        distances = [((row - other) ** 2).sum().item() for other in known]
        assert at == distances.index(min(distances))


def test_of_equally_near_images_the_first_counts() -> None:
    known = torch.tensor([[5.0], [1.0], [3.0], [1.0], [3.0]]).repeat(500, 1)
    assert nearest(torch.tensor([[2.0], [1.1], [9.0], [4.0]]), known).tolist() == [1, 1, 0, 0]


def test_the_nearest_listens_to_the_mean_of_what_it_hears() -> None:
    own = torch.zeros(3, 1, 1, 2, dtype=torch.uint8)
    own[1:] = torch.tensor([[[[0, 255]]], [[[255, 0]]]])
    made = Nearest(Knowledge(identity, torch.nn.Identity(), own))
    heard = torch.tensor([[[3.0, 0.0], [0.0, 0.9]], [[-2.9, 0.1], [0.1, 0.8]]])
    assert torch.equal(made.infer(heard), own[[0, 1]] / 255)
    assert torch.equal(made.reconstruct(heard[0]), own[[2, 1]] / 255)
    heard[1, 0, 0] = math.nan
    with pytest.raises(NotFinite, match="smashed tensor of image 0 is nan; train the target again"):
        made.infer(heard)


def test_the_nearest_takes_its_images_along(
    place: Path, classifier_file: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    target = classifier_file(place / "models", network="lenet5", noise_scale=0.1)
    judge = classifier_file(place / "models", validator=True)
    words = f"train_attacker --attack nearest --data_pct 10 --queries 2 --model {target.stem}"
    assert main(words.split()) == 0
    path = Path(capsys.readouterr().out.strip())
    own = Digits().tensors("surrogate")[0]
    stored = read(path, "attacker").weights["own"]
    assert len(stored) == round(len(own) / 10) and torch.equal(stored, own[: len(stored)])
    assert main(["evaluate_attackers", "--validation_model", judge.stem]) == 0
    (row,) = tables.read(tables.attackers_table("results"))
    assert (row["Attack"], row["Queries"], row["Decoder"]) == ("nearest", "2", "")
    attacked = load_attacked(path, "models")
    guesses = reconstruct(attacked, images("scoring"), [7, 3])
    assert all((guess == stored / 255).flatten(1).all(1).any() for guess in guesses)
    assert float(row["MSE"]) == pytest.approx(
        mse(reconstruct(attacked, images("scoring")), images("scoring")).mean().item(), rel=1e-4
    )
