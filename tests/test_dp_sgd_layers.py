"""DP-SGD on layers of many kinds: each example's gradient is that of a batch of its own, and training accepts it."""

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from test_dp_sgd_refusals import Images, images, train
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dpsnn.defences import per_example
from dpsnn.defences.dp_sgd import DPSGD
from dpsnn.defences.per_example import Explicit, PerExampleGradients
from dpsnn.errors import UsageError


class Output(nn.Module):
    """The first of several outputs."""

    def __init__(self, layer: nn.Module, position: int = 0) -> None:
        super().__init__()
        self.layer, self.position = layer, position

    def forward(self, values: Tensor) -> Tensor:
        found = self.layer(values)
        while not isinstance(found, Tensor):
            found = found[self.position if len(found) > self.position else 0]
        return found.transpose(0, 1) if self.position else found


class TimeFirst(nn.Module):
    """A recurrent layer as torch lays it out by default."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(6, 4, num_layers=2)

    def forward(self, values: Tensor) -> Tensor:
        outputs, last = self.layer(values.transpose(0, 1))
        return torch.cat([outputs.mean(0), last[0]], 1)


class Steps(nn.Module):
    """A cell that is called once for each step of a sequence."""

    def __init__(self, cell: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.cell = cell(6, 4)

    def forward(self, values: Tensor) -> Tensor:
        state: Any = None
        for step in values.unbind(1):
            state = self.cell(step, state)
        return state if isinstance(state, Tensor) else torch.cat(state, 1)


class All(nn.Module):
    """Every output of a layer with memory: the last of the first one is made of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(6, 4, num_layers=2, batch_first=True)

    def forward(self, values: Tensor) -> Tensor:
        outputs, (state, memory) = self.layer(values)
        return torch.cat([outputs.mean(1), outputs[:, -1], state[0], memory[-1]], 1)


class Beheld(nn.Module):
    """A layer of two outputs, of which others keep one and use it."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.ones(6)), nn.Parameter(torch.ones(6))

        def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
            return values * self.a, values * self.b

    def __init__(self) -> None:
        super().__init__()
        self.two = self.Two()
        self.two.register_forward_hook(lambda _, __, outputs: self.kept.append(outputs[1]))

    def forward(self, values: Tensor) -> Tensor:
        self.kept: list[Tensor] = []
        first, _ = self.two(values)
        return first + self.kept[0].sin()


class Attention(nn.Module):
    """One head, with a bias of keys, whose gradient is 0: softmax does not see it."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, values: Tensor) -> Tensor:
        scores = self.query(values) @ self.key(values).mT / 6**0.5
        return scores.softmax(-1) @ self.value(values)


class Masked(nn.Module):
    """A layer with an argument that examples share and one that is given by name."""

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.linspace(0.5, 1.5, 6))

        def forward(self, values: Tensor, mask: Tensor, *, shift: Tensor) -> Tensor:
            return mask @ (values * self.gain) + shift

    def __init__(self) -> None:
        super().__init__()
        self.inner = self.Inner()

    def forward(self, values: Tensor) -> Tensor:
        return self.inner(values, torch.ones(6, 6).tril(), shift=values.flip(1))


