"""Cuts read off the graph of a model, as torch.fx traces it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from dpsnn.audit.places import Found, Halves, Place, Whole, is_pointwise, shown
from dpsnn.audit.trial import same
from dpsnn.defences.values import KEEPING, MOVING, RANGES, as_made
from dpsnn.training import seeded

FUNCTIONS: dict[str, nn.Module | None] = {
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "softsign": nn.Softsign(),
    "hardsigmoid": nn.Hardsigmoid(),
    "relu6": nn.ReLU6(),
    **dict.fromkeys(
        ("relu", "relu_", "leaky_relu", "elu", "gelu", "silu", "mish", "selu", "softplus")
    ),
    **dict.fromkeys(("hardtanh", "hardswish", "batch_norm", "layer_norm", "group_norm")),
    **dict.fromkeys(("dropout", "flatten", "view", "reshape", "contiguous", "clone")),
}
"""Functions that compute value by value; those that limit their values, as the layer that does so too."""

PASSING = frozenset(("flatten", "view", "reshape", "contiguous", "clone", "max_pool2d"))
"""Functions behind which values are what they were."""

POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


class _Tracer(fx.Tracer):
    """Remembers what each module gave, at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.gave: dict[str, list[fx.Node | None]] = {}

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        result = super().call_module(m, forward, args, kwargs)
        node = result.node if isinstance(result, fx.Proxy) else None
        self.gave.setdefault(self.path_of_module(m), []).append(node)
        return result


