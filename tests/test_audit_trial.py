"""Cuts found by trial: what hides behind a saturated answer, an axis as long as the batch, or noise of one shape."""

from typing import Self

import audit_models as models
import pytest
import torch
from torch import Tensor, nn

from dpsnn.audit.cuts import Cuts
from dpsnn.audit.hooked import hooked_places
from dpsnn.audit.places import Whole
from dpsnn.audit.traced import traced_places
from dpsnn.audit.trial import Trial, probes, same

SHAPE = (1, 8, 8)


def untraceable(x: Tensor) -> None:
    if bool(x.isnan().any()):
        raise ValueError("not a number")


class Saturated(nn.Module):
    """Skip connections, and an answer that is the same for nearly all images."""

    def __init__(self, last: nn.Module, sharp: float) -> None:
        super().__init__()
        self.inner, self.last, self.sharp = models.Residual(), last, sharp
        with torch.no_grad():
            self.inner.head.bias[3] = 0.5

    def forward(self, images: Tensor) -> Tensor:
        untraceable(images)
        answer: Tensor = self.last(self.sharp * self.inner(images))
        return answer


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.LogSoftmax(1), nn.Sigmoid(), nn.Tanh()])
@pytest.mark.parametrize("sharp", [1.0, 1e4])
def test_a_saturated_answer_hides_no_skip_connection(last: nn.Module, sharp: float) -> None:
    cuts = Cuts(Saturated(last, sharp).eval(), SHAPE)
    assert cuts.names == ["inner.stem", "inner.stage.0", "inner.stage", "inner.pool", "inner"]
    assert "skip connection" in cuts.refused["inner.stage.0.conv"]


def test_halves_between_which_more_crosses_are_wrong_though_the_answer_is_saturated() -> None:
    model = Whole(Saturated(nn.Softmax(1), 1e4)).eval()
    trial = Trial(model, probes(SHAPE))
    assert trial.tells and "saturated" in trial.wrong(nn.Identity(), Other(model))
    assert not trial.wrong(nn.Identity(), model)


class Other(nn.Module):
    """The model shown slightly different images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.model(images.flip(-1))
        return answer


def test_answers_are_compared_by_how_much_they_vary() -> None:
    answers = 1000 + torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert same(answers, answers) and not same(answers.flip(0), answers)
    assert not same(answers + 0.1, answers) and not same(answers[:1], answers)
    assert same(torch.tensor([[torch.inf], [1.0]]), torch.tensor([[torch.inf], [1.0]]))
    assert not same(torch.tensor([[torch.inf], [1.0]]), torch.ones(2, 1))


class Sequence(nn.Module):
    """The batch comes second within it, behind an axis as long as a batch may be."""

    def __init__(self, length: int, traceable: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.length, self.traceable = length, traceable
        self.e, self.a, self.h = (
            nn.Linear(64, 4 * length),
            nn.Linear(4, 4),
            nn.Linear(4 * length, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        if not self.traceable:
            untraceable(images)
        x = self.e(images.flatten(1)).view(-1, self.length, 4).permute(1, 0, 2)
        answer: Tensor = self.h(self.a(x).permute(1, 0, 2).flatten(1))
        return answer


@pytest.mark.parametrize("traceable", [True, False])
@pytest.mark.parametrize("length", [1, 2, len(probes(SHAPE)), len(probes(SHAPE)) + 1])
def test_a_sequence_as_long_as_the_batch_has_no_rows(length: int, traceable: bool) -> None:
    cuts = Cuts(Sequence(length, traceable).eval(), SHAPE)
    assert "a" not in cuts.names and "no row for each image" in cuts.refused["a"]
    for cut in cuts.chosen(cuts.names):
        assert len(cut.target.encode(torch.rand(5, *SHAPE))) == 5


class Noisy(nn.Module):
    """Noise of one shape, whatever the number of images."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.f, self.h = nn.Linear(64, 12), nn.Linear(12, 10)

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.h(torch.tanh(self.f(images.flatten(1)) + torch.randn(12)))
        return answer


def test_noise_is_not_frozen_by_the_trace() -> None:
    model = Noisy().eval()
    assert traced_places(Whole(model), probes(SHAPE)) is None
    cuts = Cuts(model, SHAPE)
    (cut,) = cuts.chosen()
    heard = cut.target.transmit(cut.target.encode(torch.rand(3, *SHAPE)))
    assert cut.name == "f" and not torch.equal(cut.target.answer(heard), cut.target.answer(heard))


class Placed(nn.Module):
    """Weights of the whole: one for what is shown to the client, one for the answer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.place, self.scale = nn.Parameter(torch.randn(1, 64)), nn.Parameter(torch.ones(10))
        self.fc, self.out = nn.Linear(64, 32), nn.Linear(32, 10)
        self.place.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        untraceable(images)
        answer: Tensor = self.scale * self.out(torch.relu(self.fc(images.flatten(1) + self.place)))
        return answer


def test_weights_of_the_whole_are_whose_they_are() -> None:
    model = Placed().eval()
    by_name = {place.name: place for place in hooked_places(Whole(model), probes(SHAPE)).places}
    own = sum(weight.numel() for weight in by_name["fc"].halves().weights)
    assert own == 64 + 64 * 32 + 32
    assert not model.place.requires_grad and model.scale.requires_grad


class LeftOn(nn.Module):
    """Dropout that stays on when the model is put into evaluation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.f, self.d, self.h = nn.Linear(64, 32), nn.Dropout(0.5), nn.Linear(32, 10)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.d.train()
        return self

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.h(self.d(torch.tanh(self.f(images.flatten(1)))))
        return answer


def test_dropout_that_evaluation_leaves_on_is_audited_as_it_is() -> None:
    cuts = {cut.name: cut for cut in Cuts(LeftOn().eval(), SHAPE).chosen(["f", "d"])}
    images = torch.rand(3, *SHAPE)
    assert not torch.equal(cuts["d"].target.encode(images), cuts["d"].target.encode(images))
    assert torch.equal(cuts["f"].target.encode(images), cuts["f"].target.encode(images))
    # Behind the tanh it makes values as large as 2.
    sent, values = cuts["d"].target.encode(100 * images), cuts["d"].target.values
    assert values.low <= float(sent.min()) and 1 < float(sent.max()) <= values.high
