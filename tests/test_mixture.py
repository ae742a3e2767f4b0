"""The likelihood mixture is the exact posterior mean of its own images, whatever noise there is."""

import math
from typing import Any

import pytest
import torch
from scipy import ndimage
from scipy.integrate import quad
from torch import Tensor, nn

from dpsnn.attacks.mixture import MOVES, LikelihoodMixture, Mixture, posterior_means
from dpsnn.building import build_attack
from dpsnn.data import Digits
from dpsnn.defences import DefenceList, DefenceModule
from dpsnn.defences.clip import ClipGaussian
from dpsnn.defences.noise import GaussianNoise, LaplaceNoise
from dpsnn.defences.quantise import Quantise
from dpsnn.errors import NoLikelihood, UsageError
from dpsnn.metrics import mse
from dpsnn.networks.augment import Move, moved
from dpsnn.specs import AttackerSpec
from dpsnn.target import Target

NEEDS = LikelihoodMixture.needs


def identity(images: Tensor) -> Tensor:
    return images.flatten(1)


def mixture(own: Tensor, mechanism: Any, client: Any = identity, **options: Any) -> Mixture:
    """Of these very images, at temperature 1."""
    target = Target.of_client(client, tuple(own.shape[1:]), mechanism)
    known = target.knowledge(own, NEEDS)
    return Mixture(known, **options)  # type: ignore[arg-type]


def learn(*arguments: Any, **named: Any) -> Any:
    raise AssertionError("there is nothing to learn in epochs")


POINTS = torch.tensor([0.1, 0.4, 0.9])


def normal(x: float) -> float:
    return math.exp(-(x**2) / 2 / 0.3**2)


def laplace(x: float) -> float:
    return math.exp(-abs(x) / 0.2)


def both(x: float) -> float:
    """The density of the sum, by its integral."""
    kinks = sorted({-5.0, 0.0, x, 5.0})
    return sum(
        quad(lambda t: laplace(t) * normal(x - t), low, high, epsabs=1e-13)[0]
        for low, high in zip(kinks, kinks[1:])
    )


@pytest.mark.parametrize(
    ("mechanism", "density"),
    [
        (GaussianNoise(0.3), normal),
        (LaplaceNoise(0.2), laplace),
        (DefenceList([LaplaceNoise(0.2), GaussianNoise(0.3)]), both),
    ],
)
@pytest.mark.parametrize("said", [[[0.3]], [[0.3], [0.7]], [[-0.2], [2.5], [0.1]]])
def test_it_is_the_exact_posterior_mean_of_known_points(
    mechanism: DefenceModule, density: Any, said: list[list[float]]
) -> None:
    weights = [math.prod(density(h - x) for (h,) in said) for x in POINTS.tolist()]
    mean = sum(w * x for w, x in zip(weights, POINTS.tolist())) / sum(weights)
    made = mixture(POINTS.view(-1, 1, 1, 1), mechanism, queries=len(said))
    assert made.infer(torch.tensor(said)[:, None]).item() == pytest.approx(mean, rel=1e-4)


def test_rounded_noise_counts_by_its_mass() -> None:
    """Of four levels -1, -1/3, 1/3, 1: what lies in a cell, the outer ones without end, by the integral."""
    mechanism = DefenceList([GaussianNoise(0.3), Quantise(2)])
    edges = [-5.0, -2 / 3, 0.0, 2 / 3, 5.0]
    for level in range(4):
        mass = [
            quad(lambda h: normal(h - x), edges[level], edges[level + 1], points=[x], epsabs=1e-13)[
                0
            ]
            for x in POINTS.tolist()
        ]
        mean = sum(m * x for m, x in zip(mass, POINTS.tolist())) / sum(mass)
        made = mixture(POINTS.view(-1, 1, 1, 1), mechanism)
        heard = torch.tensor([[[-1 + 2 * level / 3]]])
        assert made.infer(heard).item() == pytest.approx(mean, rel=1e-4)


# ---------------------------------------------------------------- misfits in pairs