class Stubborn(nn.Module):
    """A layer that torch.func cannot vectorise: it looks at its values."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(6))

    def forward(self, values: Tensor) -> Tensor:
        scaled = values * self.gain
        return scaled if len(values) > 1 or scaled.sum().item() > -1e9 else -scaled


def conv(**options: Any) -> list[nn.Module]:
    return [nn.Unflatten(1, (1, 6)), nn.Conv2d(1, 4, 3, padding=1, **options)]


def eval_norm() -> nn.Module:
    norm = nn.BatchNorm2d(4).eval()
    norm.running_mean.copy_(torch.linspace(-0.5, 0.5, 4))  # type: ignore[union-attr]
    norm.running_var.copy_(torch.linspace(0.5, 2, 4))  # type: ignore[union-attr]
    return norm


def tracked(kind: Callable[..., nn.Module]) -> nn.Module:
    return kind(4, affine=True, track_running_stats=True).eval()


LAYERS: dict[str, Callable[[], list[nn.Module]]] = {
    "reflect": lambda: conv(padding_mode="reflect"),
    "circular": lambda: conv(padding_mode="circular"),
    "replicate": lambda: conv(padding_mode="replicate"),
    "one dimension, circular": lambda: [nn.Conv1d(6, 4, 3, padding=1, padding_mode="circular")],
    "transposed convolution": lambda: [nn.Unflatten(1, (1, 6)), nn.ConvTranspose2d(1, 2, 3)],
    "group norm of channels": lambda: [*conv(), nn.GroupNorm(4, 4), nn.Tanh()],
    "group norm of one": lambda: [
        nn.Unflatten(1, (1, 6)),
        nn.Conv2d(1, 1, 3),
        nn.GroupNorm(1, 1),
        nn.Tanh(),
    ],
    "instance norm": lambda: [*conv(), nn.InstanceNorm2d(4, affine=True), nn.Tanh()],
    "frozen instance norm": lambda: [*conv(), tracked(nn.InstanceNorm2d), nn.Tanh()],
    "frozen batch norm": lambda: [*conv(), eval_norm(), nn.Tanh()],
    "layer norm without bias": lambda: [nn.LayerNorm(6, bias=False)],
    "layer norm of two axes": lambda: [nn.LayerNorm([6, 6])],
    "rms norm": lambda: [nn.RMSNorm(6)],
    "prelu": lambda: [nn.PReLU(6)],
    "lstm": lambda: [Output(nn.LSTM(6, 4, batch_first=True))],
    "lstm, last cell": lambda: [Output(nn.LSTM(6, 4, batch_first=True, bidirectional=True), 1)],
    "gru, time first": lambda: [TimeFirst()],
    "lstm cell": lambda: [Steps(nn.LSTMCell)],
    "gru cell": lambda: [Steps(nn.GRUCell)],
    "rnn cell": lambda: [Steps(nn.RNNCell)],
    "an output that a hook keeps": lambda: [Beheld()],
    "lstm, all outputs": lambda: [All()],
    "attention": lambda: [Attention()],
    "shared arguments": lambda: [Masked()],
    "values looked at": lambda: [Stubborn()],
    "bilinear": lambda: [nn.Flatten(), nn.Linear(36, 6), Both()],
}


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Bilinear(6, 6, 5)

    def forward(self, values: Tensor) -> Tensor:
        return self.layer(values, values.sin())


EMBEDDINGS: dict[str, Callable[[], nn.Module]] = {
    "embedding": lambda: nn.Embedding(9, 5),
    "padding": lambda: nn.Embedding(9, 5, padding_idx=0),
    "sparse": lambda: nn.Embedding(9, 5, sparse=True),
    "bag": lambda: nn.EmbeddingBag(9, 5),
    "bag, largest, padded": lambda: nn.EmbeddingBag(9, 5, mode="max", padding_idx=0),
}


def network(name: str) -> nn.Module:
    torch.manual_seed(3)
    if name in LAYERS:
        return nn.Sequential(*LAYERS[name](), nn.Flatten(), nn.LazyLinear(3))
    return nn.Sequential(EMBEDDINGS[name](), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))


def data(name: str, n: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(0, 3, (n,), generator=generator)
    if name in LAYERS:
        return torch.randn(n, 6, 6, generator=generator), labels
    return torch.randint(0, 9, (n, 4), generator=generator), labels


@pytest.mark.parametrize("name", [*LAYERS, *EMBEDDINGS])
def test_gradients_equal_those_of_batches_of_one(name: str) -> None:
    net = network(name)
    values, labels = data(name)
    net(values)
    slow = []
    for i in range(len(values)):
        net.zero_grad()
        F.cross_entropy(net(values[i : i + 1]), labels[i : i + 1]).backward()
        slow.append([p.grad.to_dense().clone() for p in net.parameters() if p.grad is not None])
    net.zero_grad()
    watch = PerExampleGradients(net)
    watch.attach()
    F.cross_entropy(net(values), labels).backward()
    norms = torch.stack([torch.cat([g.flatten() for g in one]).norm() for one in slow])
    torch.testing.assert_close(watch.norms(), norms, rtol=1e-4, atol=1e-6)
    weights = torch.linspace(-1, 1, len(values))
    sums = watch.weighted_sum(weights)
    for position, parameter in enumerate(net.parameters()):
        expected = sum(w * one[position] for w, one in zip(weights, slow))
        torch.testing.assert_close(sums[parameter], expected, rtol=1e-4, atol=1e-5)


class Of(pl.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("gradients", ["auto", "single"])
@pytest.mark.parametrize("name", [*LAYERS, *EMBEDDINGS])
def test_such_layers_are_trained(name: str, gradients: str) -> None:
    net = network(name)
    values, labels = data(name, 60)
    net(values)
    callback = DPSGD(1.0, delta=1e-3, gradients=gradients)
    assert train(Of(net), TensorDataset(values, labels), callback, batch=15).steps == 4


@pytest.mark.parametrize(
    "layer, message",
    [
        (lambda: nn.Embedding(9, 5, max_norm=1.0), "max_norm or scale_grad_by_freq"),
        (lambda: nn.Embedding(9, 5, scale_grad_by_freq=True), "max_norm or scale_grad_by_freq"),
        (lambda: nn.EmbeddingBag(9, 5, max_norm=1.0), "max_norm or scale_grad_by_freq"),
    ],
)
def test_embeddings_that_couple_are_refused(layer: Callable[[], nn.Module], message: str) -> None:
    values, labels = data("embedding", 60)
    net = nn.Sequential(layer(), nn.Flatten(), nn.LazyLinear(3))
    net(values)
    with pytest.raises(UsageError, match=message):
        train(Of(net), TensorDataset(values, labels), batch=15)


class Draws(nn.Module):
    """Weights and chance in one layer, which no rule can repeat."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(6))

    def forward(self, values: Tensor) -> Tensor:
        return values * self.gain * torch.rand_like(values)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(6, 4, batch_first=True)

    def forward(self, values: Tensor) -> Tensor:
        lengths = torch.full((len(values),), 6)
        packed = nn.utils.rnn.pack_padded_sequence(values, lengths, batch_first=True)
        return self.layer(packed)[1][0][0]


