"""Gradients of single examples in one backward pass: their norms first, then the sum of what clipping leaves of them.

Where a layer's weight gradient of one example is an outer product, its norm is known without forming it (ghost norms,
Goodfellow 2015, arXiv 1510.01799), and the clipped sum is one matrix product of the tensors that the backward pass has
at hand anyway (book-keeping, Bu et al. 2023, arXiv 2210.00038). The backward pass itself forms no gradient of such a
weight, so that the whole costs little more than training without privacy.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_unflatten

from dpsnn.defences.layers import Call, LayerGradients
from dpsnn.errors import UsageError

IN_CACHE = 2**21
"""Values of image patches that are laid out at once: few enough to stay in the processor's cache."""

LARGE = 2**18
"""Values of the patches of one example above which they are not laid out at all."""

TOGETHER = 2**20
"""Values that examples which are groups of one convolution hold, before and behind it."""

SEVERAL, HEAVY = 5, 2.5
"""Channels that a kernel sees at least, and weights for each value of an example at most, for it to be a group."""

BLOCK = 2**12
"""Values whose squares are added up one after another."""

MANY = 2**10
"""Examples whose gradients are added up in single precision."""


class Explicit:
    """What one use of a parameter adds to the gradient of every example, formed.

    Args:
        gradients: `(N, *parameter)`.
        factor: By which they are to be multiplied; not before they are needed, as they may be many.
    """

    def __init__(self, gradients: Tensor, factor: int = 1) -> None:
        self.gradients, self.factor = gradients, factor

    def squared_norms(self) -> Tensor:
        """Squared L2 norm of each example's gradient, `(N,)`."""
        return (_norms(self.gradients.flatten(1)) * self.factor).square()

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Sum over examples of `weights[i]` times the gradient of example i, shaped like the parameter."""
        rows, weights = self.gradients.flatten(1), weights * self.factor
        total = _summed(len(rows), lambda part: weights[part] @ rows[part])
        return total.view(self.gradients.shape[1:])

    def explicit(self) -> Tensor:
        """The gradient of every example."""
        return self.gradients * self.factor

    def times(self, factor: int) -> "Explicit":
        """All gradients multiplied."""
        return Explicit(self.gradients, self.factor * factor)


def _summed(examples: int, of: Callable[[slice], Tensor]) -> Tensor:
    """A sum over examples, in double precision where they are many.

    Each addition is rounded, and with one example more others may be rounded the other way: in single precision one of
    131,072 adds up to 1.008 of its norm (Casacuberta et al. 2022, arXiv 2207.10635), of 1,024 up to 1.0001.
    """
    if examples <= MANY:
        return of(slice(None))
    parts = [slice(first, first + MANY) for first in range(0, examples, MANY)]
    total = of(parts[0]).double()
    for part in parts[1:]:
        total += of(part)
    return total


def _norms(rows: Tensor) -> Tensor:
    """L2 norm of each row, `(N,)`: of blocks, and then of theirs.

    torch adds the squares of a row up in a few numbers of single precision, one after another: of a million values a
    thousandth of the norm may get lost, by which clipping would allow more than is accounted for.
    """
    if rows.shape[1] <= BLOCK:
        norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
        return norms
    whole = rows.shape[1] // BLOCK * BLOCK
    blocks, rest = rows[:, :whole].unflatten(1, (-1, BLOCK)), rows[:, whole:].unsqueeze(1)
    parts = [torch.linalg.vector_norm(each, dim=2) for each in (blocks, rest)]
    norms = torch.linalg.vector_norm(torch.cat(parts, 1), dim=1)
    return norms


class OuterProduct:
    """The same of a linear layer's weight, not formed: `outer(backprop, input)`."""

    def __init__(self, inputs: Tensor, backprops: Tensor) -> None:
        self.inputs, self.backprops = inputs, backprops

    def squared_norms(self) -> Tensor:
        return self.inputs.square().sum(1) * self.backprops.square().sum(1)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        weighted = self.backprops * weights[:, None]
        return _summed(len(weights), lambda part: weighted[part].T @ self.inputs[part])

    def explicit(self) -> Tensor:
        return torch.einsum("no,ni->noi", self.backprops, self.inputs)

    def times(self, factor: int) -> "OuterProduct":
        return OuterProduct(self.inputs, self.backprops * factor)


