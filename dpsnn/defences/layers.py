"""Gradients of single examples of any layer: a rule where one is known, else torch.func, else one example at a time."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from dpsnn.errors import UsageError

Gradients = dict[Tensor, Tensor]
"""For each parameter of a layer the gradient of every example, `(N, *parameter)`."""


@dataclass
class Call:
    """One use of a layer: what it was given."""

    layer: Any
    inputs: tuple[Any, ...]
    named: dict[str, Any]

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors among the arguments."""
        return tuple(t for t in tree_leaves((self.inputs, self.named)) if isinstance(t, Tensor))

    @property
    def first(self) -> Tensor:
        """What the layer acts on."""
        found: Tensor = self.tensors()[0].detach()
        return found


class LayerGradients:
    """What one layer adds to the gradients of single examples, of which its inputs and outputs hold one row each.

    Args:
        layer: It owns parameters and has no children.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self._shared: set[int] = set()
        """Arguments, by position, that were seen to be no examples: a mask, say."""
        self._vectorised = not isinstance(layer, nn.RNNBase | nn.EmbeddingBag)

    def axis(self, call: Call, position: int) -> int:
        """The axis of the examples in an output: recurrent layers put them second, unless told otherwise."""
        if not isinstance(call.layer, nn.RNNBase):
            return 0
        return 0 if call.layer.batch_first and position == 0 else 1

    def __call__(self, call: Call, position: int, backprops: Tensor) -> Gradients:
        """Gradients from one output, the `position`-th tensor that the layer gave, and what the loss thinks of it.

        Raises:
            UsageError: If the layer lets examples be told apart by no axis, changes its weights, or draws numbers.
        """
        layer = call.layer
        if rule := _rule(layer):
            return {p: g for p, g in rule(layer, call.first, backprops).items() if p is not None}
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag) and (
            layer.max_norm is not None or layer.scale_grad_by_freq
        ):
            raise UsageError(
                f"{type(layer).__name__} with max_norm or scale_grad_by_freq treats an example by what its batch holds,"
                " which voids the guarantee of DP-SGD; leave them out"
            )
        if isinstance(layer, nn.RNNBase) and not isinstance(call.inputs[0], Tensor):
            raise UsageError(
                f"{type(layer).__name__} is given packed sequences, in which examples share rows; give it padded ones,"
                ' or take DPSGD(gradients="single"), one backward pass an example'
            )
        return self._differentiated(call, position, backprops)

    def _differentiated(self, call: Call, position: int, backprops: Tensor) -> Gradients:
        flat, form = tree_flatten((call.inputs, call.named))
        axes = self._axes(call, flat, position, backprops)
        out = self.axis(call, position)
        names = {n: p for n, p in self.layer.named_parameters(recurse=False) if p.requires_grad}
        batched = [t.detach() for t, axis in zip(flat, axes) if axis is not None]
        where = [axis for axis in axes if axis is not None]

        def product(run: Callable[..., Any], backprop: Tensor, *one: Tensor) -> Tensor:
            """What the loss makes of one example's output: linear in it, with the backprop as its slope."""
            rows = iter(t.unsqueeze(axis) for t, axis in zip(one, where))
            given = [
                next(rows) if axis is not None else t.detach() if isinstance(t, Tensor) else t
                for t, axis in zip(flat, axes)
            ]
            inputs, named = tree_unflatten(given, form)
            output: Tensor = tree_leaves(run(*inputs, **named))[position]
            return (output.squeeze(out) * backprop).sum()

        def of_weights(weights: dict[str, Tensor], backprop: Tensor, *one: Tensor) -> Tensor:
            def run(*inputs: Any, **named: Any) -> Any:
                return torch.func.functional_call(self.layer, weights, inputs, named)

            return product(run, backprop, *one)

        if self._vectorised:
            weights = {name: parameter.detach() for name, parameter in names.items()}
            across = torch.func.vmap(torch.func.grad(of_weights), in_dims=(None, out, *where))
            try:
                found = across(weights, backprops, *batched)
                return {names[n]: gradients for n, gradients in found.items()}
            except (RuntimeError, ValueError):
                # The layer does what torch.func cannot vectorise: writes in place, draws, looks at values.
                self._vectorised = False
        given: list[list[Tensor]] = []
        with torch.enable_grad(), _written_back(self.layer):
            for i in range(backprops.shape[out]):
                one = (t.select(axis, i) for t, axis in zip(batched, where))
                value = product(self.layer, backprops.select(out, i), *one)
                own = list(names.values())
                found_here = torch.autograd.grad(value, own, allow_unused=True)
                given.append(
                    [
                        torch.zeros_like(p) if g is None else g.to_dense()
                        for p, g in zip(own, found_here)
                    ]
                )
        return {p: torch.stack(each) for p, each in zip(names.values(), zip(*given))}

    def _axes(
        self, call: Call, flat: list[Any], position: int, backprops: Tensor
    ) -> list[int | None]:
        """For each argument the axis of the examples, or None if all examples share it."""
        examples = backprops.shape[self.axis(call, position)]
        axes: list[int | None] = []
        for place, value in enumerate(flat):
            axis = 0
            if isinstance(call.layer, nn.RNNBase):
                axis = 0 if call.layer.batch_first and place == 0 else 1
            if not isinstance(value, Tensor):
                # Of one call of several: the first state of a cell is none, the next one is of examples.
                axes.append(None)
                continue
            if value.dim() <= axis or value.shape[axis] != examples:
                self._shared.add(place)
            axes.append(None if place in self._shared else axis)
        return axes


