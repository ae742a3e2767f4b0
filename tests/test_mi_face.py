"""MI-FACE: its gradient against the closed form, its stopping rules, and what it returns."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpsnn.attacks import MIFace, NotFinite
from dpsnn.attacks.mi_face import Centred, total_variation
from dpsnn.errors import UsageError
from dpsnn.networks import NETWORKS
from dpsnn.networks.faces import smooth
from dpsnn.networks.split import SplitNetwork

SHAPE, CLASSES = (1, 6, 5), 4


def network(name: str = "softmax_regression", sharpness: float = 10.0) -> SplitNetwork:
    """An untrained network whose answers differ enough to be told apart."""
    torch.manual_seed(0)
    made = NETWORKS[name](SHAPE, CLASSES, 0.5, 0.5).eval()
    assert isinstance(made.server, nn.Sequential)
    with torch.no_grad():
        made.server[-1].weight.mul_(sharpness)
    return made


def pictures(count: int) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_gradient_for_softmax_regression_is_its_closed_form() -> None:
    made = network()
    images, targets = pictures(CLASSES), torch.arange(CLASSES)
    gradient, cost, probability = MIFace().gradient(Centred(made), images, targets)
    weights = made.server[0].weight.detach()  # type: ignore[index]
    p = (images.flatten(1) @ weights.T + made.server[0].bias).softmax(1).detach()  # type: ignore[index]
    p_y = p.diagonal()
    closed = p_y[:, None] * (weights[targets] - p @ weights)
    torch.testing.assert_close(probability, p_y)
    torch.testing.assert_close(cost, 1 - p_y)
    torch.testing.assert_close(-gradient.flatten(1), closed, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "step_size"), [("softmax_regression", 0.02), ("perceptron", 2.0), ("faces_cnn", 0.05)]
)
def test_all_classes_at_once_are_as_one_by_one(name: str, step_size: float) -> None:
    made = Centred(network(name))
    attack = MIFace(step_size=step_size, iterations=100, confidence=0.9, patience=20)
    targets = torch.tensor([2, 0, 3, 1, 2])
    together = attack.invert(made, targets, SHAPE)
    if name == "softmax_regression":
        assert len(set(together.iterations.tolist())) > 1, "rows stop at different steps"
    for row, target in enumerate(targets):
        alone = attack.invert(made, target.view(1), SHAPE)
        torch.testing.assert_close(together.images[row], alone.images[0], rtol=1e-3, atol=1e-5)
        assert together.iterations[row] == alone.iterations[0]
        assert together.confidence[row].item() == pytest.approx(alone.confidence.item(), abs=1e-5)
    torch.testing.assert_close(together.images[0], together.images[4])


def by_hand(model: nn.Module, target: int, steps: int, step_size: float) -> list[Tensor]:
    """Every iterate, without batches and by automatic differentiation of the cost itself."""
    iterates = [torch.zeros(1, *SHAPE)]
    for _ in range(steps):
        x = iterates[-1].clone().requires_grad_()
        (1 - model(x).softmax(1)[0, target]).backward()
        assert x.grad is not None
        iterates.append((x - step_size * x.grad).clamp(-1, 1).detach())
    return iterates


class Scripted:
    """A classifier whose costs are given, whatever it sees; each step brightens every pixel by the step size."""

    def __init__(self, *costs: float) -> None:
        self.costs = costs
        self.asked = 0

    def __call__(self, images: Tensor) -> Tensor:
        cost = self.costs[self.asked]
        self.asked += 1
        brighter = (images - images.detach()).flatten(1).sum(1, keepdim=True)
        return torch.cat([1 - cost + brighter, cost - brighter], 1)


def test_the_best_picture_is_returned_not_the_last() -> None:
    model = Scripted(0.9, 0.6, 0.3, 0.7, 0.8, 0.5)
    made = MIFace(iterations=5, step_size=0.1).invert(model, torch.tensor([0]), SHAPE, logits=False)
    assert made.iterations.item() == 5 and model.asked == 6
    assert made.cost.item() == pytest.approx(0.3) and made.confidence.item() == pytest.approx(0.7)
    after_two = torch.full((1, *SHAPE), 0.2)
    torch.testing.assert_close(made.images, after_two)


@pytest.mark.parametrize("patience", [1, 7])
@pytest.mark.parametrize("connected", [True, False])
def test_on_a_constant_classifier_the_start_is_returned(patience: int, connected: bool) -> None:
    def constant(images: Tensor) -> Tensor:
        scores = torch.ones(len(images), CLASSES)
        return scores + 0 * images.sum() if connected else scores

    made = MIFace(start=0.25, patience=patience).invert(constant, torch.arange(CLASSES), SHAPE)
    assert torch.equal(made.images, torch.full((CLASSES, *SHAPE), 0.25))
    assert made.iterations.tolist() == [patience] * CLASSES
    assert made.confidence.tolist() == [1 / CLASSES] * CLASSES


def test_a_person_is_done_at_the_first_step_that_is_sure_enough() -> None:
    made, attack = Centred(network()), MIFace(confidence=0.8, step_size=0.05)
    inversion = attack.invert(made, torch.arange(CLASSES), SHAPE)
    for target, steps in enumerate(inversion.iterations.tolist()):
        sure = [
            x.softmax(1)[0, target].item() for x in map(made, by_hand(made, target, steps, 0.05))
        ]
        assert sure[-1] >= 0.8 > max(sure[:-1])
        assert inversion.confidence[target].item() == pytest.approx(sure[-1], abs=1e-5)
    assert attack.invert(made, torch.tensor([0]), SHAPE).iterations == inversion.iterations[0]


def test_a_person_is_done_when_the_cost_is_not_below_the_last_ones() -> None:
    """The paper's rule: at the first cost that is no lower than every one of the β before it."""
    model = Scripted(0.9, 0.8, 0.7, 0.75, 0.72, 0.76, 0.5)
    made = MIFace(patience=3).invert(model, torch.tensor([0]), SHAPE, logits=False)
    assert made.iterations.item() == 5 and model.asked == 6, ".76 is above .70, .75 and .72"
    assert made.cost.item() == pytest.approx(0.7)