class _Recorder(fx.Interpreter):
    """Remembers what every node gave: the shape of a tensor, and numbers as they are."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.seen: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.seen[n] = _noted(value)
        return value


def _noted(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape if value.is_floating_point() else Tensor
    if isinstance(value, torch.Size):
        return tuple(value)
    return value if isinstance(value, int | tuple | float | str | bool | None) else type(value)


def traced_places(model: Whole, images: Tensor) -> Found | None:
    """Every place of a model, and why its other modules are none; None where it cannot be traced.

    Nor can it where the graph answers otherwise than the model, such as one that draws random numbers of a fixed shape:
    what they were while it was traced would be part of the graph.
    """
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
        module = fx.GraphModule(model, graph)
        seen = []
        for batch in (images, torch.cat([images, images[:1]])):
            recorder = _Recorder(module)
            with torch.no_grad(), seeded(0):
                answer = recorder.run(batch.clone())
            with torch.no_grad(), seeded(0):
                if not same(answer, model(batch.clone())):
                    return None
            seen.append(recorder.seen)
    except Exception:  # Python code that depends on values, or anything that fx does not know
        return None
    return _Reading(module, tracer.gave, seen[0], seen[1], len(images)).found()


class _Reading:
    """One graph with what its nodes gave for n images, and for one more."""

    def __init__(
        self,
        module: fx.GraphModule,
        gave: dict[str, list[fx.Node | None]],
        first: dict[fx.Node, Any],
        second: dict[fx.Node, Any],
        count: int,
    ) -> None:
        self.module, self.first, self.second, self.count = module, first, second, count
        self.nodes = list(module.graph.nodes)
        self.at = {node: number for number, node in enumerate(self.nodes)}
        self.layers = dict(module.named_modules())
        self.gave = gave
        self.names = self._names()

    def found(self) -> Found:
        found, taken = Found(), set()
        last = self._answer()
        before = ""
        for node in self.nodes:
            own = self.names.get(node, [])
            crossing = self._crossing(node)
            if node is last or crossing:
                why = crossing or "it is the whole model, and nothing is left to the server"
                found.refused |= {shown(name): why for name in own}
            if crossing is None or crossing or node is last:
                continue
            called = [shown(name) for name in own] or [self._functional(node, before)]
            before, *aliases = called
            while before in taken:
                before += "_"
            taken.add(before)
            found.places.append(self._place(node, before, aliases))
        for path, nodes in self.gave.items():
            if path and len(nodes) > 1:
                why = f"it is called {len(nodes)} times; name the module around it"
                found.refused[shown(path)] = why
            elif shown(path) and nodes == [None]:
                found.refused[shown(path)] = "its output is not one tensor"
        return found

    def _names(self) -> dict[fx.Node, list[str]]:
        """Node → the modules that give it, called once each, the outermost first."""
        names: dict[fx.Node, list[str]] = {}
        for path, nodes in self.gave.items():
            if path and len(nodes) == 1 and nodes[0] is not None and shown(path):
                names.setdefault(nodes[0], []).append(path)
        return {node: sorted(own, key=len) for node, own in names.items()}

    def _answer(self) -> fx.Node | None:
        (answer,) = self.nodes[-1].args
        return answer if isinstance(answer, fx.Node) else None

    def _crossing(self, node: fx.Node) -> str | None:
        """Why more than this crosses behind it: empty where nothing does; None where it is no candidate."""
        shape = self.first[node]
        if node.op in ("placeholder", "get_attr", "output") or not isinstance(shape, torch.Size):
            return None
        more = self.second[node]
        rows = (shape[0], more[0]) if len(shape) > 1 and isinstance(more, torch.Size) else None
        if rows != (self.count, self.count + 1):
            return "its output has no row for each image"
        at = self.at[node]
        others = [
            other
            for other in self.nodes[:at]
            if other.op != "get_attr" and any(self.at[user] > at for user in other.users)
        ]
        beside = [self._called(each) for each in others if not self._is_known(each)]
        if not node.users or not any(self.at[user] > at for user in node.users):
            return "nothing behind it uses its output"
        if beside:
            return f"a branch or skip connection crosses beside it ({', '.join(beside[:3])})"
        return ""

    def _called(self, node: fx.Node) -> str:
        """As whoever wrote the model knows it: by the outermost module that gives it."""
        if node.op == "placeholder":
            return "the picture"
        return shown(self.names[node][0]) if node in self.names else self._function(node)

    def _is_known(self, node: fx.Node) -> bool:
        """Whether the server knows it without being told: numbers that depend on the count of images alone."""
        return self._constant(node) is not None

    def _constant(self, node: fx.Node) -> Any:
        """What a node gives for any images, `_COUNT` standing for their count; None where that is not known."""
        first, second = self.first[node], self.second[node]
        if node.op == "placeholder" and isinstance(first, torch.Size):
            return None
        if isinstance(first, torch.Size) or isinstance(first, type):
            return None
        return _common(first, second, self.count)

    def _functional(self, node: fx.Node, before: str) -> str:
        name = self._function(node)
        return f"{before}+{name}" if before else name

    def _function(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return shown(str(node.target))
        return str(getattr(node.target, "__name__", node.target)).strip("_")

    def _layer(self, node: fx.Node) -> nn.Module | None:
        return self.layers[str(node.target)] if node.op == "call_module" else None

    def _limiting(self, node: fx.Node) -> nn.Module | None:
        """The layer that limits the values of a node."""
        moved = False
        while True:
            layer = self._layer(node)
            if layer is not None and not as_made(layer):
                return None
            if isinstance(layer, nn.Softmax) and moved:
                # Elsewhere, or of several the largest, they are between 0 and 1 still, and add up to anything.
                return nn.Sigmoid()
            if isinstance(layer, (nn.Hardtanh, *RANGES)):
                return layer
            if layer is None and self._function(node) not in PASSING:
                return FUNCTIONS.get(self._function(node))
            if layer is not None and not isinstance(layer, (*KEEPING, *MOVING)):
                if not _is_within(layer):
                    return None
            moved |= not isinstance(layer, KEEPING)
            node = next(iter(node.all_input_nodes))

    def _is_inner(self, node: fx.Node) -> bool:
        """Whether the only one to use it computes value by value, and is not the answer."""
        users = list(node.users)
        if len(users) != 1 or users[0] is self._answer():
            return False
        layer = self._layer(users[0])
        if layer is not None:
            return is_pointwise(layer)
        simple = users[0].op in ("call_function", "call_method")
        return (
            simple and self._function(users[0]) in FUNCTIONS and len(users[0].all_input_nodes) == 1
        )

    def _place(self, node: fx.Node, name: str, aliases: list[str]) -> Place:
        def halves() -> Halves:
            client, server = self._client(node), self._server(node)
            return Halves(client, server, [*client.parameters()], [*server.parameters()])

        layer = self._layer(node)
        return Place(
            name,
            type(layer).__name__ if layer is not None else self._function(node),
            halves,
            self._limiting(node),
            tuple(aliases),
            self._is_inner(node) or (layer is None and not self._has_weights(node)),
        )

    def _has_weights(self, node: fx.Node) -> bool:
        """Whether any layer that has weights comes before it, or is it."""
        before = [self._layer(each) for each in self.nodes[: self.at[node] + 1]]
        return any(layer is not None and [*layer.parameters()] for layer in before)

    def _client(self, node: fx.Node) -> fx.GraphModule:
        graph = fx.Graph()
        known: dict[fx.Node, fx.Node] = {}
        for each in self.nodes[: self.at[node] + 1]:
            known[each] = graph.node_copy(each, lambda given: known[given])
            if each.op == "placeholder":
                # Layers that work in place must not change what they are shown.
                known[each] = graph.call_method("clone", (known[each],))
        graph.output(known[node])
        return fx.GraphModule(self.module, graph)

    def _server(self, node: fx.Node) -> fx.GraphModule:
        graph = fx.Graph()
        smashed = graph.placeholder("smashed")
        known: dict[fx.Node, Any] = {node: graph.call_method("clone", (smashed,))}

        def given(each: fx.Node) -> Any:
            if each not in known:
                if each.op == "get_attr":
                    known[each] = graph.node_copy(each)
                else:
                    count = graph.call_method("size", (smashed, 0))
                    known[each] = _filled(self._constant(each), count)
            return known[each]

        for each in self.nodes[self.at[node] + 1 :]:
            known[each] = graph.node_copy(each, given)
        return fx.GraphModule(self.module, graph)


def _is_within(layer: nn.Module) -> bool:
    """Whether what it gives lies between what it is given: the largest of some, or their mean, zeros not counted in."""
    if isinstance(layer, nn.AvgPool2d):
        padded = layer.padding not in (0, (0, 0)) and layer.count_include_pad
        return layer.divisor_override is None and not padded
    return isinstance(layer, POOLS)


_COUNT = object()


def _common(first: Any, second: Any, count: int) -> Any:
    """What two runs agree on, `_COUNT` for the number of images; None where they do not."""
    if isinstance(first, tuple) and isinstance(second, tuple) and len(first) == len(second):
        parts = tuple(_common(a, b, count) for a, b in zip(first, second))
        return None if None in parts else parts
    if type(first) is int and first == count and second == count + 1:
        return _COUNT
    return first if type(first) in (int, float, str, bool) and first == second else None


def _filled(constant: Any, count: fx.Node) -> Any:
    if isinstance(constant, tuple):
        return tuple(_filled(each, count) for each in constant)
    return count if constant is _COUNT else constant
