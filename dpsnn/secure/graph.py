"""A plan (see convert.py) as the graph that the engine computes, and checks of plans that came over the wire."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from spu import libspu
from spu.utils import frontend

from dpsnn.secure.messages import Malformed

Array = Any
"""A JAX array or tracer."""

LIMIT = 2**16
"""Of every setting of a layer."""

NUMBERS = 2**26
"""That a layer may take or give for one example; their share is a gibibyte."""


def _conv(x: Array, weights: Sequence[Array], layer: dict[str, Any]) -> Array:
    weight, bias = weights
    y = lax.conv_general_dilated(
        x,
        weight,
        layer["stride"],
        [(p, p) for p in layer["padding"]],
        rhs_dilation=layer["dilation"],
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
        feature_group_count=layer["groups"],
    )
    return y + bias[None, :, None, None]


def _linear(x: Array, weights: Sequence[Array], layer: dict[str, Any]) -> Array:
    weight, bias = weights
    return x @ weight.T + bias


def _affine(x: Array, weights: Sequence[Array], layer: dict[str, Any]) -> Array:
    scale, shift = (w.reshape(1, -1, *[1] * (x.ndim - 2)) for w in weights)
    return x * scale + shift


def _pool(x: Array, layer: dict[str, Any], start: float, merge: Any, borders: Any) -> Array:
    kernel, stride = (1, 1, *layer["kernel"]), (1, 1, *layer["stride"])
    return lax.reduce_window(x, start, merge, kernel, stride, ((0, 0), (0, 0), *borders))


def _max_pool(x: Array, weights: Sequence[Array], layer: dict[str, Any]) -> Array:
    return _pool(x, layer, -jnp.inf, lax.max, list(zip(layer["before"], layer["after"])))


def _avg_pool(x: Array, weights: Sequence[Array], layer: dict[str, Any]) -> Array:
    total = _pool(x, layer, 0.0, lax.add, [(0, 0), (0, 0)])
    return total * (1 / math.prod(layer["kernel"]))


def _pad(x: Array, weights: Sequence[Array], layer: dict[str, Any]) -> Array:
    return jnp.pad(x, ((0, 0), (0, 0), *map(tuple, layer["borders"])))


def _group_norm(x: Array, weights: Sequence[Array], layer: dict[str, Any]) -> Array:
    grouped = x.reshape(len(x), layer["groups"], -1)
    centred = grouped - grouped.mean(2, keepdims=True)
    variance = (centred * centred).mean(2, keepdims=True)
    return _affine((centred * lax.rsqrt(variance + layer["eps"])).reshape(x.shape), weights, layer)


def _relu(x: Array, weights: Sequence[Array], layer: dict[str, Any]) -> Array:
    return jnp.maximum(x, 0)


def _tanh(x: Array, weights: Sequence[Array], layer: dict[str, Any]) -> Array:
    """From the exponential of a negative number, which cannot overflow; the engine's own tanh is off by 0.005."""
    decay = jnp.exp(-2 * jnp.abs(x))
    size = (1 - decay) / (1 + decay)
    return jnp.where(x < 0, -size, size)


def _sigmoid(x: Array, weights: Sequence[Array], layer: dict[str, Any]) -> Array:
    return (_tanh(x / 2, weights, layer) + 1) / 2


def _flatten(x: Array, weights: Sequence[Array], layer: dict[str, Any]) -> Array:
    return x.reshape(len(x), -1)


Operation = Callable[[Array, Sequence[Array], dict[str, Any]], Array]

OPS: dict[str, tuple[Operation, int, dict[str, int]]] = {
    "affine": (_affine, 2, {}),
    "avgpool": (_avg_pool, 0, {"kernel": 2, "stride": 2}),
    "conv": (_conv, 2, {"stride": 2, "padding": 2, "dilation": 2, "groups": 0}),
    "flatten": (_flatten, 0, {}),
    "groupnorm": (_group_norm, 2, {"groups": 0, "eps": 0}),
    "linear": (_linear, 2, {}),
    "maxpool": (_max_pool, 0, {"kernel": 2, "stride": 2, "before": 2, "after": 2}),
    "pad": (_pad, 0, {"borders": 4}),
    "relu": (_relu, 0, {}),
    "sigmoid": (_sigmoid, 0, {}),
    "tanh": (_tanh, 0, {}),
}
"""`op` → what it computes, how many weights it takes, and its settings with the count of numbers in each (0: one)."""


