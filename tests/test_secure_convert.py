"""Networks as plans: against torch, layer by layer; encrypted against torch where the engine approximates."""

import json
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dpsnn.errors import UsageError
from dpsnn.networks import NETWORKS
from dpsnn.networks.lenet5 import Pad
from dpsnn.networks.split import Standardise
from dpsnn.secure.convert import Converted, convert

pytest.importorskip("spu", reason="needs the extra [secure]")

from spu import libspu  # noqa: E402

from dpsnn.secure import graph, owner, shares  # noqa: E402
from dpsnn.secure.engine import Engine, Model  # noqa: E402
from dpsnn.secure.messages import Malformed  # noqa: E402


def end(module: nn.Module, features: int) -> nn.Module:
    """A layer under test, then what every network ends in."""
    return nn.Sequential(module, nn.Flatten(), nn.Linear(features, 3)).eval()


def batch_norm(channels: int) -> nn.Module:
    made = nn.BatchNorm2d(channels)
    made.train()(torch.randn(50, channels, 3, 3) * 2 + 1)
    return made


IMAGE = (2, 7, 7)
CASES: dict[str, nn.Module] = {
    "conv": end(nn.Conv2d(2, 4, 3), 100),
    "conv_settings": end(nn.Conv2d(2, 4, 3, stride=2, padding=1, dilation=2, bias=False), 36),
    "conv_groups": end(nn.Conv2d(2, 4, 3, groups=2), 100),
    "avg_pool": end(nn.AvgPool2d(3, 2), 18),
    "max_pool": end(nn.MaxPool2d(2), 18),
    "max_pool_ceil": end(nn.MaxPool2d(3, 2, padding=1, ceil_mode=True), 32),
    "relu": end(nn.ReLU(), 98),
    "tanh": end(nn.Tanh(), 98),
    "sigmoid": end(nn.Sigmoid(), 98),
    "group_norm": end(nn.GroupNorm(2, 2), 98),
    "batch_norm": end(nn.Sequential(nn.ReLU(), batch_norm(2)), 98),
    "batch_norm_merged": end(nn.Sequential(nn.Conv2d(2, 4, 3), batch_norm(4)), 100),
    "standardise": end(nn.Sequential(Standardise(0.3, 0.2), nn.Conv2d(2, 4, 3, padding=1)), 196),
    "standardise_merged": end(nn.Sequential(Standardise(0.3, 0.2), nn.Conv2d(2, 4, 3)), 100),
    "pad": end(Pad(), 2 * 32 * 32),
    "dropout": end(nn.Dropout(0.5), 98),
    "linear_alone": nn.Sequential(nn.Flatten(), nn.Identity(), nn.Linear(98, 3, bias=False)),
}


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, *IMAGE, generator=torch.Generator().manual_seed(1)) * 4 - 2


def in_clear(converted: Converted, values: np.ndarray) -> np.ndarray:
    return np.asarray(graph.forward(converted.plan)(values, *converted.weights))


def encrypted(converted: Converted, values: np.ndarray) -> np.ndarray:
    """By three engines in three threads of this process."""
    description = libspu.link.Desc()
    for rank in range(3):
        description.add_party(f"worker-{rank}", f"thread-{rank}")
    weights = [shares.split(weight) for weight in converted.weights]
    inputs = shares.split(values)
    model = Model("0" * 32, converted.plan, converted.input_shape, converted.classes, "images", "")
    results: list[Any] = [None] * 3

    def work(rank: int) -> None:
        engine = Engine(libspu.link.create_mem(description, rank))
        engine.load(model, b"".join(weight[rank] for weight in weights))
        results[rank] = engine.predict(len(values), inputs[rank])

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return shares.join(results, (len(values), converted.classes))


@pytest.mark.parametrize("name", CASES)
def test_a_plan_computes_what_torch_computes(name: str) -> None:
    module, values = CASES[name], images()
    converted = convert(module, IMAGE)
    assert converted.classes == 3
    with torch.no_grad():
        expected = module(values).numpy()
    np.testing.assert_allclose(in_clear(converted, values.numpy()), expected, atol=2e-5)


