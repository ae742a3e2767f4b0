"""A network of torch modules as a plan and weights: a list of plain layers for the workers, and numbers to share.

The plan is public among owner and workers, for whom the *architecture* is no secret; the weights are. Anything that
can be worked out beforehand from the weights alone (standardisation, batch normalisation) is, and disappears into them.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dpsnn.errors import UsageError
from dpsnn.networks.lenet5 import Pad
from dpsnn.networks.split import Standardise

Layer = dict[str, Any]
"""`op` and its settings: whole numbers, lists of them, and of `groupnorm` an `eps`."""


class Converted(NamedTuple):
    """What the owner hands out: the plan as it is, the weights in shares."""

    plan: list[Layer]
    weights: list[np.ndarray]
    """float32, in the order in which the layers of the plan use them."""
    input_shape: tuple[int, ...]
    """Of one example."""
    classes: int


class _Part(NamedTuple):
    layer: Layer
    weights: list[Tensor]


def convert(module: nn.Module, input_shape: Iterable[int]) -> Converted:
    """A module in evaluation mode as plan and weights.

    Args:
        module: A chain of layers, for instance the server of a SplitNetwork, or `nn.Sequential(client, server)`.
        input_shape: Of one example.

    Raises:
        UsageError: If a layer has no counterpart; the line names it.
    """
    shape = tuple(input_shape)
    parts: list[_Part] = []
    values = torch.zeros(1, *shape)
    with torch.no_grad():
        for name, leaf in _leaves(module, ""):
            convert_one = CONVERTERS.get(type(leaf))
            if convert_one is None:
                raise UsageError(
                    f"layer {name} ({type(leaf).__name__}) cannot be computed encrypted; known are"
                    f" {', '.join(sorted(kind.__name__ for kind in CONVERTERS))}"
                )
            part = convert_one(leaf, values, name)
            if part is not None:
                _append(parts, part)
            values = leaf.eval()(values)
    if values.dim() != 2:
        raise UsageError(
            f"the network ends in values of shape {tuple(values.shape[1:])}, not in scores of classes;"
            " choose an earlier cut"
        )
    for part in parts:
        part.layer["weights"] = [list(weight.shape) for weight in part.weights]
    weights = [weight.detach().float().numpy() for part in parts for weight in part.weights]
    return Converted([part.layer for part in parts], weights, shape, values.shape[1])


def _leaves(module: nn.Module, name: str) -> Iterable[tuple[str, nn.Module]]:
    if isinstance(module, nn.Sequential):
        for child_name, child in module.named_children():
            yield from _leaves(child, f"{name}.{child_name}" if name else child_name)
    else:
        yield name or "itself", module


def _append(parts: list[_Part], part: _Part) -> None:
    """Add a layer, or merge it into the one before where that comes to the same."""
    before = parts[-1] if parts else None
    if before and part.layer["op"] == "affine" and before.layer["op"] in ("conv", "linear"):
        (scale, shift), (weight, bias) = part.weights, before.weights
        aligned = scale.view(-1, *[1] * (weight.dim() - 1))
        parts[-1] = _Part(before.layer, [weight * aligned, bias * scale + shift])
        return
    if before and before.layer["op"] == "affine" and _sees_no_border(part.layer):
        (scale, shift), (weight, bias) = before.weights, part.weights
        columns = [1, -1, *[1] * (weight.dim() - 2)]
        moved = (weight * shift.view(columns)).flatten(1).sum(1)
        parts[-1] = _Part(part.layer, [weight * scale.view(columns), bias + moved])
        return
    parts.append(part)


def _sees_no_border(layer: Layer) -> bool:
    """Whether an affine map before this layer can be merged into it: zeros around an image would be mapped too."""
    if layer["op"] == "conv":
        return not any(layer["padding"]) and layer["groups"] == 1
    return layer["op"] == "linear"


# ---------------------------------------------------------------- one function per kind of layer


def _pair(value: Any) -> list[int]:
    return [int(v) for v in value] if isinstance(value, tuple) else [int(value)] * 2


def _conv(layer: Any, values: Tensor, name: str) -> _Part:
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise UsageError(
            f"layer {name} pads by {layer.padding_mode} {layer.padding}; pad by a number of zeros"
        )
    bias = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias
    made = {
        "op": "conv",
        "stride": _pair(layer.stride),
        "padding": _pair(layer.padding),
        "dilation": _pair(layer.dilation),
        "groups": layer.groups,
    }
    return _Part(made, [layer.weight, bias])


def _linear(layer: Any, values: Tensor, name: str) -> _Part:
    bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias
    return _Part({"op": "linear"}, [layer.weight, bias])


def _max_pool(layer: Any, values: Tensor, name: str) -> _Part:
    if _pair(layer.dilation) != [1, 1]:
        raise UsageError(f"layer {name} pools with a dilation; use none")
    kernel, stride, padding = (
        _pair(value) for value in (layer.kernel_size, layer.stride, layer.padding)
    )
    # ceil_mode: as many windows as torch gives, the last ones reaching over the border.
    windows = layer.eval()(values).shape[2:]
    after = [
        max(0, (count - 1) * step + size - length - before)
        for count, step, size, length, before in zip(
            windows, stride, kernel, values.shape[2:], padding
        )
    ]
    made = {"op": "maxpool", "kernel": kernel, "stride": stride, "before": padding, "after": after}
    return _Part(made, [])


def _avg_pool(layer: Any, values: Tensor, name: str) -> _Part:
    if any(_pair(layer.padding)) or layer.ceil_mode or layer.divisor_override:
        raise UsageError(f"layer {name} averages over a border; use no padding and no ceil_mode")
    made = {"op": "avgpool", "kernel": _pair(layer.kernel_size), "stride": _pair(layer.stride)}
    return _Part(made, [])


def _group_norm(layer: Any, values: Tensor, name: str) -> _Part:
    channels = layer.num_channels
    weight = torch.ones(channels) if layer.weight is None else layer.weight
    bias = torch.zeros(channels) if layer.bias is None else layer.bias
    made = {"op": "groupnorm", "groups": layer.num_groups, "eps": float(layer.eps)}
    return _Part(made, [weight, bias])


def _batch_norm(layer: Any, values: Tensor, name: str) -> _Part:
    if layer.running_var is None:
        raise UsageError(f"layer {name} normalises by the batch at hand; keep running statistics")
    scale = (layer.running_var + layer.eps).rsqrt()
    if layer.weight is not None:
        scale = scale * layer.weight
    shift = -layer.running_mean * scale
    return _Part({"op": "affine"}, [scale, shift if layer.bias is None else shift + layer.bias])


def _standardise(layer: Any, values: Tensor, name: str) -> _Part | None:
    if (layer.mean, layer.std) == (0.0, 1.0):
        return None
    channels = values.shape[1]
    scale = torch.full((channels,), 1 / layer.std)
    return _Part({"op": "affine"}, [scale, torch.full((channels,), -layer.mean / layer.std)])


def _pad(layer: Any, values: Tensor, name: str) -> _Part | None:
    grown = layer(torch.ones_like(values)).sum(dim=(0, 1)) > 0
    borders = []
    for axis in (0, 1):
        inside = grown.any(dim=1 - axis).nonzero()
        borders.append([int(inside[0]), grown.shape[axis] - 1 - int(inside[-1])])
    return _Part({"op": "pad", "borders": borders}, []) if any(map(any, borders)) else None


def _plain(op: str) -> Callable[[Any, Tensor, str], _Part]:
    return lambda layer, values, name: _Part({"op": op}, [])


def _flatten(layer: Any, values: Tensor, name: str) -> _Part | None:
    if (layer.start_dim, layer.end_dim) != (1, -1):
        raise UsageError(f"layer {name} flattens some axes only; flatten all but the first")
    return _Part({"op": "flatten"}, []) if values.dim() > 2 else None


def _nothing(layer: Any, values: Tensor, name: str) -> None:
    """In evaluation mode it changes nothing."""


CONVERTERS: dict[type[nn.Module], Callable[[Any, Tensor, str], _Part | None]] = {
    Pad: _pad,
    Standardise: _standardise,
    nn.AvgPool2d: _avg_pool,
    nn.BatchNorm2d: _batch_norm,
    nn.Conv2d: _conv,
    nn.Dropout: _nothing,
    nn.Flatten: _flatten,
    nn.GroupNorm: _group_norm,
    nn.Identity: _nothing,
    nn.Linear: _linear,
    nn.MaxPool2d: _max_pool,
    nn.ReLU: _plain("relu"),
    nn.Sigmoid: _plain("sigmoid"),
    nn.Tanh: _plain("tanh"),
}
"""Kind of module → its counterpart; None where it does nothing. To add one: a function here and an `op` in graph.py."""
