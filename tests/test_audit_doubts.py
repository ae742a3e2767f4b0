"""What should make a reader doubt a cut; and attempts that were kept are those of this very client, and whole."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import audit_models as models
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dpsnn.audit import attacking, wire
from dpsnn.audit.attacking import attempt
from dpsnn.audit.cuts import Cuts
from dpsnn.audit.doubts import doubts
from dpsnn.audit.one_cut import _accuracy
from dpsnn.audit.plan import NEAREST, Planned
from dpsnn.audit.sides import Sides, make_sides
from dpsnn.audit.wire import Wire, wire_of
from dpsnn.defences import DefenceList
from dpsnn.errors import UsageError
from dpsnn.target import Target

SHAPE = (1, 8, 8)
INVERSION = Planned("inversion", "inversion", {"steps": 4, "restarts": 1}, True, asks=False, own=6)


def sides(count: int = 40) -> Sides:
    images = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0))
    images[:3] = 0
    return make_sides((images, torch.arange(count) % 2))


def heard(model: nn.Module, cut: str) -> Wire:
    (found,) = Cuts(model.eval(), SHAPE, "mine").chosen([cut])
    return wire_of(found.target, DefenceList(), sides(), 1, 0)


def raised(given: Wire) -> list[str]:
    return [each["raised"] for each in doubts(given, [], "cut", "", [])]


class Chain(nn.Module):
    """A step between two layers."""

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.f, self.q, self.h = nn.Linear(64, 48), step, nn.Linear(48, 10)

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.h(self.q(self.f(images.flatten(1))))
        return answer


class Endless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 0.0 - x / 0.0


@pytest.mark.parametrize(
    ("value", "low", "floor", "said"),
    [
        (9.0, 8.0, 10.0, "no more than"),
        (10.0, 9.0, 10.0, "no more than"),
        (10.1, 10.0, 10.0, "not clearly more (from 10.0 % on) than"),
        (10.2, 10.1, 10.0, ""),
        (100.0, 100.0, 100.0, ""),
    ],
)
def test_a_model_that_does_no_task_is_flagged(
    value: float, low: float, floor: float, said: str
) -> None:
    """It lacks its weights, or is given other pixels or classes than it learnt; of one class all are right."""
    accuracy = {"value": value, "low": low, "high": 100.0, "floor": floor}
    found = doubts(heard(models.layers(), "7"), [], "cut", "", [], accuracy)
    raised = [each["raised"] for each in found if "most frequent class" in each["raised"]]
    told = f"the task: accuracy is {value:.1f} %, {said} always naming the most frequent"
    assert [each.startswith(told) for each in raised] == [True] * bool(said)


class Answering(nn.Module):
    """Scores of some kind, of a layer that gives a column for each."""

    def __init__(self, columns: int, kind: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.f, self.h, self.kind = nn.Linear(64, 48), nn.Linear(48, columns), kind

    def forward(self, images: Tensor) -> Tensor:
        return self.kind(self.h(self.f(images.flatten(1)).tanh()))


def test_scores_that_name_no_class_are_wrong_and_said() -> None:
    """`argmax` of what is no number is a class, and a probability is above 0 in any case."""
    finite, odd = _accuracy(heard(Answering(2, lambda x: x), "f"), True)
    assert finite and not odd
    some = Answering(2, lambda x: torch.where(x[:, :1] > 0, x, torch.nan))
    found, odd = _accuracy(heard(some, "f"), True)
    silent = int(odd.removeprefix("its scores of ").split()[0])
    assert found and 0 < silent and found["value"] <= finite["value"]
    nothing, odd = _accuracy(heard(Answering(2, lambda x: x * torch.nan), "f"), True)
    assert nothing and nothing["value"] == 0 and "pictures are no finite numbers" in odd
    one, odd = _accuracy(heard(Answering(1, torch.sigmoid), "f"), True)
    assert one and odd.startswith("its only score lies between 0 and 1")
    assert not _accuracy(heard(Answering(1, lambda x: x), "f"), True)[1]
    flags = doubts(heard(models.layers(), "7"), [], "cut", "", [], one, odd)
    assert [f"the task: {odd}"] == [f["raised"] for f in flags if "only score" in f["raised"]]


class Logarithm(nn.Module):
    """-inf for black pixels, and of those a difference, which is no number."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.log, self.h = nn.Identity(), nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.h(self.log(images.flatten(1).log()).nan_to_num(0, 0, -5))
        return answer