@contextlib.contextmanager
def _written_back(layer: nn.Module) -> Iterator[None]:
    """Run a layer again without a trace in its buffers.

    Raises:
        UsageError: If it drew random numbers: they would not be those of the first time.
    """
    buffers = {name: buffer.clone() for name, buffer in layer.named_buffers(recurse=False)}
    before = torch.get_rng_state()
    yield
    with torch.no_grad():
        for name, buffer in layer.named_buffers(recurse=False):
            buffer.copy_(buffers[name])
    if not torch.equal(before, torch.get_rng_state()):
        raise UsageError(
            f"{type(layer).__name__} has weights and draws random numbers, so that the gradient of one example cannot"
            ' be had again; draw in a layer without weights, or take DPSGD(gradients="single")'
        )


# ---------------------------------------------------------------- rules


def _rule(layer: nn.Module) -> Callable[[Any, Tensor, Tensor], dict[Any, Tensor]] | None:
    """What is known of exactly this class; a subclass may compute something else."""
    kind = type(layer)
    if not isinstance(layer.weight if hasattr(layer, "weight") else None, nn.Parameter):
        return None  # made from other parameters, or none
    if kind in (nn.GroupNorm, nn.LayerNorm) or isinstance(layer, _BatchNorm | _InstanceNorm):
        return _normalisation
    if kind is nn.Embedding and layer.max_norm is None and not layer.scale_grad_by_freq:
        return _embedding
    if kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d) and layer.padding_mode == "zeros":
        return _convolution
    return None


def _normalised(layer: Any, values: Tensor) -> Tensor:
    """What the layer gives before scale and shift.

    For batch normalisation in training that is what opacus would give if it allowed it, for studies that trained so:
    only the gradient of scale and shift. That the statistics couple the examples is exactly what it leaves out.
    """
    if isinstance(layer, nn.GroupNorm):
        return F.group_norm(values, layer.num_groups, eps=layer.eps)
    if isinstance(layer, nn.LayerNorm):
        return F.layer_norm(values, layer.normalized_shape, eps=layer.eps)
    mean, variance = layer.running_mean, layer.running_var
    own = layer.training or mean is None or variance is None
    if own:
        mean = variance = None
    if isinstance(layer, _BatchNorm):
        return F.batch_norm(values, mean, variance, training=own, eps=layer.eps)
    return F.instance_norm(values, mean, variance, use_input_stats=own, eps=layer.eps)


def _normalisation(layer: Any, values: Tensor, backprops: Tensor) -> dict[Any, Tensor]:
    product = _normalised(layer, values) * backprops
    if isinstance(layer, nn.LayerNorm):
        shared = tuple(range(1, values.dim() - len(layer.normalized_shape)))
    else:
        shared = tuple(range(2, values.dim()))
    of = {layer.weight: product, layer.bias: backprops}
    return {
        p: (t.sum(shared) if shared else t)
        for p, t in of.items()
        if p is not None and p.requires_grad
    }


def _embedding(layer: nn.Embedding, tokens: Tensor, backprops: Tensor) -> dict[Any, Tensor]:
    rows = tokens.flatten(1) if tokens.dim() > 1 else tokens[:, None]
    slopes = backprops.reshape(*rows.shape, -1)
    if layer.padding_idx is not None:
        slopes = slopes.masked_fill((rows == layer.padding_idx)[..., None], 0.0)
    found = slopes.new_zeros(len(rows), *layer.weight.shape)
    found.scatter_add_(1, rows[..., None].expand_as(slopes), slopes)
    return {layer.weight: found}


def _convolution(layer: Any, images: Tensor, backprops: Tensor) -> dict[Any, Tensor]:
    # Importing opacus takes seconds; only convolutions other than plain ones in two dimensions come here. It takes
    # patches by their strides, as if channels came first; of single pixels any strides are taken for those.
    from opacus.grad_sample.conv import compute_conv_grad_sample

    images = images.flatten().view(images.shape)
    with torch.no_grad():
        found: dict[Any, Tensor] = compute_conv_grad_sample(layer, [images], backprops)
    return found