Contribution = Explicit | OuterProduct

Given = Callable[[Tensor, Contribution], None]


def _linear(layer: nn.Linear, inputs: Tensor, backprops: Tensor, give: Given) -> None:
    if inputs.dim() == 2:
        weight: Contribution = OuterProduct(inputs, backprops)
        bias = backprops
    else:
        # Positions of a sequence share the weight: an example's gradient is a sum of outer products.
        i, o = (t.flatten(1, -2) for t in (inputs, backprops))
        weight = Explicit(torch.bmm(o.mT, i))
        bias = o.sum(1)
    give(layer.weight, weight)
    if layer.bias is not None:
        give(layer.bias, Explicit(bias))


def _conv2d(layer: nn.Conv2d, inputs: Tensor, backprops: Tensor, give: Given) -> None:
    give(layer.weight, Explicit(_conv2d_gradients(layer, inputs, backprops)))
    if layer.bias is not None:
        give(layer.bias, Explicit(backprops.sum((2, 3))))


def _conv2d_gradients(layer: nn.Conv2d, inputs: Tensor, backprops: Tensor) -> Tensor:
    """`(N, *weight)`: each example's image patches times its backprops.

    Forming these is as much work as the gradient of the batch; ghost norms would compare all pairs of positions. Where
    the patches of one example are many, laying them out costs more than to ask for its gradient alone. Where they are
    fewer, it is mostly the fastest; but where a kernel sees several channels of large feature maps, to ask for several
    examples as groups of one convolution is faster still. That copies the weight for each, and takes longer where the
    weight is large beside what it sees.
    """
    gradients = inputs.new_empty(len(inputs), *layer.weight.shape)
    seen, positions = layer.weight.shape[1:].numel(), backprops.shape[2:].numel()
    patch_values = seen * layer.groups * positions
    held = inputs.shape[1:].numel() + backprops.shape[1:].numel()
    alone = patch_values > LARGE
    if alone or _worth_groups(layer.weight, held):
        chunk = 1 if alone else max(1, TOGETHER // held)
        for start in range(0, len(inputs), chunk):
            part = slice(start, start + chunk)
            gradients[part] = _as_groups(layer, inputs[part], backprops[part])
        return gradients
    chunk = max(1, IN_CACHE // patch_values)
    for start in range(0, len(inputs), chunk):
        part = slice(start, start + chunk)
        patches = _patches(layer, inputs[part])
        if layer.groups == 1 and seen <= len(layer.weight):
            # Small products of a view, whether channels come first or last: nothing is copied.
            outputs = backprops[part].movedim(1, -1).flatten(1, 2)
            found = torch.bmm(patches, outputs).mT
        else:
            outputs = backprops[part].reshape(len(patches), -1, positions)
            found = torch.bmm(outputs, patches.mT)
        gradients[part] = found.reshape(-1, *layer.weight.shape)
    return gradients


def _worth_groups(weight: Tensor, held: int) -> bool:
    spread = weight.shape[2:].numel() > 1  # or patches are the image itself
    return spread and weight.shape[1] >= SEVERAL and weight.numel() <= HEAVY * held


def _as_groups(layer: nn.Conv2d, inputs: Tensor, backprops: Tensor) -> Tensor:
    """The same, by one convolution of a single image that has the channels of all, each example's in groups of their
    own."""
    weight, examples = layer.weight, len(inputs)
    if examples == 1:
        return _backward(layer, inputs, backprops, weight, 1)[None]
    repeated = weight.expand(examples, *weight.shape).flatten(0, 1)
    before, behind = (each.reshape(1, -1, *each.shape[2:]) for each in (inputs, backprops))
    return _backward(layer, before, behind, repeated, 1, examples).view(examples, *weight.shape)


def _backward(
    layer: nn.Conv2d,
    inputs: Tensor,
    backprops: Tensor,
    weight: Tensor,
    wanted: int,
    examples: int = 1,
) -> Tensor:
    """Gradient of a convolution with respect to its inputs (0) or its weight (1), of as many examples side by side."""
    mask = (wanted == 0, wanted == 1, False)
    gradients = torch.ops.aten.convolution_backward(
        backprops, inputs, weight, None, layer.stride, layer.padding, layer.dilation,
        False, (0, 0), examples * layer.groups, mask,
    )  # fmt: skip
    return gradients[wanted]


def _patches(layer: nn.Conv2d, inputs: Tensor) -> Tensor:
    """What the kernel sees at each position: `(N·groups, channels/groups·kernel, positions)`.

    A strided view that is copied once; `unfold` takes three times as long.
    """
    (kh, kw), (sh, sw), (dh, dw) = layer.kernel_size, layer.stride, layer.dilation
    ph, pw = (int(p) for p in layer.padding)
    images = F.pad(inputs, (pw, pw, ph, ph)).contiguous()
    n, channels, height, width = images.shape
    rows = (height - dh * (kh - 1) - 1) // sh + 1
    columns = (width - dw * (kw - 1) - 1) // sw + 1
    by_image, by_channel, by_row, by_column = images.stride()
    view = images.as_strided(
        (n, channels, kh, kw, rows, columns),
        (by_image, by_channel, by_row * dh, by_column * dw, by_row * sh, by_column * sw),
    )
    return view.reshape(n * layer.groups, -1, rows * columns)


class _Watched(torch.autograd.Function):
    """A layer whose backward pass hands over its input and backprop instead of forming gradients of its weights."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, layer: Any, keep: Any
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.layer, ctx.keep = layer, keep
        if isinstance(layer, nn.Linear):
            return F.linear(inputs, weight, bias)
        return F.conv2d(
            inputs, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, backprops: Tensor) -> Any:
        inputs, weight = ctx.saved_tensors
        ctx.keep(ctx.layer, inputs, backprops)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        if isinstance(ctx.layer, nn.Linear):
            return backprops @ weight, None, None, None, None
        to_inputs = _backward(ctx.layer, inputs, backprops, weight, 0)
        return to_inputs, None, None, None, None


def _is_plain(layer: nn.Module) -> bool:
    """Whether `_Watched` knows the layer: exactly these classes, as a subclass may compute something else."""
    if type(layer) not in (nn.Conv2d, nn.Linear) or not isinstance(layer.weight, nn.Parameter):
        return (
            False  # such as one whose weight is made from others before every pass, by weight_norm
        )
    if isinstance(layer, nn.Conv2d):
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return True


def _refuse_autocast(values: Tensor) -> None:
    if torch.is_autocast_enabled(values.device.type):
        raise UsageError(
            "layers run under autocast, where gradients of single examples would be rounded before they are clipped;"
            ' leave autocast out, or take DPSGD(gradients="single"), one backward pass an example'
        )


class PerExampleGradients:
    """Watch the layers of a module and give the gradients of single examples after a backward pass.

    The loss must be a mean (or sum) over examples, each of which depends on its own rows alone.

    Args:
        module: Its trainable parameters must all belong to layers that take tensors `(N, ...)`; see `layers.py` for
            those that are not linear or convolutions.
        mean: Whether the loss is the mean over examples, not their sum.
        explicit: Form the gradients of all examples, as opacus' hooks do: slow, for comparison.

    Raises:
        UsageError: If a trainable parameter belongs to no layer for which single gradients can be had.
    """

    def __init__(self, module: nn.Module, *, mean: bool = True, explicit: bool = False) -> None:
        self.mean = mean
        self.explicit = explicit
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.names: dict[Tensor, str] = {p: name for name, p in module.named_parameters()}
        self.layers = list(_layers(module))
        self.weighing = False
        """Whether to note in `sizes` how large the numbers were that were added up."""
        self.sizes: dict[Tensor, Tensor] = {}
        """For each parameter and example a bound on the L1 norm of what its gradient was added up from, `(N,)`."""
        self._rules = {layer: LayerGradients(layer) for layer in self.layers}
        self._given: dict[Tensor, list[Contribution]] = {}
        self._undo: list[Callable[[], None]] = []
        self._busy = False  # a layer is run again to differentiate it

    # ------------------------------------------------------------ watching

    def attach(self) -> None:
        """Start watching."""
        for layer in self.layers:
            if _is_plain(layer) and not self.explicit and layer.weight.requires_grad:
                self._replace_forward(layer)
            else:
                handle = layer.register_forward_hook(
                    self._watch_outputs, prepend=True, with_kwargs=True
                )  # others see the outputs that are watched
                self._undo.append(handle.remove)

    def detach(self) -> None:
        """Stop watching and leave the layers as they were."""
        while self._undo:
            self._undo.pop()()
        self.clear()

    def _replace_forward(self, layer: Any) -> None:
        original = layer.forward

        def forward(input: Tensor) -> Tensor:  # named as torch names it
            if not torch.is_grad_enabled():
                return original(input)
            _refuse_autocast(input)
            return _Watched.apply(input, layer.weight, layer.bias, layer, self._keep)

        layer.forward = forward
        self._undo.append(lambda: layer.__dict__.pop("forward"))

    def _watch_outputs(
        self, layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], outputs: Any
    ) -> Any:
        if self._busy or not torch.is_grad_enabled():
            return outputs
        call = Call(layer, inputs, named)
        _refuse_autocast(call.first)
        given, form = tree_flatten(outputs)
        learnt = [isinstance(output, Tensor) and output.requires_grad for output in given]
        if sum(learnt) > 1:
            # One may be made of another, as the state of an LSTM cell of its memory, which would be told of both.
            given = [output.clone() if told else output for output, told in zip(given, learnt)]
            outputs = tree_unflatten(given, form)
        for position, (output, told) in enumerate(zip(given, learnt)):
            if told:
                output.register_hook(
                    lambda backprops, position=position: self._keep_of(call, position, backprops)
                )
        return outputs

    def _keep(self, layer: Any, inputs: Tensor, backprops: Tensor) -> None:
        """What the rules above give for a plain layer."""
        inputs, backprops = inputs.detach(), backprops.detach()
        self._note_sizes(layer, (inputs,), backprops, 0)
        rule: Any = _linear if isinstance(layer, nn.Linear) else _conv2d
        rule(layer, inputs, backprops, lambda p, c: self._give(p, c, len(backprops)))

    def _keep_of(self, call: Call, position: int, backprops: Tensor) -> None:
        """What any other layer gives for one of its outputs."""
        rule = self._rules[call.layer]
        self._note_sizes(call.layer, call.tensors(), backprops, rule.axis(call, position))
        self._busy = True
        try:
            gradients = rule(call, position, backprops.detach())
        finally:
            self._busy = False
        for parameter, of_examples in gradients.items():
            self._give(parameter, Explicit(of_examples), len(of_examples))

    def _give(self, parameter: Tensor, contribution: Contribution, examples: int) -> None:
        # The mean divided every example's loss by their number. Gradients are smaller than what they are made of.
        if parameter.requires_grad:
            scaled = contribution.times(examples if self.mean else 1)
            self._given.setdefault(parameter, []).append(scaled)

    def _note_sizes(
        self, layer: nn.Module, inputs: tuple[Tensor, ...], backprops: Tensor, axis: int
    ) -> None:
        if not self.weighing:
            return
        each = backprops.detach().abs().movedim(axis, 0).flatten(1).sum(1)
        if self.mean:
            each = each * len(each)
        largest = [float(t.abs().max()) for t in inputs if t.is_floating_point() and t.numel()]
        each = each * max(1.0, *largest) if largest else each
        for parameter in layer.parameters(recurse=False):
            before = self.sizes.get(parameter)
            fits = before is not None and len(before) == len(each)
            self.sizes[parameter] = before + each if fits and before is not None else each

    # ------------------------------------------------------------ asking

    def _whole(self) -> Iterator[tuple[Tensor, Contribution]]:
        """One contribution per parameter: those of a layer that was used several times are added up."""
        for parameter, contributions in self._given.items():
            if len(contributions) > 1:
                total = sum((c.explicit() for c in contributions[1:]), contributions[0].explicit())
                self._given[parameter] = [Explicit(total)]
            yield parameter, self._given[parameter][0]

    def unwatched(self) -> list[str]:
        """Names of parameters that the last backward pass reached by another way than through their layer."""
        return [
            self.names[p] for p in self.parameters if p.grad is not None and p not in self._given
        ]

    def norms(self) -> Tensor:
        """L2 norm of the gradient of each example over all parameters, `(N,)`.

        Raises:
            UsageError: If a layer saw something else than one row per example, or the loss reached no parameter.
        """
        squares = {parameter: c.squared_norms() for parameter, c in self._whole()}
        rows = {len(square): self.names[parameter] for parameter, square in squares.items()}
        if len(rows) > 1:
            raise UsageError(
                f"layers see different numbers of rows ({', '.join(f'{n} at {p}' for n, p in rows.items())});"
                " the first axis must be the examples throughout, or take"
                ' DPSGD(gradients="single"), one backward pass an example'
            )
        if not squares:
            raise UsageError("the loss depends on no parameter that is trained; unfreeze one")
        return torch.stack(list(squares.values())).sum(0).sqrt()

    def weighted_sum(self, weights: Tensor) -> dict[Tensor, Tensor]:
        """For each parameter the sum over examples of `weights[i]` times the gradient of example i."""
        return {parameter: c.weighted_sum(weights) for parameter, c in self._whole()}

    def clear(self) -> None:
        """Forget the last backward pass."""
        self._given.clear()
        self.sizes.clear()


class OneByOne(PerExampleGradients):
    """The same interface for any module at all, of which every backward pass must be given one example: slow."""

    def __init__(self, module: nn.Module) -> None:
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.names = {p: name for name, p in module.named_parameters()}
        self.weighing, self.sizes = False, {}
        self._given, self._undo = {}, []

    def attach(self) -> None:
        """Nothing to watch: torch's own gradients are those of the example."""

    def unwatched(self) -> list[str]:
        return []

    def _whole(self) -> Iterator[tuple[Tensor, Contribution]]:
        for parameter in self.parameters:
            if parameter.grad is not None:
                yield parameter, Explicit(parameter.grad.to_dense()[None])


def _layers(module: nn.Module) -> Iterator[Any]:
    """The modules that own trainable parameters.

    Raises:
        UsageError: If one of them has children beside parameters of its own, so that it is no single layer.
    """
    names = {m: name for name, m in module.named_modules()}
    for layer in module.modules():
        own = [n for n, p in layer.named_parameters(recurse=False) if p.requires_grad]
        if own and any(True for _ in layer.children()):
            where = f"{names[layer]}.{own[0]}".lstrip(".")
            raise UsageError(
                f"the gradient of single examples cannot be had for {where}, which stands beside other layers in"
                f" {type(layer).__name__}; move it into a layer of its own or freeze it, or take"
                ' DPSGD(gradients="single"), one backward pass an example'
            )
        if own:
            yield layer
