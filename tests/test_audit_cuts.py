"""Cuts: where one tensor alone crosses the halves are the whole; where more does, it is no cut, and it is said why."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import audit_models as models
import pytest
import torch
from torch import Tensor, nn

from dpsnn import building
from dpsnn.audit.cuts import Cuts, of_classifier, within
from dpsnn.audit.hooked import hooked_places
from dpsnn.audit.places import Whole
from dpsnn.audit.traced import traced_places
from dpsnn.defences import DefenceList
from dpsnn.defences.noise import LaplaceNoise
from dpsnn.defences.values import Values
from dpsnn.errors import UsageError
from dpsnn.specs import ClassifierSpec
from dpsnn.target import Target

SHAPE = (1, 8, 8)


def found(model: nn.Module) -> Cuts:
    return Cuts(model.eval(), SHAPE, "mine")


def logits(given: object) -> Tensor:
    return given["logits"] if isinstance(given, dict) else given  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("make", "names", "every"),
    [
        (models.layers, ["2", "5", "7"], ["0", "1", "2", "3", "4", "5", "6", "7"]),
        (
            models.functional,
            [
                "conv1+relu",
                "conv2+relu",
                "conv2+relu+max_pool2d",
                "conv2+relu+max_pool2d+view+tanh",
            ],
            None,
        ),
        (models.residual, ["stem", "stage.0", "stage", "pool+flatten"], None),
        (models.identity, ["0"], ["0"]),
    ],
)
def test_cuts_of_what_can_be_traced(
    make: Callable[[], nn.Module], names: list[str], every: list[str] | None
) -> None:
    model = make()
    cuts = found(model)
    assert [cut.name for cut in cuts.chosen()] == names
    assert every is None or cuts.names == every
    images = torch.rand(5, *SHAPE)
    with torch.no_grad():
        wanted = model.eval()(images)
        for cut in cuts.chosen(cuts.names):
            assert tuple(cut.target.encode(images).shape[1:]) == cut.shape
            heard = cut.target.transmit(cut.target.encode(images))
            torch.testing.assert_close(cut.target.answer(heard), wanted)
            before = heard.clone()
            cut.target.answer(heard)
            assert torch.equal(before, heard), "a layer in place must not change what was heard"


def test_a_branch_is_no_cut_and_it_is_said_why() -> None:
    cuts = found(models.residual())
    assert cuts.refused["stage.0.conv"].endswith("skip connection crosses beside it (stem)")
    assert cuts.refused["stage.1.conv"].endswith("skip connection crosses beside it (stage.0)")
    assert "called 2 times" in cuts.refused["stage.0.act"]
    assert "whole model" in cuts.refused["head"]
    with pytest.raises(UsageError, match="stage.1.conv is no cut: a branch or skip connection"):
        cuts.chosen(["stem", "stage.1.conv"])
    with pytest.raises(UsageError, match=r"no cut 'stages'; choose from .*did you mean stage"):
        cuts.chosen(["stages"])
    # The last block gives what its stage gives.
    assert [cut.name for cut in cuts.chosen(["stage.1", "stem"])] == ["stem", "stage"]
    # Who asks for one cut, as calibrate does, does not get the first of several.
    with pytest.raises(UsageError, match="no cut 'stage.1,stem'"):
        cuts.chosen(["stage.1,stem"])


def test_cuts_of_what_cannot_be_traced_are_found_by_trial() -> None:
    model = Whole(models.awkward(), logits).eval()
    assert traced_places(model, torch.rand(2, *SHAPE)) is None
    cuts, traced = Cuts(model, SHAPE), found(models.residual())
    assert [cut.name for cut in cuts.chosen()] == ["stem", "stage.0", "stage", "pool"]
    assert "skip connection" in cuts.refused["stage.0.conv"]
    assert "called 2 times" in cuts.refused["stage.0.act"]
    assert "repeats the client's work" in cuts.chosen()[0].notes[0]
    images = torch.rand(5, *SHAPE, requires_grad=True)
    by_name = {cut.name: cut for cut in traced.chosen(traced.names)}
    for cut in cuts.chosen(cuts.names):
        heard = cut.target.transmit(cut.target.encode(images.detach()))
        with torch.no_grad():
            torch.testing.assert_close(cut.target.answer(heard), model(images))
        assert cut.weights_share == pytest.approx(by_name[cut.name].weights_share)
        assert cut.flops_share == pytest.approx(by_name[cut.name].flops_share)
        (slope,) = torch.autograd.grad(cut.target.client(images).sum(), images)
        assert slope.abs().sum() > 0


def test_both_ways_find_the_same_modules() -> None:
    model = Whole(models.layers()).eval()
    images = torch.rand(2, *SHAPE)
    traced, hooked = traced_places(model, images), hooked_places(model, images)
    assert traced is not None
    assert [(p.name, p.inner) for p in traced.places] == [(p.name, p.inner) for p in hooked.places]


def test_shares_and_bytes() -> None:
    cut = found(models.layers()).chosen(["3"])[0]
    conv, dense = 4 * 9 + 4 + 8, 64 * 16 + 16 + 16 * 10 + 10
    assert cut.weights_share == pytest.approx(conv / (conv + dense))
    work = 2 * 64 * 4 * 9
    assert cut.flops_share == pytest.approx(work / (work + 2 * (64 * 16 + 160)))
    assert (cut.shape, cut.values, cut.bytes, cut.kind) == ((4, 4, 4), 64, 256, "MaxPool2d")


def test_what_limits_the_values_is_known() -> None:
    cuts = {cut.name: cut for cut in found(models.layers()).chosen(("5", "7"))}
    assert (cuts["7"].target.values.low, cuts["7"].target.values.high) == (-1, 1)
    assert cuts["5"].target.values.high == torch.inf
    tanh = found(models.functional()).chosen()[-1]
    assert tanh.name.endswith("tanh") and tanh.target.values.radius() == 1


def test_weights_that_the_server_has_as_well_are_said() -> None:
    cuts = found(models.tied()).chosen()
    notes = [note for cut in cuts for note in cut.notes]
    assert any("weights of the client are the server's as well" in note for note in notes)


def test_a_model_that_never_answers_twice_alike_is_cut_all_the_same() -> None:
    assert [cut.name for cut in found(models.restless()).chosen()] == ["fc1+tanh+dropout"]


def test_a_single_layer_has_no_cut() -> None:
    with pytest.raises(UsageError, match="no place where one tensor alone crosses"):
        found(nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (-1, 64))))


def test_a_mechanism_on_the_wire() -> None:
    cut = found(models.layers()).chosen(["7"])[0]
    target = cut.defended(DefenceList([LaplaceNoise(0.5)]))
    assert target.guarantee()[0] == pytest.approx(2 * 16 / 0.5)
    assert cut.defended(DefenceList()) is cut.target


@pytest.mark.parametrize("network", ["lenet5", "keydana"])
def test_each_cut_of_a_classifier_of_ours_sends_its_own(network: str) -> None:
    classifier = building.build_classifier(ClassifierSpec(network=network))
    images = torch.rand(3, *classifier.network.image_shape)
    cuts = of_classifier(classifier, "mine")
    assert [cut.name for cut in cuts] == [*classifier.network.cuts] and len(cuts) > 1
    assert classifier.training and all(p.requires_grad for p in classifier.parameters())
    for cut in cuts:
        sent = cut.target.encode(images)
        (alone,) = of_classifier(classifier, "mine", [cut.name])
        halves = classifier.network.eval().client, classifier.network.server
        layers = [layer for half in halves for layer in half.children()]
        layers = layers[: classifier.network.cuts[cut.name]]
        with torch.no_grad():
            torch.testing.assert_close(sent, nn.Sequential(*layers)(images))
        assert tuple(sent.shape[1:]) == cut.shape and cut.target.cut == cut.name
        assert torch.equal(sent, alone.target.encode(images))
        assert (cut.weights_share, cut.work) == (alone.weights_share, alone.work)
        classifier.train()


def test_a_classifier_of_ours_is_cut_where_it_says() -> None:
    defended = building.build_classifier(ClassifierSpec(noise_scale=0.5))
    (cut,) = of_classifier(defended, "mine")
    assert not cut.target.sends_as_is and cut.defended(DefenceList()) is cut.target
    with pytest.raises(UsageError, match="has no cut 'conv9'"):
        of_classifier(defended, "mine", ["conv9"])


@pytest.mark.parametrize("traced", [True, False])
def test_no_set_is_claimed_that_what_is_sent_denies(traced: bool) -> None:
    """A hook makes five times as much of a tanh: a noise that covers [-1, 1] does not cover it."""
    torch.manual_seed(0)
    layer = nn.Tanh()
    layer.register_forward_hook(lambda module, given, answer: 5 * answer)
    parts = [nn.Conv2d(1, 2, 3), layer, nn.Flatten(), nn.Linear(72, 2)]
    nn.init.uniform_(parts[0].weight, -9, 9)
    model = nn.Sequential(*parts) if traced else Wandering(*parts)
    for cut in Cuts(model.eval(), (1, 8, 8)).chosen():
        sent = cut.target.client(torch.rand(9, 1, 8, 8))
        assert sent.max() <= cut.target.values.high and sent.min() >= cut.target.values.low


class Wandering(nn.Sequential):
    """No graph can be traced of it."""

    def forward(self, given: Tensor) -> Tensor:
        answer: Tensor = super().forward(given)
        return answer * 1 if float(answer.sum()) > 1e9 else answer


def test_images_beyond_the_set_take_it_away() -> None:
    known = Target.of_client(lambda images: images.flatten(1), (1, 2, 2))
    claimed = replace(known, values=Values(4, 0.0, 1.0))
    inside = torch.rand(3, 4)
    assert within(claimed, inside) is claimed and within(claimed, inside + 1e-7) is claimed
    inside[0, 0] = torch.nan
    assert within(claimed, inside) is claimed
    assert math.isinf(within(claimed, inside + 0.9).values.high)


class Louder(nn.Hardtanh):
    """Of another kind than its class, far from 0, where nobody has looked."""

    def forward(self, given: Tensor) -> Tensor:
        return torch.where(given.abs() > 1e3, 50 * given, super().forward(given))


def _hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda made, given, answer: torch.where(answer == 1e3, 9, answer))
    return layer


def _hooked_before(layer: nn.Module) -> nn.Module:
    layer.register_forward_pre_hook(lambda made, given: (50 * given[0],))
    return layer


def _replaced(layer: nn.Module) -> nn.Module:
    usual = layer.forward
    layer.forward = lambda given: torch.where(given > 1e3, given, usual(given))  # type: ignore
    return layer


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize(
    "layers",
    [
        [Louder()],
        [_hooked(nn.Tanh())],
        [_replaced(nn.Sigmoid())],
        [nn.Tanh(), _hooked_before(nn.Identity())],
        [_hooked(nn.Sequential(nn.Tanh()))],
    ],
)
def test_what_may_do_more_than_its_kind_says_limits_nothing(
    traced: bool, layers: list[nn.Module]
) -> None:
    """Though nothing that was seen denies it."""
    parts = [nn.Flatten(), nn.Linear(64, 4), *copy.deepcopy(layers), nn.Linear(4, 2)]
    model = nn.Sequential(*parts) if traced else Wandering(*parts)
    name = str(1 + len(layers))
    (cut,) = Cuts(model.eval(), (1, 8, 8)).chosen([name])
    assert cut.target.values == Values(4)
    assert Values.behind(nn.Sequential(*layers), (4,)) == Values(4)


def test_values_that_do_not_add_up_take_the_set_of_a_softmax_away() -> None:
    """In its box, and further apart than what adds up to 1 can be."""
    known = Target.of_client(lambda images: images.flatten(1), (1, 2, 2))
    claimed = replace(known, values=Values.behind(nn.Softmax(1), (4,)))
    sent = torch.eye(4)
    assert within(claimed, sent) is claimed
    assert within(claimed, 1 - sent) is claimed
    sent[0, 1] = 1
    assert within(claimed, sent).values == Values(4)


def test_what_is_tried_within_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """A view of a map whose images lie last in memory fails: torch.fx would print where."""
    assert found(models.functional()).chosen()
    assert capfd.readouterr() == ("", "")