class Beside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, values: Tensor) -> Tensor:
        return self.layer(values, values, values)[0]


class Rows(nn.Module):
    """Positions of an example become rows of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, values: Tensor) -> Tensor:
        return self.layer(values.flatten(0, 1)).view(len(values), -1)


@pytest.mark.parametrize(
    "layer, message",
    [
        (Draws, "Draws has weights and draws random numbers"),
        (Packed, "LSTM is given packed sequences"),
        (Beside, "in_proj_weight, which stands beside other layers in MultiheadAttention"),
        (Rows, "48 at net.0.layer.bias"),
    ],
)
def test_what_no_rule_knows_is_refused_with_the_reason_and_trained_one_by_one(
    layer: Callable[[], nn.Module], message: str
) -> None:
    values, labels = data("lstm", 60)
    net = nn.Sequential(layer(), nn.Flatten(), nn.LazyLinear(3))
    net(values)
    with pytest.raises(UsageError, match=f'{message}.*gradients="single"'):
        train(Of(net), TensorDataset(values, labels), batch=15)
    one_by_one = DPSGD(1.0, delta=1e-3, gradients="single")
    assert train(Of(net), TensorDataset(values, labels), one_by_one, batch=15).steps == 4


class Sum(pl.LightningModule):
    """Its gradient is the mean of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.weight.weight)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = self.weight(batch[0]).mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1.0)


def test_an_example_adds_no_more_than_its_norm_to_a_lot_of_many_parts() -> None:
    """Above 2¹² single precision rounds 2⁻¹² and a bit to twice as much, below to 2⁻¹² (Casacuberta et al. 2022)."""
    parts, limit = 1024, 64
    small = torch.full((parts * limit, 1), (1 + 2**-10) * 2**-12 / limit)
    values = torch.cat([torch.ones(4096, 1), small])
    found = []
    for first in (1.0, 0.0):
        values[0] = first
        how: dict[str, Any] = {"amplified": False, "physical_batch": limit, "delta": 1e-6}
        loader = DataLoader(TensorDataset(values), batch_size=len(values))
        train(module := Sum(), loader, DPSGD(1e-6, max_grad_norm=1.001, **how), max_epochs=1)
        found.append(-module.weight.weight.item() * len(values))
    assert found[0] - found[1] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("kind", [per_example.Explicit, per_example.OuterProduct])
def test_an_example_adds_no_more_than_its_norm_to_a_large_lot(kind: Any) -> None:
    """Of a million whose sum is half a million, single precision keeps three hundredths."""
    torch.manual_seed(0)
    rows, weights = torch.rand(2**20, 1), torch.ones(2**20)
    made = kind(rows) if kind is per_example.Explicit else kind(rows, torch.ones(2**20, 1))
    found = []
    for first in (1.0, 0.0):
        weights[0] = first
        found.append(made.weighted_sum(weights).item())
    assert found[0] - found[1] == pytest.approx(rows[0].item(), abs=1e-3)
    few = kind(*(each[:1000] for each in vars(made).values() if isinstance(each, Tensor)))
    assert few.weighted_sum(weights[:1000]).dtype == torch.float32