def test_the_box_holds_and_without_it_pictures_leave_it() -> None:
    made = Centred(network(sharpness=1.0))
    attack = MIFace(step_size=50.0, iterations=40, confidence=1.1)
    assert attack.invert(made, torch.arange(CLASSES), SHAPE).images.abs().max() == 1
    free = MIFace(step_size=50.0, iterations=40, confidence=1.1, box=None)
    assert free.invert(made, torch.arange(CLASSES), SHAPE).images.abs().max() > 1


def test_priors_give_smoother_pictures() -> None:
    made = Centred(network("perceptron"))

    def roughness(**prior: float) -> float:
        attack = MIFace(iterations=50, confidence=1.1, **prior)  # type: ignore[arg-type]
        return (
            total_variation(attack.invert(made, torch.arange(CLASSES), SHAPE).images).sum().item()
        )

    plain = roughness()
    assert roughness(tv_weight=0.5) < 0.8 * plain
    assert roughness(smoothing=1.0) < 0.8 * plain
    halved = MIFace(iterations=1, confidence=1.1, process=lambda images: images / 2)
    whole = MIFace(iterations=1, confidence=1.1)
    few = torch.arange(CLASSES)
    torch.testing.assert_close(
        halved.invert(made, few, SHAPE).images, whole.invert(made, few, SHAPE).images / 2
    )