def test_values_that_are_no_finite_numbers_are_flagged_and_heard_as_the_nearest() -> None:
    found = heard(Logarithm(), "log")
    assert found.endless == 3
    assert all(bool(t.isfinite().all()) for t in (found.activations, found.heard))
    assert found.whole is not None
    own = found.activations[found.activations > -50]
    black = found.whole.encode(torch.zeros(1, *SHAPE))
    assert float(black.unique()) == pytest.approx(float(own.min()))
    assert any("no finite numbers for 3 pictures" in each for each in raised(found))
    assert not any("no finite" in each for each in raised(heard(models.layers(), "7")))
    nothing = nn.Sequential(nn.Flatten(), Endless(), nn.Linear(64, 10))
    with pytest.raises(UsageError, match="no finite number for any picture"):
        heard(nothing, "1")


def test_a_client_whose_images_touch_each_other_is_flagged() -> None:
    norm = nn.Sequential(
        nn.Unflatten(1, (3, 16)), nn.BatchNorm1d(3, track_running_stats=False), nn.Flatten()
    )
    assert any("with the images beside it" in each for each in raised(heard(Chain(norm), "q")))
    for step in (nn.BatchNorm1d(48), nn.Tanh()):
        assert not any("beside it" in each for each in raised(heard(Chain(step), "q")))


def test_a_client_that_takes_no_image_alone_is_one_line() -> None:
    norm = nn.BatchNorm1d(48, track_running_stats=False)
    with pytest.raises(UsageError, match="q is no cut: .*for one image alone .*more than 1 value"):
        heard(Chain(norm), "q")


def test_dropout_that_stays_on_is_flagged_once() -> None:
    class On(nn.Dropout):
        def train(self, mode: bool = True) -> Self:
            super().train(True)
            return self

    (only,) = (each for each in raised(heard(Chain(On()), "q")) if "the client" in each)
    assert "answers to the same images differ" in only


def test_fewer_own_pictures_than_there_are_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = heard(models.layers(), "7")
    assert not any("no room" in each for each in raised(found))
    monkeypatch.setattr(wire, "room", lambda values, queries=1: 10)
    assert any(
        "10 of 20 own pictures are used" in each for each in raised(heard(models.layers(), "7"))
    )


class Rounded(nn.Module):
    """The same values whether gradients pass or not."""

    def __init__(self, passing: bool) -> None:
        super().__init__()
        self.passing = passing

    def forward(self, x: Tensor) -> Tensor:
        rounded = (8 * x).round().detach() / 8
        return rounded + (x - x.detach()) if self.passing else rounded + 0 * x.detach().abs()


def test_an_attempt_without_gradients_is_made_anew_once_they_pass() -> None:
    masked, open_ = (heard(Chain(Rounded(passing)), "q") for passing in (False, True))
    assert masked.digest == open_.digest and masked.slope != open_.slope
    assert open_.slope == heard(Chain(Rounded(True)), "q").slope
    marks = {
        attacking._mark(each, planned.method(each), planned, 0)
        for each in (masked, open_)
        for planned in (NEAREST, INVERSION)
    }
    assert len(marks) == 3, "whoever follows no gradient finds the same"