def test_one_by_one_makes_the_same_update() -> None:
    weights = []
    for gradients in ("auto", "single"):
        torch.manual_seed(1)
        module = Images()
        callback = DPSGD(1e-6, max_grad_norm=0.3, delta=1e-3, gradients=gradients)
        train(module, images(), callback, max_epochs=2)
        weights.append(nn.utils.parameters_to_vector(module.parameters()).detach())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("as_groups", [False, True])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("together", [1, 2000, 2**20])
@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding", "dilation", "groups"),
    [
        ((4, 6), 3, 2, 1, 2, 2),
        ((8, 8), 3, 1, 1, 1, 8),
        ((6, 4), (3, 1), (1, 2), (0, 1), 1, 2),
        ((2, 3), 5, 3, 2, 1, 1),
        ((1, 5), 3, 1, 1, 2, 1),
    ],
)
def test_examples_side_by_side_have_the_gradients_of_each(
    channels: tuple[int, int],
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: int,
    groups: int,
    together: int,
    layout: torch.memory_format,
    as_groups: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many are groups of one convolution or laid out at once, a last few that are fewer, and none."""
    monkeypatch.setattr(per_example, "TOGETHER", together)
    monkeypatch.setattr(per_example, "IN_CACHE", 10 * together)
    monkeypatch.setattr(per_example, "LARGE", 10 * together)
    monkeypatch.setattr(per_example, "_worth_groups", lambda weight, held: as_groups)
    torch.manual_seed(0)
    layer = nn.Conv2d(*channels, kernel, stride, padding, dilation, groups).double()
    images = torch.randn(17, channels[0], 9, 14, dtype=torch.double)
    images = images.to(memory_format=layout)
    backprops = torch.randn_like(layer(images)).to(memory_format=layout)
    found = per_example._conv2d_gradients(layer, images, backprops)
    assert len(per_example._conv2d_gradients(layer, images[:0], backprops[:0])) == 0
    for image, backprop, own in zip(images.split(1), backprops.split(1), found, strict=True):
        (slow,) = torch.autograd.grad((layer(image) * backprop).sum(), layer.weight)
        torch.testing.assert_close(own, slow)


@pytest.mark.parametrize(
    ("channels", "kernel", "side", "worth"),
    [
        ((32, 64), 3, 26, True),
        ((3, 32), 3, 32, False),
        ((256, 256), 3, 4, False),
        ((64, 256), 1, 8, False),
    ],
)
def test_a_weight_is_not_copied_for_each_example_where_that_costs_more(
    channels: tuple[int, int], kernel: int, side: int, worth: bool
) -> None:
    layer = nn.Conv2d(*channels, kernel, padding=kernel // 2)
    assert per_example._worth_groups(layer.weight, sum(channels) * side**2) == worth


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("side", [1, 7])
def test_layout_of_images_does_not_count(padding: str, turned: bool, side: int) -> None:
    """Of channels that come last, and of pictures on their side, to a layer that opacus differentiates."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, min(3, side) if padding == "valid" else 3, padding=padding).double()
    images = torch.randn(5, 3, side, side, dtype=torch.double)
    images = images.mT if turned else images.to(memory_format=torch.channels_last)
    watch = PerExampleGradients(layer, mean=False)
    watch.attach()
    layer(images).sin().sum().backward()
    found = watch.weighted_sum(torch.ones(5, dtype=torch.double))
    watch.detach()
    for parameter in layer.parameters():
        (own,) = torch.autograd.grad(layer(images).sin().sum(), parameter)
        torch.testing.assert_close(found[parameter], own)


@pytest.mark.parametrize("values", [1, 8, 4096, 4097, 3 * 4096, 1_000_003])
@pytest.mark.parametrize("factor", [1, 7])
def test_norms_of_many_values_lose_nothing(values: int, factor: int) -> None:
    """Beside a few large squares, in single precision, a million of small ones were nothing, and clipping too mild."""
    gradients = torch.full((2, values), 1.7e-4)
    gradients[0, :8] = 1.0
    exact = factor * gradients.double().norm(dim=1)
    norms = Explicit(gradients, factor).squared_norms().sqrt()
    assert torch.allclose(norms.double(), exact, rtol=2e-5, atol=0)
