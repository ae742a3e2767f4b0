"""White-box inversions: maths against hand-written loops, what they must and must not recover, and every defence."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from dpsnn import building, checkpoints
from dpsnn.attacks import ATTACKS, FeatureInversion, NotFinite, SignDescent, WhiteBox
from dpsnn.attacks.feature_inversion import (
    BOXES,
    Found,
    Inversion,
    Prior,
    descend,
    lowest,
    squared_norm,
    total_variation,
)
from dpsnn.attacks.sign_descent import published_loss, sign_descent
from dpsnn.cli import main
from dpsnn.data import Digits
from dpsnn.defences import DefenceList, DefenceModule
from dpsnn.defences.clip import ClipGaussian
from dpsnn.defences.noise import GaussianNoise, LaplaceNoise
from dpsnn.defences.nopeek import NoPeek
from dpsnn.defences.quantise import Quantise
from dpsnn.errors import UsageError
from dpsnn.evaluation import tables
from dpsnn.evaluation.attackers import load_attacked, overheard
from dpsnn.metrics import mean_image, mse, relative_l2, ssim
from dpsnn.networks import NETWORKS
from dpsnn.options import choices
from dpsnn.specs import AttackerSpec, ClassifierSpec
from dpsnn.target import Target

FileMaker = Callable[..., Path]


def images(role: str, count: int | None = None) -> Tensor:
    return Digits().tensors(role)[0][:count] / 255


def identity(pictures: Tensor) -> Tensor:
    return pictures.flatten(1)


def white_box(client: Any = identity, *defences: DefenceModule) -> WhiteBox:
    """What the attacker of a client behind these defences knows."""
    defend = DefenceList(defences)
    return WhiteBox(client, defend, Digits().tensors("surrogate")[0], misfit=defend.misfit)


def misfit(activation: Tensor, heard: Tensor, laplace: float = 0, gaussian: float = 0) -> Tensor:
    return DefenceList([LaplaceNoise(laplace), GaussianNoise(gaussian)]).misfit(activation, heard)


def network(cut: str = "fc1") -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS["lenet5"]((1, 28, 28), 10, cut=cut).client.eval().requires_grad_(False)


# ---------------------------------------------------------------- the published attack


def slow_sign_descent(client: nn.Module, wanted: Tensor, start: Tensor, steps: int) -> Tensor:
    """One image, as the equations say, pixel by pixel."""
    x = start.clone()
    side = x.shape[-1]
    for _ in range(steps):
        x.requires_grad_()
        features = client(x)
        error = ((features - wanted) ** 2).mean() / (wanted**2).mean()
        pixels = x[0, 0]
        down = [(pixels[i + 1] - pixels[i]) ** 2 for i in range(side - 1)]
        right = [(pixels[:, j + 1] - pixels[:, j]) ** 2 for j in range(side - 1)]
        variation = torch.stack(down).mean() + torch.stack(right).mean()
        loss = 1 * error + 0.1 * variation + 5 * (x**2).mean()
        (gradient,) = torch.autograd.grad(loss, x)
        x = x.detach() - 0.01 * torch.sign(gradient)
        x = torch.clip(x, 0, 1)
    return x


def test_sign_descent_equals_a_loop_over_single_images() -> None:
    client = network().double()
    truth = images("scoring", 4).double()
    wanted, start = client(truth), 0.05 * torch.rand(4, 1, 28, 28).double()
    together = sign_descent(client, wanted, start, 30)
    for i in range(4):
        alone = slow_sign_descent(client, wanted[i : i + 1], start[i : i + 1], 30)
        torch.testing.assert_close(together[i : i + 1], alone)
    assert (together - start).abs().max() > 0.25, "it moved"


def test_the_published_loss_is_its_three_terms() -> None:
    picture = torch.zeros(1, 1, 4, 4)
    picture[..., 1, 2] = 1
    wanted, features = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 1.0]])
    # 9/2 over 25/2; two of twelve neighbours in each direction differ by 1; one of sixteen pixels is 1.
    expected = 9 / 25 + 0.1 * (2 / 12 + 2 / 12) + 5 / 16
    assert published_loss(features, wanted, picture).item() == pytest.approx(expected)
    dead = published_loss(features, torch.zeros(1, 2), picture, (1, 0, 0))
    assert dead.item() == pytest.approx(5), "features that are all zero have no scale"


def test_the_published_attack_averages_what_it_hears() -> None:
    client = network("conv1")
    attack = SignDescent(white_box(client), steps=5)
    wanted = client(images("scoring", 3))
    torch.manual_seed(4)
    one = attack.reconstruct(wanted)
    torch.manual_seed(4)
    several = attack.infer(torch.stack([wanted - 0.5, wanted + 0.5]))
    assert (
        one - several
    ).abs().mean() < 1e-3, "but for rounding where a gradient is next to nothing"
    assert one.min() >= 0 and one.max() <= 0.1 + 1e-6, "five steps of 0.01 from below 0.05"


# ---------------------------------------------------------------- the strong attack: maths


def test_the_priors_are_their_sums() -> None:
    picture = torch.rand(2, 3, 5, 6)
    expected = torch.zeros(2)
    for n in range(2):
        for c in range(3):
            for i in range(5):
                for j in range(6):
                    if i < 4:
                        expected[n] += abs(picture[n, c, i + 1, j] - picture[n, c, i, j])
                    if j < 5:
                        expected[n] += abs(picture[n, c, i, j + 1] - picture[n, c, i, j])
    torch.testing.assert_close(total_variation(picture), expected / 90)
    centre = torch.rand(3, 5, 6)
    torch.testing.assert_close(
        squared_norm(picture, centre), ((picture - centre) ** 2).sum((1, 2, 3)) / 90
    )


@pytest.mark.parametrize(
    ("laplace", "gaussian"), [(0.5, 0.0), (0.0, 0.3), (0.5, 0.3), (0.2, 2.0), (3.0, 0.05)]
)
def test_the_misfit_is_the_likelihood_of_the_noise(laplace: float, gaussian: float) -> None:
    """Against the density by numerical integration, up to a constant."""
    residuals = torch.linspace(-4, 4, 33).double()
    activation = torch.zeros(33, 1).double()
    ours = misfit(activation, residuals.view(1, 33, 1), laplace, gaussian)
    if laplace and gaussian:
        grid = torch.linspace(-40, 40, 100_001).double()
        weight = torch.exp(-grid.abs() / laplace) / (2 * laplace)
        density = torch.stack(
            [
                torch.trapezoid(weight * torch.from_numpy(norm.pdf(r - grid, 0, gaussian)), grid)
                for r in residuals.tolist()
            ]
        )
    elif laplace:
        density = torch.exp(-residuals.abs() / laplace)
    else:
        density = torch.from_numpy(norm.pdf(residuals, 0, gaussian))
    theirs = -density.log()
    torch.testing.assert_close(ours - ours[16], theirs - theirs[16], rtol=1e-3, atol=1e-3)


def test_transmissions_add_their_evidence() -> None:
    heard = torch.randn(5, 3, 7)
    guess = torch.randn(3, 7)
    alone = [misfit(guess, part[None], laplace=0.5) for part in heard]
    torch.testing.assert_close(misfit(guess, heard, laplace=0.5), sum(alone, torch.zeros(3)))
    expected = ((heard[:1] - guess) ** 2).sum((0, 2)) / (heard[:1] ** 2).sum((0, 2))
    torch.testing.assert_close(misfit(guess, heard[:1]), expected)
    assert misfit(guess, torch.zeros(1, 3, 7)).isfinite().all(), "dead features have no scale"


def test_each_image_keeps_its_lowest_end() -> None:
    pictures = torch.rand(3, 4, 1, 2, 2)
    values = torch.tensor([[1.0, 5.0, 2.0, 3.0], [2.0, 4.0, 2.0, 1.0], [3.0, 4.5, 0.5, 1.0]])
    best = lowest([Found(p, v) for p, v in zip(pictures, values)])
    assert best.values.tolist() == [1, 4, 0.5, 1]
    for image, start in enumerate((0, 1, 2, 1)):
        assert torch.equal(best.images[image], pictures[start, image])


def test_restarts_never_end_higher_than_any_of_their_starts() -> None:
    client = network()
    attack = FeatureInversion(white_box(client), steps=3, restarts=3, rate=0.01)
    tuned(attack, 0.0, 0.0)
    # Each start is the best one of an image of its own.
    heard = client(attack.starts[[2, 0, 1, 0]])[None]
    single = [
        attack._descend(heard, attack.starts[k : k + 1], attack.prior, 3, lambda: None)
        for k in range(3)
    ]
    together = attack._descend(heard, attack.starts, attack.prior, 3, lambda: None)
    each = torch.stack([found.values for found in single])
    assert each.argmin(0).tolist() == [2, 0, 1, 0]
    assert torch.equal(together.values, each.min(0).values)
    for image, start in enumerate((2, 0, 1, 0)):
        assert torch.equal(together.images[image], single[start].images[image])


def tuned(attack: FeatureInversion, *weights: float) -> None:
    """As `fit` leaves it, had it found these weights."""
    own = images("surrogate", attack.restarts - 1)
    attack.starts.copy_(torch.cat([images("surrogate").mean(0, keepdim=True), own]))
    attack.weights.copy_(torch.tensor(weights))


@pytest.mark.parametrize("box", BOXES)
def test_an_image_goes_the_same_way_in_any_company(box: str) -> None:
    client = network("conv2")
    truth = images("scoring", 3)

    def found(rows: slice) -> Tensor:
        wanted = client(truth[rows])[None]

        def objective(x: Tensor) -> Tensor:
            return misfit(client(x), wanted) + 0.1 * total_variation(x)

        return descend(objective, torch.full_like(truth[rows], 0.3), 20, 0.05, box).images

    together = found(slice(None))
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], found(slice(i, i + 1)), atol=1e-4, rtol=0)
    assert together.min() >= 0 and together.max() <= 1


# ---------------------------------------------------------------- what it finds


@pytest.mark.parametrize("box", BOXES)
def test_an_identity_cut_gives_the_image_away(box: str) -> None:
    attack = FeatureInversion(white_box(), steps=300, restarts=1, box=box)
    attack.fit()
    truth = images("scoring", 40)
    errors = mse(attack.reconstruct(identity(truth)), truth)
    assert errors.mean() < 1e-4 and errors.max() < 2e-4


def test_a_constant_cut_gives_the_optimum_of_the_prior() -> None:
    def constant(pictures: Tensor) -> Tensor:
        return torch.ones(len(pictures), 20) + 0 * pictures.flatten(1)[:, :20]

    attack = FeatureInversion(white_box(constant), steps=100, restarts=2)
    attack.fit()
    truth = images("scoring", 40)
    guesses = attack.reconstruct(constant(truth))
    assert torch.equal(guesses, guesses[:1].expand_as(guesses)), "all images look the same"
    assert attack.prior == Prior(0.0, pytest.approx(attack.prior.square))
    floor = mean_image(Digits().tensors("surrogate")[0], 40)
    # The prior's optimum is the mean of the attacker's images.
    assert mse(guesses, floor).max() < 1e-4
    assert mse(guesses, truth).mean() > 0.99 * mse(floor, truth).mean()


def bounds(values: Tensor) -> tuple[float, float]:
    """95 % interval of a mean over images."""
    half = 1.96 * values.std().item() / math.sqrt(len(values))
    return values.mean().item() - half, values.mean().item() + half


@pytest.mark.parametrize(
    "defences",
    [
        [LaplaceNoise(0.5)],
        [ClipGaussian(0.1, radius=2.0)],
        pytest.param([LaplaceNoise(0.5), Quantise(2, 0.0, 1.0)], marks=pytest.mark.slow),
        [Quantise(2, 0.2, 0.8)],
    ],
    ids=str,
)
def test_the_right_likelihood_beats_plain_squares_at_equal_budget(
    defences: list[DefenceModule],
) -> None:
    truth = images("scoring", 100)
    torch.manual_seed(1)
    heard = DefenceList(defences)(identity(truth))
    errors = {}
    for naive in (False, True):
        attack = FeatureInversion(
            white_box(identity, *defences), steps=120, restarts=1, naive=naive
        )
        torch.manual_seed(2)
        attack.fit()
        errors[naive] = bounds(mse(attack.reconstruct(heard), truth))
    assert errors[False][1] < errors[True][0], errors


def test_without_a_likelihood_it_goes_by_squares_and_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.manual_seed(0)
    defences = LaplaceNoise(0.1), ClipGaussian(0.1, radius=20.0)
    truth = images("scoring", 3)
    heard = DefenceList(defences)(identity(truth))
    found = {}
    for naive in (False, True):
        attack = FeatureInversion(white_box(identity, *defences), steps=5, restarts=1, naive=naive)
        tuned(attack, 0.1, 0.1)
        found[naive] = attack.reconstruct(heard)
        said = capsys.readouterr().err
        assert said.count("Clip(radius=20.0) after Laplace(scale=0.1)") == (not naive)
    assert torch.equal(found[False], found[True])


def test_more_transmissions_leak_more() -> None:
    noise = LaplaceNoise(1.0)
    truth = images("scoring", 50)
    torch.manual_seed(1)
    heard = torch.stack([noise(identity(truth)) for _ in range(16)])
    errors = []
    for queries in (1, 4, 16):
        attack = FeatureInversion(white_box(identity, noise), steps=60, restarts=1, queries=queries)
        tuned(attack, 1.0, 1.0)
        errors.append(bounds(mse(attack.infer(heard[:queries]), truth)))
    assert errors[2][1] < errors[1][0] and errors[1][1] < errors[0][0]


@pytest.mark.parametrize("attack", [FeatureInversion, SignDescent])
def test_values_that_are_not_finite_stop_it_with_the_reason(attack: Any) -> None:
    made = attack(white_box(), steps=5)
    smashed = identity(images("scoring", 3))
    smashed[1, 7] = math.inf
    with pytest.raises(NotFinite, match="objective of image 1 is .* after 0 steps.*smashed tensor"):
        made.reconstruct(smashed)

    def explode(x: Tensor) -> Tensor:
        return (1e30 * x).pow(9).flatten(1).sum(1)

    with pytest.raises(NotFinite, match="lower --learning_rate"):
        descend(explode, torch.full((2, 1, 4, 4), 0.5), 5, 0.1)


def test_a_sign_of_nothing_stops_the_published_one_too() -> None:
    def rooted(x: Tensor) -> Tensor:
        return (x.flatten(1) - x.flatten(1)).abs().sqrt()  # always 0, with a slope of 0/0

    start = torch.full((2, 1, 4, 4), 0.5)
    with pytest.raises(NotFinite, match="gradient of image 0 is nan after 0 steps"):
        sign_descent(rooted, torch.ones(2, 16), start)


def test_every_attack_has_its_name_on_the_command_line() -> None:
    keys = {"decoder", "inversion", "sign", "nearest", "ridge", "mixture"}
    keys |= {"refiner", "map", "ensemble"}  # of the guesses of others
    assert set(ATTACKS) == set(choices()["attack"]) == keys


def test_an_unknown_box_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown box 'ball'; choose from"):
        descend(lambda x: x.flatten(1).sum(1), torch.zeros(1, 1, 2, 2), 1, 0.1, "ball")


def test_it_works_in_inference_mode_and_leaves_no_gradients() -> None:
    client = NETWORKS["lenet5"]((1, 28, 28), 10).client.eval()
    for made in (FeatureInversion(white_box(client), steps=3), SignDescent(white_box(client), 3)):
        with torch.inference_mode():
            guesses = made.reconstruct(client(images("scoring", 2)))
        assert guesses.shape == (2, 1, 28, 28) and not guesses.requires_grad
    assert all(p.grad is None for p in client.parameters())


# ---------------------------------------------------------------- scores


def test_relative_distance_and_the_range_of_ssim() -> None:
    truth = images("scoring", 5)
    assert relative_l2(truth, truth).tolist() == [0] * 5
    assert relative_l2(torch.zeros_like(truth), truth).tolist() == pytest.approx([1] * 5)
    assert relative_l2(torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5)).item() == 1
    guess = (truth + 0.2 * torch.rand_like(truth)).clamp(0, 1)
    # Pictures of half the contrast in half the range are the same pictures.
    torch.testing.assert_close(ssim(guess, truth, 2.0), ssim(guess / 2, truth / 2, 1.0))
    assert (ssim(guess, truth, 2.0) > ssim(guess, truth)).all(), "the wider range is kinder"


# ---------------------------------------------------------------- every cut, every defence


def target_of(**spec: Any) -> Any:
    return building.build_classifier(ClassifierSpec(**spec)).eval()


def white(target: Any, own: Tensor) -> WhiteBox:
    known = Target.of(target).knowledge(own, Inversion.needs)
    assert isinstance(known, WhiteBox)
    return known


DEFENDED: list[dict[str, Any]] = [
    *({"network": "lenet5", "cut": cut} for cut in ("conv1", "conv2", "fc1", "fc2", "logits")),
    {"noise_scale": 0.5},
    {"gaussian_std": 0.5},
    {"noise_scale": 0.5, "gaussian_std": 0.5},
    {"nopeek_weight": 0.5},
    {"network": "titcombe_softmax", "noise_scale": 0.1, "nopeek_weight": 0.1},
]


@pytest.mark.parametrize("spec", DEFENDED, ids=str)
def test_it_attacks_every_cut_and_every_defence(spec: dict[str, Any]) -> None:
    target = target_of(**spec)
    own = Digits().tensors("surrogate")[0][:6]
    known = white(target, own)
    guess, wire = torch.rand(2, 2, 5)
    scales = spec.get("noise_scale", 0), spec.get("gaussian_std", 0)
    assert torch.equal(known.misfit(guess, wire[None]), misfit(guess, wire[None], *scales))
    attack = building.build_attack(
        AttackerSpec(attack="inversion", steps=4, restarts=1), Target.of(target), own
    )
    attack.fit()
    with torch.no_grad():
        heard = torch.stack([target.transmit(images("scoring", 2)) for _ in range(2)])
    guesses = attack.infer(heard)
    assert guesses.shape == (2, 1, 28, 28) and 0 <= guesses.min() and guesses.max() <= 1
    assert isinstance(attack, FeatureInversion)

    def ends(steps: int) -> Tensor:
        return attack._descend(heard, attack.starts, Prior(0, 0), steps, lambda: None).values

    assert (ends(12) < ends(1)).all(), "it descends"


def test_a_white_box_knows_the_noise_that_is_on_the_wire_now() -> None:
    target = target_of(noise_scale=0.5)
    assert isinstance(target.defences, DefenceList)
    target.defences.extend([GaussianNoise(0.3), GaussianNoise(0.4), NoPeek(0.1)])
    building.set_afterwards(target, noise_scale=2.0)
    known = white(target, torch.zeros(0, 1, 28, 28, dtype=torch.uint8))
    guess, wire = torch.rand(2, 2, 5)
    torch.testing.assert_close(known.misfit(guess, wire[None]), misfit(guess, wire[None], 2.0, 0.5))


# ---------------------------------------------------------------- the command line

ATTACK = "train_attacker --data_pct 10 --model".split()


@pytest.mark.slow
def test_one_checkpoint_is_attacked_at_any_cut(
    place: Path, classifier_file: FileMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    target = classifier_file(place / "models", network="lenet5")
    judge = classifier_file(place / "models", validator=True)
    made = {}
    for words, name in {
        "--attack inversion --steps 3 --cut conv1": "_inversion_conv1cut_3steps",
        "--attack inversion --steps 3 --restarts 1": "_inversion_3steps_1restarts",
        "--attack inversion --steps 3 --restarts 1 --cut fc1": "_inversion_3steps_1restarts",
        "--attack sign --steps 4 --cut logits": "_sign_logitscut_4steps",
        "--max_epochs 1 --learning_rate 0.003 --cut fc2": "_fc2cut",
    }.items():
        assert main([*ATTACK, target.stem, *words.split()]) == 0
        path = Path(capsys.readouterr().out.strip())
        trained = "_1epochs_0003rate" * ("max_epochs" in words)
        assert path.name == f"digits_attacker{name}_10datapct{trained}_model<{target.stem}>.ckpt"
        made[words] = path
    assert len(set(made.values())) == 4, "the classifier's own cut is no other cut"
    assert main(["evaluate_attackers", "--validation_model", judge.stem]) == 0
    rows = {row["Attacker"]: row for row in tables.read(tables.attackers_table("results"))}
    assert {
        (row["Attack"], row["Cut"], row["Steps"], row["Restarts"], row["Decoder"])
        for row in rows.values()
    } == {
        ("inversion", "conv1", "3", "2", ""),
        ("inversion", "fc1", "3", "1", ""),
        ("sign", "logits", "4", "", ""),
        ("decoder", "fc2", "", "", "conv"),
    }
    for row in rows.values():
        assert row["Images"] == "150" and float(row["SERelativeL2"]) > 0
        assert float(row["RelativeL2Floor"]) > 0 and float(row["RelativeL2Shuffled"]) > 0
        assert -1 <= float(row["SSIM"]) <= 1 and 0 <= float(row["ValConfidence"]) <= 100

    # The tuned prior and the starts come back with the checkpoint, and with them the same guesses.
    path = made["--attack inversion --steps 3 --cut conv1"]
    attacked = load_attacked(path, "models")
    assert isinstance(attacked.attack, FeatureInversion)
    stored = checkpoints.read(path, "attacker").weights
    assert torch.equal(attacked.attack.starts, stored["starts"]) and stored["starts"][0].std() > 0
    with torch.no_grad():
        activations = attacked.target.encode(images("scoring", 3))
    assert activations.shape[1:] == (6, 14, 14)
    (first, _), (again, _) = (overheard(attacked, activations) for _ in range(2))
    assert torch.equal(first, again)
    picture = ["--model", target.stem, "--attacker", *{p.stem for p in made.values()}]
    assert main(["plot_attack", *picture]) == 0


@pytest.mark.parametrize(
    ("spec", "words", "message"),
    [
        ({"noise_scale": 0.5}, "--cut fc1", "the network has no cut 'fc1'; it has one only"),
        ({"network": "lenet5"}, "--cut fc9", "no cut 'fc9'; choose from ['conv1'"),
        (
            {"network": "lenet5", "noise_scale": 0.5},
            "--cut conv1",
            "trained with noise at its own cut, fc1, and says nothing about conv1; leave out --cut",
        ),
        (
            {"network": "lenet5", "nopeek_weight": 0.5, "gaussian_std": 1.0, "cut": "fc2"},
            "--cut logits --attack inversion",
            "with Gaussian noise and NoPeek at its own cut, fc2",
        ),
        ({}, "--attack magic", "unknown attack 'magic'; choose from ['decoder'"),
        ({}, "--steps 5", "steps says nothing about the attack decoder"),
        ({}, "--attack sign --restarts 2", "restarts says nothing about the attack sign"),
        ({}, "--attack sign --naive", "naive says nothing about the attack sign"),
        ({}, "--attack inversion --steps 0", "steps is 0; it must be a whole number from 1"),
    ],
)
def test_what_cannot_be_attacked_is_refused(
    place: Path,
    classifier_file: FileMaker,
    capsys: pytest.CaptureFixture[str],
    spec: dict[str, Any],
    words: str,
    message: str,
) -> None:
    target = classifier_file(place / "models", **spec)
    assert main([*ATTACK, target.stem, *words.split()]) == 2
    err = capsys.readouterr().err
    assert message in err.splitlines()[-1] and "Traceback" not in err
    assert not list((place / "models").glob("attackers/*.ckpt"))


def test_a_cut_of_its_own_is_allowed_under_every_defence(
    place: Path, classifier_file: FileMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    target = classifier_file(place / "models", network="lenet5", noise_scale=0.5, cut="fc2")
    assert target.name == "digits_05noise_00nopeek_lenet5_fc2cut_epoch=00.ckpt"
    words = "--attack inversion --steps 2 --restarts 1 --queries 3 --cut fc2".split()
    assert main([*ATTACK, target.stem, *words]) == 0
    path = Path(capsys.readouterr().out.strip())
    attacked = load_attacked(path, "models")
    assert isinstance(attacked.attack, FeatureInversion)
    assert attacked.target.cut_shape == (84,)
    guess, wire = torch.rand(2, 2, 84)
    known = attacked.attack.knowledge.misfit(guess, wire[None])
    assert torch.equal(known, misfit(guess, wire[None], 0.5))