def test_an_attempt_of_another_version_or_server_is_made_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = heard(Chain(nn.Tanh()), "q")
    other = Chain(nn.Tanh())
    with torch.no_grad():
        other.h.weight.mul_(2)
    assert given.slope == heard(other, "q").slope and given.answers != heard(other, "q").answers
    mark = attacking._mark(given, NEAREST.method(given), NEAREST, 0)
    monkeypatch.setattr(attacking, "__version__", "0.0.0")
    assert mark != attacking._mark(given, NEAREST.method(given), NEAREST, 0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw, kept: b"",
        lambda raw, kept: raw[: len(raw) // 2],
        lambda raw, kept: raw[:200] + bytes(each ^ 255 for each in raw[200:260]) + raw[260:],
        lambda raw, kept: {**kept, "guesses": kept["guesses"] * np.nan},
        lambda raw, kept: {**kept, "guesses": kept["guesses"][:, :, :4]},
        lambda raw, kept: {**kept, "guesses": np.repeat(kept["guesses"], 2, 0)},
        lambda raw, kept: {**kept, "guesses": kept["guesses"][:0]},
        lambda raw, kept: {**kept, "guesses": np.float32(1)},
        lambda raw, kept: {**kept, "numbers": kept["numbers"][:2]},
    ],
)
def test_an_attempt_that_is_not_whole_is_made_anew(damage: Any, tmp_path: Path) -> None:
    given = heard(models.layers(), "7")
    first = attempt(given, NEAREST, 0, tmp_path)
    (path,) = tmp_path.iterdir()
    with np.load(path) as kept:
        made = damage(path.read_bytes(), {name: kept[name] for name in kept.files})
    if isinstance(made, bytes):
        path.write_bytes(made)
    else:
        np.savez(path, **made)
    again = attempt(given, NEAREST, 0, tmp_path)
    assert again.status == "ok" and torch.equal(again.guesses, first.guesses)


class Elsewhere(nn.Module):
    """A server that notices where what it is given lies."""

    def forward(self, smashed: Tensor) -> Tensor:
        assert smashed.device.type == "meta"
        return torch.zeros(len(smashed), 10)


def test_the_server_is_given_what_was_heard_where_computations_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = Target.of_client(nn.Flatten(), SHAPE)
    target = dataclasses.replace(target, server=Elsewhere())
    monkeypatch.setattr("dpsnn.target.device", lambda: torch.device("meta"))
    answer = target.answer(torch.rand(2, 5, 64))
    assert answer.device.type == "cpu" and answer.shape == (5, 10)


class Half(nn.Module):
    """Computes in bfloat16, whatever it is shown."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.f, self.h = (nn.Linear(*sides).bfloat16() for sides in ((64, 16), (16, 10)))

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.h(torch.tanh(self.f(images.flatten(1).bfloat16())))
        return answer


def test_a_client_in_bfloat16_is_heard_in_float32() -> None:
    found = heard(Half(), "f")
    assert found.activations.dtype == found.heard.dtype == torch.float32
    assert found.whole is not None and found.whole.answer(found.heard).dtype == torch.float32
    assert len(found.digest) == 64 and attempt(found, INVERSION, 0, None).status == "ok"
    images = torch.rand(3, *SHAPE)
    layer = nn.Linear(64, 10).double()
    function = Target.of_client(lambda given: given.flatten(1).double(), SHAPE, server=layer)
    sent = function.encode(images)
    assert function.transmit(sent).dtype == function.client(images).dtype == torch.float32
    torch.testing.assert_close(
        function.answer(sent[None]), layer(images.flatten(1).double()).float()
    )
    with pytest.raises(UsageError, match="same dtype.*; give it in float32"):
        Target.of_client(nn.Sequential(nn.Flatten(), layer), SHAPE)


class Wavering(nn.Module):
    """Noise that nobody declares, of this standard deviation."""

    std = 0.5

    def forward(self, x: Tensor) -> Tensor:
        return x + self.std * torch.randn_like(x)


def test_who_never_answers_alike_is_heard_as_often_as_it_is_asked() -> None:
    """So that its noise averages out, in what is learnt from as in what is heard of victims."""
    times = 400
    (cut,) = Cuts(Chain(Wavering()).eval(), SHAPE, "mine").chosen(["q"])
    (clear,) = Cuts(Chain(nn.Identity()).eval(), SHAPE, "mine").chosen(["f"])
    made = [wire_of(cut.target, DefenceList(), sides(), count, 0) for count in (1, times)]
    known = wire_of(clear.target, DefenceList(), sides(), 1, 0)
    left = Wavering.std / times**0.5
    for once, often, true in (
        (made[0].activations, made[1].activations, known.activations),
        (made[0].heard[0], made[1].heard.mean(0), known.heard[0]),
        (made[0].heard_validation[0], made[1].heard_validation.mean(0), known.heard_validation[0]),
    ):
        assert (once - true).std() == pytest.approx(Wavering.std, rel=0.15)
        assert (often - true).std() == pytest.approx(left, rel=0.15)
    again = wire_of(cut.target, DefenceList(), sides(), times, 0)
    assert again.digest == made[1].digest, "gone on with, it is the same"