def test_total_variation_and_blur_are_what_they_say() -> None:
    steps = torch.tensor([[0.0, 1.0, 3.0], [0.0, 1.0, 3.0]]).view(1, 1, 2, 3)
    assert total_variation(steps).tolist() == [1.5], "down 0, across the mean of 1, 2, 1 and 2"
    assert torch.equal(smooth(steps, 0), steps)
    point = torch.zeros(1, 1, 21, 21)
    point[..., 10, 10] = 1
    blurred = smooth(point, 1.5)[0, 0]
    grid = torch.arange(21.0) - 10
    spread = (blurred.sum(0) * grid.square()).sum().sqrt().item()
    assert blurred.sum().item() == pytest.approx(1, abs=1e-5)
    assert spread == pytest.approx(1.5, rel=0.02)
    torch.testing.assert_close(blurred, blurred.T)
    torch.testing.assert_close(
        smooth(torch.full((1, 2, 4, 4), 0.7), 2), torch.full((1, 2, 4, 4), 0.7)
    )


class Foreign(nn.Module):
    """A user's own: probabilities out, dropout within, three channels in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.5))
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return F.softmax(20 * self.head(self.body(images).mean((2, 3))), 1)


def test_a_users_module_is_attacked_and_left_as_it_was() -> None:
    torch.manual_seed(0)
    model = Foreign()
    model.body[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attack = MIFace(start=0.5, box=(0, 1), step_size=1.0, iterations=200)
    made = attack.invert(model, torch.arange(3), (3, 8, 8), logits=False)
    again = attack.invert(model, torch.arange(3), (3, 8, 8), logits=False)
    assert torch.equal(made.images, again.images), "no dropout"
    model.eval()
    start = model(torch.full((3, 3, 8, 8), 0.5)).diagonal()
    assert (made.confidence > start).all() and (made.confidence > start + 0.03).sum() >= 2
    assert 0 <= made.images.min() and made.images.max() <= 1
    torch.testing.assert_close(model(made.images).diagonal(), made.confidence)
    model.train()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_modes_of_a_users_module_come_back() -> None:
    model = Foreign().train()
    model.body[1].eval()
    MIFace(iterations=1).invert(model, torch.arange(3), (3, 8, 8), logits=False)
    assert model.training and model.body[3].training and not model.body[1].training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": -1.0}, "step_size is -1.0"),
        ({"step_size": float("nan")}, "step_size is nan"),
        ({"iterations": 0}, "iterations is 0; it must be 1 or more"),
        ({"patience": 0}, "patience is 0"),
        ({"tv_weight": -0.1}, "tv_weight is -0.1"),
        ({"smoothing": -0.1}, "smoothing is -0.1"),
        ({"box": (1.0, 0.0)}, r"box is \(1.0, 0.0\)"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MIFace(**options)  # type: ignore[arg-type]


def test_a_class_that_the_model_does_not_know_is_refused() -> None:
    with pytest.raises(UsageError, match=r"scores of shape \(2, 4\).*3 to 4 must be classes"):
        MIFace().invert(Centred(network()), torch.tensor([3, 4]), SHAPE)


@pytest.mark.parametrize("logits", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_model_that_gives_no_numbers_stops_it(bad: float, logits: bool) -> None:
    asked = []

    def broken(images: Tensor) -> Tensor:
        asked.append(len(images))
        scores = images.flatten(1)[:, :CLASSES] * 0.1
        return torch.where(torch.arange(len(images))[:, None] == 1, bad, scores)

    with pytest.raises(NotFinite, match="cost of image 1 is .* after 0 steps; the model"):
        MIFace(iterations=50).invert(broken, torch.tensor([0, 1, 2]), SHAPE, logits)
    assert asked == [3]


def test_a_gradient_without_numbers_stops_it() -> None:
    def rooted(images: Tensor) -> Tensor:
        return (
            images.flatten(1)[:, :CLASSES].abs().sqrt()
        )  # 0 at the grey start, with a slope of 0/0

    with pytest.raises(NotFinite, match="gradient of image 0 is nan after 0 steps"):
        MIFace(iterations=50).invert(rooted, torch.tensor([0, 1]), SHAPE)