@pytest.mark.parametrize(
    "defences",
    [
        [LaplaceNoise(0.5)],
        [GaussianNoise(0.4)],
        [LaplaceNoise(0.5), GaussianNoise(0.4)],
        [LaplaceNoise(0.5), LaplaceNoise(0.3)],
        [ClipGaussian(0.3, radius=0.6)],
        [GaussianNoise(0.4), Quantise(3)],
        [Quantise(3), LaplaceNoise(0.2)],
    ],
)
def test_pairs_are_the_misfits_of_each_in_nats(
    defences: list[DefenceModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    wire = DefenceList(defences)
    known, clean = torch.rand(5, 2, 3) - 0.5, torch.rand(7, 2, 3) - 0.5
    heard = torch.stack([wire(clean) for _ in range(3)])
    wanted = torch.stack([6 * wire.misfit(one.expand_as(clean), heard) for one in known], 1)
    for cells in (1, 13, 10**6):
        monkeypatch.setattr("dpsnn.defences.densities.IN_CACHE", cells)
        torch.testing.assert_close(wire.pairwise(known, heard), wanted, rtol=2e-5, atol=1e-4)


def test_fine_rounding_takes_a_constant_from_each_row() -> None:
    torch.manual_seed(0)
    wire = DefenceList([LaplaceNoise(0.5), Quantise(9)])
    known, clean = torch.rand(5, 40) - 0.5, torch.rand(7, 40) - 0.5
    heard = wire(clean)[None].clamp(-0.99, 0.99)  # the outer levels take all beyond
    exact = torch.stack([40 * wire.misfit(one.expand_as(clean), heard) for one in known], 1)
    found = wire.pairwise(known, heard)
    apart = found - exact
    torch.testing.assert_close(apart, apart[:, :1].expand_as(apart), rtol=0, atol=0.05)
    assert not torch.allclose(found, exact, atol=1)


def test_small_gaussian_noise_leaves_no_cancellation() -> None:
    torch.manual_seed(0)
    known = 100 + torch.rand(4, 50)
    found = DefenceList([GaussianNoise(1e-3)]).pairwise(known, known[None] + 1e-3)
    exact = (known[:, None] + 1e-3 - known).double().pow(2).sum(2) / 2e-6
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1.0)


def test_without_noise_it_is_half_the_squared_distance() -> None:
    known, heard = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[[3.0, 4.0]]])
    assert DefenceList().pairwise(known, heard).tolist() == [[12.5, 0.0]]


def test_what_is_done_after_noise_has_no_likelihood_in_pairs_either() -> None:
    wire = DefenceList([LaplaceNoise(0.2), ClipGaussian(0.3, radius=0.6)])
    with pytest.raises(NoLikelihood):
        wire.pairwise(torch.zeros(1, 2), torch.zeros(1, 1, 2))


# ---------------------------------------------------------------- the mean


