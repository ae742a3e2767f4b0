"""What is attacked, and what it grants: exactly what an attack needs, of anyone's client."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpsnn import building
from dpsnn.attacks import (
    ATTACKS,
    Attack,
    Insider,
    Knowledge,
    MIFace,
    Nearest,
    Need,
    WhiteBox,
)
from dpsnn.defences.noise import LaplaceNoise
from dpsnn.errors import NoLikelihood, UsageError
from dpsnn.specs import AttackerSpec, ClassifierSpec
from dpsnn.target import Target

SHAPE = (3, 10, 12)


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(4 * 8 * 10, 5),
    )


def own(count: int = 7, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8)


def granted(known: Knowledge) -> set[str]:
    fields = ("server", "labels", "pairwise")
    return {name for name in fields if getattr(known, name, None) is not None}


QUERIES = frozenset({Need.QUERIES, Need.TRANSMISSIONS})


@pytest.mark.parametrize(
    ("needs", "kind", "more"),
    [
        (QUERIES, Knowledge, set()),
        (QUERIES | {Need.SERVER}, Insider, {"server"}),
        (QUERIES | {Need.LABELS}, Insider, {"labels"}),
        (QUERIES | {Need.DENSITY}, Insider, {"pairwise"}),
        (frozenset({Need.WEIGHTS}), WhiteBox, set()),
        (frozenset({Need.WEIGHTS, Need.DENSITY}), WhiteBox, {"pairwise"}),
        (MIFace.needs, WhiteBox, {"server", "labels"}),
    ],
)
def test_an_attack_is_given_what_it_names_and_nothing_else(
    needs: frozenset[Need], kind: type, more: set[str]
) -> None:
    target = Target.of_client(small(), SHAPE, cut="2")
    known = target.knowledge(own(), needs)
    assert type(known) is kind and granted(known) == more
    if isinstance(known, Insider) and known.labels is not None:
        assert known.labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("key", ATTACKS)
def test_gradients_reach_only_who_needs_the_weights(key: str) -> None:
    needs = ATTACKS[key]().needs
    known = Target.of_client(small(), SHAPE, cut="3").knowledge(own(), needs)
    images = torch.rand(2, *SHAPE, requires_grad=True)
    open_ = Need.WEIGHTS in needs
    assert known.client(images).requires_grad == open_
    activation = known.client(images).detach().requires_grad_()
    assert known.defend(activation).requires_grad == open_
    assert not known.activations.requires_grad and known.activations.shape == (7, 320)


def test_who_does_not_name_queries_may_not_ask() -> None:
    known = Target.of_client(small(), SHAPE).knowledge(own(), {Need.TRANSMISSIONS})
    with pytest.raises(UsageError, match="queries are not among its needs"):
        known.activations


def test_a_query_only_attack_gets_no_gradients_of_the_server_either() -> None:
    known = Target.of_client(small(), SHAPE, cut="3").knowledge(own(), QUERIES | {Need.SERVER})
    assert isinstance(known, Insider) and known.server is not None
    with torch.enable_grad():
        logits = known.server(torch.rand(2, 320, requires_grad=True))
    assert logits.shape == (2, 5) and not logits.requires_grad


def test_what_there_is_not_cannot_be_given() -> None:
    alone = Target.of_client(lambda images: images.flatten(1), SHAPE, name="mine")
    with pytest.raises(UsageError, match="needs the server of mine, which has none"):
        alone.knowledge(own(), MIFace.needs)
    with pytest.raises(UsageError, match="needs the labels of mine"):
        alone.knowledge(own(), {Need.LABELS})


@pytest.mark.parametrize(("cut", "shape"), [("0", (4, 8, 10)), ("3", (320,))])
def test_the_halves_of_a_module_cut_in_two_are_the_module(cut: str, shape: tuple[int, ...]) -> None:
    model = small()
    target = Target.of_client(model, SHAPE, cut=cut)
    assert (target.cut_shape, target.num_classes, target.cut) == (shape, 5, cut)
    images = torch.rand(230, *SHAPE)
    heard = target.transmit(target.encode(images))
    assert heard.shape == (1, 230, *shape)
    assert model.training and all(p.requires_grad for p in model.parameters()), "a copy is used"
    with torch.no_grad():
        torch.testing.assert_close(target.answer(heard), model.eval()(images))


class Residual(nn.Module):
    """No sequence of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(360, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head((images + self.body(images)).flatten(1))


def test_any_layer_of_any_module_can_be_the_cut() -> None:
    model = Residual().eval()
    target = Target.of_client(model, SHAPE, cut="body.0")
    images = torch.rand(3, *SHAPE)
    assert target.server is None and target.cut_shape == SHAPE
    torch.testing.assert_close(target.encode(images), model.body[0](images).detach())
    wanted = images.clone().requires_grad_()
    target.client(wanted).sum().backward()
    assert wanted.grad is not None and wanted.grad.abs().sum() > 0
    with pytest.raises(UsageError, match="no layer 'tail'; choose from .*'body.0'"):
        Target.of_client(model, SHAPE, cut="tail")


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(UsageError, match=r"does not take images of shape \(1, 10, 12\)"):
        Target.of_client(small(), (1, 10, 12))


class Viewed(nn.Module):
    """Reads a feature map as it lies in memory."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.view(len(maps), -1)


def test_a_client_is_asked_in_an_order_of_memory_that_it_takes() -> None:
    client = nn.Sequential(nn.Conv2d(1, 3, 3), Viewed())
    images = torch.rand(4, 1, 8, 8)
    found = Target.of_client(client, (1, 8, 8)).encode(images)
    assert torch.allclose(found, client(images), atol=1e-6)
    cut = Target.of_client(nn.Sequential(client, nn.Linear(108, 2)), (1, 8, 8), cut="0.1")
    assert torch.allclose(cut.encode(images), found, atol=1e-6)

    class Volumes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv3d(1, 2, (1, 3, 3))

        def forward(self, images: Tensor) -> Tensor:
            maps: Tensor = self.layer(images.unsqueeze(2))
            return maps

    assert Target.of_client(Volumes(), (1, 8, 8)).cut_shape == (2, 1, 6, 6)


def test_every_transmission_has_noise_of_its_own() -> None:
    target = Target.of_client(lambda images: images.flatten(1), SHAPE, LaplaceNoise(0.5))
    activation = target.encode(torch.zeros(250, *SHAPE))
    heard = target.transmit(activation, 3)
    assert heard.shape == (3, 250, 360)
    assert len(heard.flatten(0, 1).unique(dim=0)) == 750
    assert heard.std().item() == pytest.approx(0.5 * 2**0.5, rel=0.02)


@pytest.mark.parametrize(
    ("mechanism", "as_is", "epsilon"),
    [
        (None, True, math.inf),
        (LaplaceNoise(0), True, math.inf),
        # 360 values in [-1, 1].
        (LaplaceNoise(0.5), False, 720 / 0.5),
        (lambda a: a.round(), False, math.inf),
    ],
)
def test_a_mechanism_answers_for_itself(mechanism: Any, as_is: bool, epsilon: float) -> None:
    target = Target.of_client(nn.Flatten(), SHAPE, mechanism, bound=1.0)
    assert target.sends_as_is is as_is
    assert target.guarantee()[0] == pytest.approx(epsilon)


def test_of_what_anyone_does_on_the_wire_nothing_is_known() -> None:
    known = Target.of_client(nn.Flatten(), SHAPE, torch.round).knowledge(own(), {Need.WEIGHTS})
    assert isinstance(known, WhiteBox)
    with pytest.raises(NoLikelihood):
        known.misfit(torch.zeros(1, 360), torch.zeros(1, 1, 360))


def test_a_classifier_of_ours_is_a_target_as_it_stands() -> None:
    spec = ClassifierSpec(network="lenet5", cut="fc2")
    classifier = building.build_classifier(spec)
    target = Target.of(classifier, "mine")
    images = torch.rand(3, 1, 28, 28)
    assert (target.image_shape, target.cut_shape, target.cut) == ((1, 28, 28), (84,), "fc2")
    with torch.no_grad():
        assert torch.equal(target.encode(images), classifier.encode(images))
        logits = target.answer(target.transmit(target.encode(images)))
        assert torch.equal(logits, classifier(images)) and target.num_classes == 10
    assert not classifier.training and not any(p.requires_grad for p in classifier.parameters())


@pytest.mark.parametrize("key", ATTACKS)
@pytest.mark.parametrize("shape", [(1, 9, 13), SHAPE])
def test_every_attack_takes_grey_and_colour_of_any_size(key: str, shape: tuple[int, ...]) -> None:
    target = Target.of_client(nn.Flatten(), shape, LaplaceNoise(0.1))
    attack = building.build_attack(AttackerSpec(attack=key, queries=2), target, own(8, shape))
    heard = target.transmit(target.encode(torch.rand(3, *shape)), 2)
    if key == "inversion":
        attack.steps = attack.restarts = 1  # type: ignore[assignment]
    guesses = attack.infer(heard)
    assert guesses.shape == (3, *shape) and 0 <= guesses.min() and guesses.max() <= 1


@pytest.mark.parametrize("key", ATTACKS)
def test_an_attack_states_its_needs(key: str) -> None:
    kind = ATTACKS[key]
    needs = kind().needs
    assert issubclass(kind, Attack) and needs <= set(Need) and needs


def test_rows_that_are_no_pictures_need_no_new_house() -> None:
    """A table of six columns: the nearest own row, through a client that turns it."""
    torch.manual_seed(2)
    turn = torch.linalg.qr(torch.randn(6, 6))[0]
    target = Target.of_client(lambda rows: rows @ turn, (6,))
    table = torch.randn(50, 6)
    attack = Nearest(target.knowledge(table, QUERIES))
    guesses = attack.reconstruct(target.transmit(target.encode(table[10:20] + 1e-3))[0])
    assert torch.equal(guesses, table[10:20])


def test_a_face_is_rebuilt_through_what_was_granted(tmp_path: Path) -> None:
    """MI-FACE finds the picture of a class from the halves as it does from the whole model."""
    spec = ClassifierSpec(network="softmax_regression")
    classifier = building.build_classifier(spec).eval().requires_grad_(False)
    target = Target.of(classifier)
    known = target.knowledge(torch.zeros(0, *target.image_shape, dtype=torch.uint8), MIFace.needs)
    assert isinstance(known, WhiteBox)
    attack = MIFace(iterations=20)
    found = attack.rebuild(known)
    whole = attack.invert(lambda x: classifier((x + 1) * 0.5), torch.arange(10), (1, 28, 28))
    assert found.images.shape == (10, 1, 28, 28)
    torch.testing.assert_close(found.confidence, whole.confidence)
    torch.testing.assert_close(found.images, (whole.images + 1) / 2)
    (one,) = attack.rebuild(known, torch.tensor([3])).confidence
    torch.testing.assert_close(one, whole.confidence[3])
