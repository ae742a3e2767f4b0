"""Looking at the wire before learning: functions undone, precision respected, dead values dropped."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpsnn.networks.front import Front, possible
from dpsnn.networks.resolution import resolution
from dpsnn.networks.ridge import ridge

torch.manual_seed(0)
IMAGES = torch.rand(1200, 1, 6, 6)
BEFORE = (IMAGES.flatten(1) - 0.5) @ (1.2 * torch.randn(36, 48))


def none(activation: Tensor) -> Tensor:
    return activation


def looked(smashed: Tensor, hear: Callable[[Tensor], Tensor] = none, queries: int = 1) -> Front:
    front = Front(tuple(smashed.shape[1:]))
    front.look(smashed, hear, queries, IMAGES[: len(smashed)])
    return front


def worst_line(seen: Tensor, before: Tensor) -> float:
    """1 - r² of what is seen of a value against what it was before, of the value that is worst off."""
    pairs = zip(seen.flatten(1).T, before.flatten(1).T)
    return max(1 - float(np.corrcoef(a, b)[0, 1] ** 2) for a, b in pairs)


BENT: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "scaled tanh": lambda x: 1.7159 * torch.tanh(2 * x / 3),
    "leaky": lambda x: F.leaky_relu(x, 0.03),
    "elu": F.elu,
    "softplus": lambda x: F.softplus(3 * x),
    "exponential": lambda x: (2 * x).exp(),
    "identity": none,
}


@pytest.mark.parametrize("name", BENT)
def test_what_a_function_bent_is_straight_again(name: str) -> None:
    smashed = BENT[name](BEFORE)
    front = looked(smashed)
    assert worst_line(front([smashed]), BEFORE) < 2e-3
    if name != "identity":
        assert worst_line(smashed, BEFORE) > 5e-3


def test_a_softmax_is_undone_up_to_a_constant_of_each_row() -> None:
    scores = 3 * BEFORE
    seen = looked(scores.softmax(1))([scores.softmax(1)])
    assert worst_line(seen, scores - scores.mean(1, keepdim=True)) < 1e-6


@pytest.mark.parametrize("after", [torch.relu, F.gelu], ids=["relu", "gelu"])
def test_what_cannot_be_undone_is_left_as_it_is(after: Callable[[Tensor], Tensor]) -> None:
    smashed = after(BEFORE)
    assert worst_line(looked(smashed)([smashed]), smashed) < 1e-9


def test_everything_is_on_one_scale_whatever_it_was() -> None:
    scales = torch.logspace(-12, 9, 48)
    smashed = BEFORE * scales + 3 * scales
    seen = looked(smashed)([smashed])
    torch.testing.assert_close(seen.mean(0), torch.zeros(48), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.std(0), torch.ones(48), atol=1e-3, rtol=0)


def test_dead_values_say_nothing_also_where_they_are_not_dead() -> None:
    smashed = BEFORE.tanh()
    smashed[:, :3] = torch.tensor([0.0, 1.0, 0.3])
    smashed[:, 3] = 0
    smashed[7, 3] = 0.5  # hardly ever alive
    front = looked(smashed)
    stranger = smashed[:2].clone()
    stranger[:, :3] = torch.tensor([[0.4, -1.0, 1e30], [-1e9, 0.0, torch.inf]])
    stranger[:, 3:] *= 1e20
    seen = front([stranger])
    assert seen.isfinite().all() and seen.abs().max() < 1000
    assert torch.equal(seen[:, :3], torch.zeros(2, 3))


ROUNDED: dict[str, Callable[[Tensor], Tensor]] = {
    "float32": none,
    "float16": lambda z: z.half().float(),
    "bfloat16": lambda z: z.bfloat16().float(),
    "int8": lambda z: (127 * z).round() / 127,
}


@pytest.mark.parametrize("wire", ROUNDED)
def test_one_rounding_moves_no_row(wire: str) -> None:
    """At the ends, where tanh is steepest to undo, the next value that the wire can carry is seen near by."""
    smashed = ROUNDED[wire]((4 * BEFORE).tanh())
    front = looked(smashed)
    kind = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(wire, torch.float32)
    end = torch.ones(1, 48)
    step = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "int8": 1 / 127}.get(wire, 2.0**-24)
    before = end - step
    assert torch.equal(before.to(kind).float(), before)
    # atanh of half a step from 1 against one step from 1: ln(2)/2 of what may be a hundred.
    moved = (front._straight(end) - front._straight(before)).abs().max()
    assert moved.item() == pytest.approx(np.log(2) / 2, rel=0.02)
    assert front([end]).isfinite().all()


@pytest.mark.parametrize(
    ("values", "below_one"),
    [
        (torch.rand(3000) * 2 - 1, 2.0**-24),
        ((torch.rand(3000) * 2 - 1).half().float(), 2.0**-11),
        ((torch.rand(3000) * 2 - 1).bfloat16().float(), 2.0**-8),
        (torch.linspace(-1, 1, 16)[torch.randint(16, (3000,))], 2 / 15),
        (torch.randint(-127, 128, (3000,)) / 127, 1 / 127),
        (torch.linspace(-1, 2, 2**12)[torch.randint(2**12, (3000,))], 3 / (2**12 - 1)),
    ],
)
def test_the_precision_is_read_off_the_values(values: Tensor, below_one: float) -> None:
    assert resolution(values).below(1.0) == pytest.approx(below_one, rel=1e-6)


@pytest.mark.parametrize("bound", [1.0, -1.0, 0.75, -3.0, 1000.0])
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_the_distance_to_the_next_number_is_numpys(bound: float, kind: type) -> None:
    values = torch.from_numpy(np.random.default_rng(0).normal(size=999).astype(kind)).float()
    ours = resolution(values).below(bound)
    assert ours == float(kind(bound)) - float(np.nextafter(kind(bound), kind(-np.inf)))


# ---------------------------------------------------------------- noise


def laplace(scale: float) -> Callable[[Tensor], Tensor]:
    return lambda z: z + torch.distributions.Laplace(0.0, scale).sample(z.shape)


def test_behind_laplace_noise_nothing_is_taken_to_lie_further_out_than_it_can() -> None:
    """There |y - z| differs by a constant for all z: clipping to the range is a sufficient statistic."""
    smashed = (2 * BEFORE).tanh()
    torch.manual_seed(1)
    front = looked(smashed, laplace(1.0))
    ends = torch.stack([smashed.amax(0), smashed.amax(0) + 9])
    assert torch.equal(*front([ends]))


def test_of_several_noisy_transmissions_each_is_clipped_by_itself() -> None:
    smashed = (2 * BEFORE).tanh()
    torch.manual_seed(1)
    front = looked(smashed, laplace(1.0), queries=4)
    heard = [laplace(1.0)(smashed) for _ in range(4)]
    apart = torch.stack([front([each]) for each in heard]).mean(0)
    torch.testing.assert_close(front(heard), apart)
    assert not torch.allclose(front(heard), front([torch.stack(heard).mean(0)]), atol=0.1)


def test_noise_larger_than_the_gap_to_the_bound_keeps_values_from_being_undone() -> None:
    smashed = (3 * BEFORE).tanh()
    torch.manual_seed(1)
    hear = laplace(0.5)
    seen = looked(smashed, hear)([hear(smashed)])
    assert seen.abs().max() < 4, "nothing is blown up"


# ---------------------------------------------------------------- what it rests on


def test_only_what_the_values_allow_is_tried() -> None:
    names = [
        {bend.undo.__name__ for bend in possible(z) if bend.undo}
        for z in (BEFORE, BEFORE.sigmoid())
    ]
    assert "_softplus" not in names[0] and "_elu" not in names[0]
    assert "_softmax" not in names[1] and "_leaky" not in names[1]


@pytest.mark.parametrize("shape", [(40, 7), (9, 30)])
@pytest.mark.parametrize("penalty", [1e-6, 0.1, 10.0])
def test_ridge_is_the_solution_of_its_normal_equations(
    shape: tuple[int, int], penalty: float
) -> None:
    x, y = torch.randn(*shape), torch.randn(shape[0], 3)
    wide = x.double().numpy()
    largest = np.linalg.eigvalsh(wide.T @ wide).max()
    normal = wide.T @ wide + penalty * largest * np.eye(shape[1])
    wanted = np.linalg.solve(normal, wide.T @ y.double().numpy())
    np.testing.assert_allclose(ridge(x, y).weights(penalty), wanted, rtol=1e-6, atol=1e-9)


def test_a_decoder_recovers_what_lies_beyond_saturation() -> None:
    """A linear client behind a tanh: what is seen is the pixels, though a sixth of the values lies beyond 0.99."""
    weights = nn.init.orthogonal_(torch.empty(36, 36))
    smashed = (7 * (IMAGES.flatten(1) - 0.5) @ weights).tanh()
    assert (smashed.abs() > 0.99).float().mean() > 0.15
    seen, truth = looked(smashed)([smashed]), IMAGES.flatten(1)
    centre, mean = seen[:900].mean(0), truth[:900].mean(0)
    weights = ridge(seen[:900] - centre, truth[:900] - mean).weights(1e-9)
    error = ((seen[900:] - centre).double() @ weights + mean - truth[900:]).square().mean()
    assert error < 1e-6
