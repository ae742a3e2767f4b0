"""Networks: the two halves are the whole, and decoders fit any cut."""

import pytest
import torch
from torch import nn

from dpsnn.errors import UsageError
from dpsnn.networks import NETWORKS
from dpsnn.networks.decoder import DECODERS
from dpsnn.networks.faces import faces_cnn, unstrided

SHAPES = [((1, 28, 28), 10), ((3, 32, 36), 4)]
LARGE = [((1, 105, 105), 20), ((3, 99, 120), 4)]


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [(n, *s) for n in sorted(NETWORKS) for s in (LARGE if n == "mobile" else SHAPES)],
)
def test_server_of_client_is_the_unsplit_network(
    name: str, shape: tuple[int, int, int], classes: int
) -> None:
    network = NETWORKS[name](shape, classes, 0.13, 0.31).eval()
    images = torch.rand(4, *shape)
    unsplit = torch.nn.Sequential(*network.client, *network.server)
    smashed = network.client(images)
    assert smashed.shape[1:] == network.cut_shape
    assert torch.equal(network(images), unsplit(images))
    assert network(images).shape == (4, classes)
    if network.bound is not None:
        assert network.client(1e3 * images).abs().max() <= network.bound


def test_titcombe_is_the_published_network() -> None:
    network = NETWORKS["titcombe"]((1, 28, 28), 10)
    assert network.cut_shape == (500,) and network.bound == 1
    shapes = [tuple(p.shape) for p in network.parameters() if p.dim() > 1]
    assert shapes == [(32, 1, 3, 3), (64, 32, 3, 3), (500, 9216), (128, 500), (10, 128)]
    # Published order: ReLU, then pool. Ours pools first; a maximum commutes with a monotone function.
    layers = list(network.client)
    assert [type(layer).__name__ for layer in layers[4:6]] == ["MaxPool2d", "ReLU"]
    layers[4], layers[5] = layers[5], layers[4]
    images = torch.rand(3, 1, 28, 28)
    assert torch.equal(network.client(images), torch.nn.Sequential(*layers)(images))


def test_mobile_is_the_published_network() -> None:
    network = NETWORKS["mobile"]((1, 105, 105), 20)
    assert network.cut_shape == (32, 1, 1)
    shapes = [tuple(p.shape) for p in network.parameters() if p.dim() > 1]
    convolutions = [(32, 1, 7, 7), (32, 32, 7, 7), (32, 32, 5, 5), (32, 32, 3, 3)]
    assert shapes == [*convolutions, (256, 32), (50, 256), (20, 50)]
    norms = [type(m).__name__ for m in network.modules() if "Norm" in type(m).__name__]
    assert norms == ["BatchNorm2d"] * 4
    grouped = NETWORKS["mobile"]((1, 105, 105), 20, norm="group", dropout=0.0)
    norms = [type(m).__name__ for m in grouped.modules() if "Norm" in type(m).__name__]
    assert norms == ["GroupNorm"] * 4
    with pytest.raises(UsageError, match="99x99 or more.*--dataset omniglot"):
        NETWORKS["mobile"]((1, 28, 28), 10)


def test_lenet5_is_the_published_network() -> None:
    network = NETWORKS["lenet5"]((1, 28, 28), 10)
    shapes = [tuple(p.shape) for p in network.parameters() if p.dim() > 1]
    assert shapes == [(6, 1, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84)]
    assert network.cut == "fc1" and network.cut_shape == (120,)
    images = torch.rand(3, 1, 28, 28)
    conv1, conv2, fc1, fc2, fc3 = (
        m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)
    )
    # Published order: ReLU, then pool.
    maps = torch.nn.functional.pad(images, (2, 2, 2, 2))
    expected = {}
    for name, layer in (("conv1", conv1), ("conv2", conv2)):
        expected[name] = maps = torch.nn.functional.max_pool2d(layer(maps).relu(), 2)
    values = expected["fc1"] = fc1(maps.flatten(1)).relu()
    values = expected["fc2"] = fc2(values).relu()
    expected["logits"] = fc3(values)
    for cut, smashed in expected.items():
        at = network.at(cut)
        assert at.cut == cut and at.cut_shape == smashed.shape[1:]
        torch.testing.assert_close(at.client(images), smashed)
        assert torch.equal(at(images), network(images)), "the same layers, cut elsewhere"
        assert [id(p) for p in at.parameters()] == [id(p) for p in network.parameters()]
        assert not at.eval().at("conv1").training