def check(plan: list[dict[str, Any]]) -> list[tuple[int, ...]]:
    """The shapes of the weights that a plan from the wire asks for.

    Raises:
        Malformed: If it has an unknown layer or one with missing, unknown or unfit settings.
    """
    shapes = []
    for position, layer in enumerate(plan):
        op = layer.get("op")
        if not isinstance(op, str) or op not in OPS:
            raise Malformed(f"layer {position} is of an unknown kind")
        _, count, settings = OPS[op]
        if layer.keys() != {"op", "weights", *settings}:
            raise Malformed(f"layer {position} ({op}) with missing or unknown settings")
        if not all(_fits(name, layer[name], length) for name, length in settings.items()):
            raise Malformed(f"layer {position} ({op}) with a wrong setting")
        weights = layer["weights"]
        if not isinstance(weights, list) or len(weights) != count:
            raise Malformed(f"layer {position} ({op}) with a wrong number of weights")
        for size in weights:
            if not isinstance(size, list) or not 1 <= len(size) <= 4 or not all(map(_small, size)):
                raise Malformed(f"layer {position} ({op}) with a weight of a wrong shape")
            shapes.append(tuple(size))
    return shapes


def _small(value: Any, least: int = 1) -> bool:
    return type(value) is int and least <= value <= LIMIT * 16


def _fits(name: str, value: Any, count: int) -> bool:
    if name == "eps":
        return type(value) is float and 0 < value < 1
    least = 0 if name in ("padding", "before", "after", "borders") else 1
    if count == 0:
        return _small(value, least)
    if name == "borders":
        return (
            isinstance(value, list) and len(value) == 2 and all(_fits("after", v, 2) for v in value)
        )
    return isinstance(value, list) and len(value) == count and all(_small(v, least) for v in value)


def forward(plan: Sequence[dict[str, Any]]) -> Callable[..., Array]:
    """The function `(values, *weights) → scores` of a plan."""

    def compute(values: Array, *weights: Array) -> Array:
        left = list(weights)
        for layer in plan:
            operation, count, _ = OPS[layer["op"]]
            own, left = left[:count], left[count:]
            values = operation(values, own, layer)
        return values

    return compute


def output_classes(plan: Sequence[dict[str, Any]], input_shape: Sequence[int]) -> int:
    """How many scores a plan gives for one example; computes shapes, no values.

    Raises:
        Malformed: If its layers do not fit one another.
    """
    left = check(list(plan))
    made = jax.ShapeDtypeStruct((1, *input_shape), np.float32)
    for layer in plan:
        operation, count, _ = OPS[layer["op"]]
        weights = [jax.ShapeDtypeStruct(shape, np.float32) for shape in left[:count]]
        left = left[count:]
        _bounded(made.shape, layer)
        try:
            made = jax.eval_shape(lambda x, w: operation(x, w, layer), made, weights)
        except Exception as error:  # of JAX, whose types are not ours to know
            raise Malformed("layers that do not fit one another") from error
        _bounded(made.shape, {})
    if len(made.shape) != 2:
        raise Malformed("a network that does not end in scores")
    return int(made.shape[1])


def _bounded(shape: Sequence[int], layer: dict[str, Any]) -> None:
    """Raise Malformed if a layer would hold more numbers than any network has, with the borders that it adds."""
    names = ("padding", "before", "after", "borders")
    border = max((np.max(layer[name]) for name in names if name in layer), default=0)
    if math.prod([*shape[:2], *(size + 2 * int(border) for size in shape[2:])]) > NUMBERS:
        raise Malformed(f"a layer of more than {NUMBERS} numbers for one example")


def compile_graph(
    plan: Sequence[dict[str, Any]], batch: int, input_shape: Sequence[int], weight_names: list[str]
) -> libspu.Executable:
    """What the engine runs: inputs `input` and the weights, all secret, output `scores`.

    Raises:
        Malformed: If the engine cannot compile it.
    """
    shapes = [(batch, *input_shape), *check(list(plan))]
    try:
        executable, _ = frontend.compile(
            frontend.Kind.JAX,
            forward(plan),
            [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes],
            {},
            ["input", *weight_names],
            [libspu.Visibility.VIS_SECRET] * len(shapes),
            lambda outputs: ["scores"],
        )
    except (
        Exception
    ) as error:  # of JAX or of the engine's compiler, whose types are not ours to know
        raise Malformed(
            f"the engine cannot compile this network ({type(error).__name__})"
        ) from error
    return executable