@pytest.mark.parametrize("name", CASES)
def test_the_engine_computes_what_torch_computes(name: str) -> None:
    module, values = CASES[name], images()
    with torch.no_grad():
        expected = module(values).numpy()
    made = encrypted(convert(module, IMAGE), values.numpy())
    assert np.abs(made - expected).max() < 2e-3


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"faces_judge", "titcombe_softmax"}))
def test_every_network_of_the_project_has_a_plan(name: str) -> None:
    shape = (1, 105, 105) if name == "mobile" else (1, 28, 28)
    network = NETWORKS[name](shape, 10, 0.13, 0.31).eval()
    values = torch.rand(2, *shape)
    with torch.no_grad():
        smashed = network.client(values)
        expected = network(values).numpy()
    whole = owner.whole(network)
    np.testing.assert_allclose(in_clear(whole, values.numpy()), expected, atol=1e-4)
    half = owner.server_half(network)
    np.testing.assert_allclose(in_clear(half, smashed.numpy()), expected, atol=1e-4)
    # What goes over the wire is this JSON, checked at the other end.
    received = json.loads(json.dumps(whole.plan))
    assert graph.check(received) == [weight.shape for weight in whole.weights]
    assert graph.output_classes(received, whole.input_shape) == 10


def test_what_can_be_worked_out_before_is() -> None:
    merged = [CASES[name] for name in ("batch_norm_merged", "standardise_merged")]
    for module in merged:
        assert [layer["op"] for layer in convert(module, IMAGE).plan] == [
            "conv",
            "flatten",
            "linear",
        ]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(98, 3), nn.GELU()), r"layer 2 \(GELU\) cannot"),
        (nn.Sequential(nn.AvgPool2d(2, padding=1), nn.Flatten()), "layer 0 averages over a border"),
        (nn.Sequential(nn.Conv2d(2, 2, 3, padding="same"), nn.Flatten()), "layer 0 pads by"),
        (nn.Sequential(nn.Flatten(2)), "flattens some axes"),
        (nn.Sequential(nn.MaxPool2d(2, dilation=2)), "with a dilation"),
        (nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False)), "keep running statistics"),
        (nn.Sequential(nn.Conv2d(2, 2, 3)), "not in scores of classes"),
    ],
)
def test_what_has_no_counterpart_is_named(module: nn.Module, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        convert(module, IMAGE)


def test_a_network_of_the_project_without_a_plan_says_why() -> None:
    with pytest.raises(UsageError, match="OwnContrast"):
        owner.whole(NETWORKS["faces_judge"]((1, 28, 28), 10))


GOOD = {"op": "linear", "weights": [[3, 98], [3]]}


@pytest.mark.parametrize(
    "layer",
    [
        {"op": "eval", "weights": []},
        {"op": ["linear"], "weights": []},
        {"weights": []},
        GOOD | {"more": 1},
        GOOD | {"weights": [[3, 98]]},
        GOOD | {"weights": [[3, 98], [3.0]]},
        GOOD | {"weights": [[3, 98], [0]]},
        GOOD | {"weights": [[3, 98], []]},
        GOOD | {"weights": [[3, 98], [2**40]]},
        {"op": "avgpool", "kernel": [2], "stride": [2, 2], "weights": []},
        {"op": "avgpool", "kernel": [2, True], "stride": [2, 2], "weights": []},
        {"op": "avgpool", "kernel": [2, 0], "stride": [2, 2], "weights": []},
        {"op": "pad", "borders": [[1, 1]], "weights": []},
        {"op": "groupnorm", "groups": 1, "eps": "1", "weights": [[2], [2]]},
    ],
)
def test_a_plan_from_a_stranger_is_checked(layer: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match="layer 1"):
        graph.check([{"op": "flatten", "weights": []}, layer])


def test_layers_that_do_not_fit_are_refused_before_the_engine_sees_them() -> None:
    with pytest.raises(Malformed, match="do not fit"):
        graph.output_classes([GOOD], (7,))
    with pytest.raises(Malformed, match="end in scores"):
        graph.output_classes([{"op": "relu", "weights": []}], (2, 7, 7))