def test_an_unknown_cut_is_refused() -> None:
    with pytest.raises(UsageError, match="no cut 'fc3'; choose from .'conv1', 'conv2', 'fc1'"):
        NETWORKS["lenet5"]((1, 28, 28), 10, cut="fc3")
    with pytest.raises(UsageError, match="no cut 'fc1'; it has one only"):
        NETWORKS["titcombe"]((1, 28, 28), 10).at("fc1")


def test_deconv_is_the_published_decoder() -> None:
    decoder = DECODERS["deconv"]((32, 1, 1), (1, 105, 105))
    layers = [m for m in decoder.modules() if isinstance(m, torch.nn.ConvTranspose2d)]
    assert [(m.out_channels, m.kernel_size[0], m.stride[0]) for m in layers] == [
        (32, 9, 1), (32, 7, 2), (1, 7, 2), (1, 5, 2),
    ]  # fmt: skip
    sizes, picture = [], torch.rand(2, 32, 1, 1)
    for layer in layers:
        picture = layer(picture)
        sizes.append(picture.shape[-1])
    assert sizes == [9, 23, 51, 105]


def test_deconv_starts_alive_from_every_seed() -> None:
    """Its third layer has one channel: silent for all inputs, it would hand no gradient to what is before it."""
    for seed in range(40):
        torch.manual_seed(seed)
        decoder = DECODERS["deconv"]((32, 1, 1), (1, 105, 105))
        smashed = torch.rand(4, 32, 1, 1, requires_grad=True)
        decoder(smashed).sum().backward()
        assert smashed.grad is not None and (smashed.grad.flatten(1).abs().sum(1) > 0).all(), seed


@pytest.mark.parametrize("name", sorted(DECODERS))
@pytest.mark.parametrize("cut", [(500,), (8, 5, 5)])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 33, 35), (1, 4, 3), (1, 1, 1)])
def test_decoders_fit_any_cut_and_image(
    name: str, cut: tuple[int, ...], shape: tuple[int, int, int]
) -> None:
    decoder = DECODERS[name](cut, shape)
    smashed = torch.randn(2, *cut)
    pictures = decoder(smashed)
    assert pictures.shape == (2, *shape)
    assert decoder.loss(smashed, torch.rand(2, *shape)).isfinite()
    if decoder.bounded:
        assert 0 <= pictures.min() and pictures.max() <= 1


def test_the_linear_decoder_is_linear_and_the_default_is_not() -> None:
    a, b = torch.randn(2, 1, 500)
    for name, linear in (("linear", True), ("conv", False)):
        decoder = DECODERS[name]((500,), (1, 28, 28)).eval().double()
        x, y = a.double(), b.double()
        # An affine map: the origin's picture counts twice on the left.
        difference = decoder(x) + decoder(y) - decoder(x + y) - decoder(torch.zeros_like(x))
        # Pictures are float32 whatever the layers compute in.
        assert (difference.abs().max().item() < 1e-5) == linear


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_both_losses_have_the_conditional_mean_as_their_minimum(name: str) -> None:
    decoder = DECODERS[name]((3,), (1, 28, 28))
    pictures = torch.cat([torch.zeros(3, 1, 28, 28), torch.ones(1, 1, 28, 28)])
    level = torch.nn.Parameter(torch.zeros(1, 1, 28, 28))
    decoder.layers = torch.nn.Identity()
    optimiser = torch.optim.Adam([level], 0.05)
    for _ in range(400):
        loss = decoder.loss(level.expand(4, -1, -1, -1), pictures)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert decoder(level).mean().item() == pytest.approx(0.25, abs=1e-3)


def test_unstrided_networks_give_the_same_values_and_gradients() -> None:
    network = faces_cnn((1, 12, 20), 5).eval()
    copied = unstrided(network)
    assert any(isinstance(layer, nn.PixelUnshuffle) for layer in copied.modules())
    assert not any(isinstance(layer, nn.PixelUnshuffle) for layer in network.modules())
    images = torch.rand(3, 1, 12, 20, requires_grad=True)
    expected, given = network(images), copied(images)
    assert torch.allclose(given, expected, atol=1e-5)
    slopes = [torch.autograd.grad(each.square().sum(), images)[0] for each in (expected, given)]
    assert torch.allclose(slopes[1], slopes[0], atol=1e-5)