def test_a_mean_is_the_same_in_blocks_of_any_size() -> None:
    torch.manual_seed(0)
    images, nats = torch.rand(40, 1, 3, 2), 300 * torch.rand(6, 40)
    weights = (-nats.double()).softmax(1)
    wanted = (weights @ images.double().flatten(1)).view(6, 1, 3, 2)
    for size in (1, 7, 40):
        blocks = zip(images.split(size), nats.split(size, 1))
        one, half = posterior_means(blocks, [1.0, 0.01])
        torch.testing.assert_close(one.double(), wanted, rtol=1e-4, atol=1e-5)
    weights = (-0.01 * nats.double()).softmax(1)
    wanted = (weights @ images.double().flatten(1)).view(6, 1, 3, 2)
    torch.testing.assert_close(half.double(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [3, 1000])
def test_own_images_and_what_is_heard_may_come_in_parts(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    own = torch.randint(0, 256, (20, 1, 6, 5), dtype=torch.uint8)
    made = mixture(own, LaplaceNoise(0.3))
    made.moves.fill_(len(MOVES) - 1)
    heard = made.knowledge.defend(identity(own[:8] / 255))[None]
    whole = made.infer(heard)
    monkeypatch.setattr("dpsnn.attacks.mixture.AT_ONCE", size)
    parts = [made.infer(part) for part in heard.split(3, 1)]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_it_comes_to_the_optimum_where_that_is_known() -> None:
    """Uniform images of two values through uniform noise of a known density: nobody has less error than their mean."""
    torch.manual_seed(0)
    own = (torch.rand(4000, 1, 1, 2) > 0.5).float()
    target = Target.of_client(identity, (1, 1, 2), GaussianNoise(0.7))
    made = build_attack(AttackerSpec(attack="mixture", queries=2), target, own[:2000])
    made.fit()
    truth = own[2000:]
    heard = target.transmit(target.encode(truth), 2)
    # P(x = 1 | heard) of each value by itself, by Bayes' rule.
    wanted = ((2 * heard.sum(0) - 2) / 2 / 0.7**2).sigmoid().view_as(truth)
    error, least = (mse(guess, truth).mean().item() for guess in (made.infer(heard), wanted))
    assert error == pytest.approx(least, rel=0.02)


def test_temperature_and_moves_are_chosen_on_own_images_alone() -> None:
    own = Digits().tensors("surrogate")[0][:150]
    seen = []

    def client(images: Tensor) -> Tensor:
        seen.append(images)
        return images.flatten(1)

    made = mixture(own, LaplaceNoise(0.5), client)
    torch.manual_seed(0)
    error = made.prepare(learn).value
    floor = (own / 255).var(0).mean()
    assert 0 < error < floor
    assert made.chosen() == {"temper": made.temper.item(), "moves": len(MOVES[int(made.moves)])}
    assert 0 < made.chosen()["temper"] <= 1
    still = {tuple(image.flatten().tolist()) for image in own / 255}
    asked = {tuple(image.flatten().tolist()) for image in torch.cat(seen[1:])}
    assert still <= asked


def test_a_mechanism_without_likelihood_is_met_by_squares(
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = Digits().tensors("surrogate")[0][:100]
    made = mixture(own, torch.round)
    guesses = made.infer(identity(own[:5] / 255)[None])
    said = capsys.readouterr().err
    assert said.startswith("mixture: ") and said.count("plain squares are taken instead") == 1
    assert guesses.shape == (5, 1, 28, 28)


def test_what_nothing_explains_is_refused() -> None:
    made = mixture(POINTS.view(-1, 1, 1, 1), LaplaceNoise(0.2))
    with pytest.raises(UsageError, match="smashed tensor of image 1 is nan"):
        made.infer(torch.tensor([[[0.1], [math.nan]]]))


def test_density_comes_without_gradients_and_to_who_names_it_alone() -> None:
    target = Target.of_client(nn.Flatten(), (1, 2, 2), LaplaceNoise(0.5))
    own = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    known = target.knowledge(own, NEEDS)
    pairs = known.pairwise(torch.zeros(3, 4, requires_grad=True), torch.ones(1, 2, 4))  # type: ignore
    assert pairs.tolist() == [[8.0] * 3] * 2 and not pairs.requires_grad


# ---------------------------------------------------------------- moves


def test_images_are_moved_by_whole_pixels_and_turned_as_scipy_does() -> None:
    image = torch.arange(12.0).view(1, 1, 3, 4) / 12
    right_down = moved(image, Move(1, 1))
    assert torch.equal(right_down[0, 0, 1:, 1:], image[0, 0, :-1, :-1])
    assert torch.equal(right_down[0, 0, 0, 1:], image[0, 0, 0, :-1]), "the edge goes on"
    assert torch.equal(moved(image, Move()), image)
    torch.manual_seed(0)
    picture = torch.rand(1, 1, 9, 14)
    wanted = ndimage.rotate(picture[0, 0].numpy(), 8, reshape=False, order=1, mode="nearest")
    found = moved(picture, Move(turn=8.0))[0, 0]
    torch.testing.assert_close(found, torch.from_numpy(wanted), rtol=0, atol=1e-5)
