"""Max pools of two by two for training by one thread: every bit as torch's, in little more than half the time.

torch keeps 64 bits for each value to know where it came from, and clears the gradient of all before it writes that of
one in four. Here the place takes a byte, and everything is written once. The paper's network pools nearly five million
values in a step. Members of a grid have a thread each.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dpsnn.compiling import COMPILING, compiles

WORTH = 500_000_000
"""Values that this process pools by torch before it compiles: as much is lost by then as loading takes what is kept."""

WIDE = 32
"""Channels from which on a processor's vectors are filled, and torch's own is slower."""

PATTERNS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}
"""Precision → integers of its size, as which values are compared: numba knows no bfloat16."""

_pooled = 0


@contextlib.contextmanager
def compiled_pools(module: nn.Module) -> Iterator[None]:
    """Let pools of two by two within the module be compiled ones, once it is worth the while. No value changes."""
    # A part of a function, not a closure: whoever copies or pickles the module meanwhile gets a layer of its own.
    ours = {
        each: partial(_forward, each)
        for each in module.modules()
        if _is_plain(each) and "forward" not in vars(each)
    }
    for layer, forward in ours.items():
        layer.forward = forward
    try:
        yield
    finally:
        for layer, forward in ours.items():
            if vars(layer).get("forward") is forward:  # and nobody else's
                del layer.forward


def _is_plain(layer: nn.Module) -> bool:
    """Whether it is a pool of pairs as torch brings it."""
    if type(layer) is not nn.MaxPool2d or layer.return_indices:
        return False
    settings = (layer.kernel_size, 2), (layer.stride, 2), (layer.padding, 0), (layer.dilation, 1)
    return all(value in (plain, (plain, plain)) for value, plain in settings)


def _forward(layer: Any, input: Tensor) -> Tensor:  # named as torch names it
    if _watched(input) or not _is_plain(layer) or not _suits(input):
        return nn.MaxPool2d.forward(layer, input)
    pooled: Tensor = _Pool.apply(input)[0]
    return pooled


def _watched(maps: Tensor) -> bool:
    """Whether anybody follows torch's own operations, or what they keep.

    Compilers and tracers do not see what is compiled here. Checkpoints run a layer again and compare what it keeps,
    which is something else from the call on with which it is worth the while.
    """
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or type(maps) is not Tensor
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
    )


def _suits(maps: Tensor) -> bool:
    global _pooled
    if maps.dim() != 4 or maps.dtype not in PATTERNS or maps.device.type != "cpu":
        return False
    if maps.is_neg():
        return False
    n, channels, height, width = maps.shape
    # Several threads of torch's are as fast, and would wait for the one that this takes, or for others beside them.
    if height % 2 or width % 2 or channels < WIDE or torch.get_num_threads() > 1:
        return False
    # Channels last: said by strides, which are known within transformed functions as well.
    by_image, *others = maps.stride()
    if others != [1, width * channels, channels] or n > 1 and by_image != height * others[1]:
        return False
    _pooled += maps.numel()
    return _pooled > WORTH and compiles()


class _Pool(torch.autograd.Function):
    """Maps `(N, C, 2h, 2w)` → the largest of each four, `(N, C, h, w)`, and which of them it is, `(N, h, w, C)`."""

    @staticmethod
    def forward(maps: Tensor) -> tuple[Tensor, Tensor]:
        n, channels, height, width = maps.shape
        pooled = _maps_like(maps, n, channels, height // 2, width // 2)
        chosen = maps.new_empty((n, height // 2, width // 2, channels), dtype=torch.int8)
        choose, _ = _loops(maps.dtype)
        choose(_fours(maps), _rows(pooled), chosen.flatten(0, 1).numpy())
        return pooled, chosen

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        _, chosen = output
        ctx.mark_non_differentiable(chosen)
        ctx.save_for_backward(chosen)
        ctx.save_for_forward(chosen)

    @staticmethod
    def backward(ctx: Any, slopes: Tensor, _: Any) -> Tensor:
        (chosen,) = ctx.saved_tensors
        if not torch.is_grad_enabled():
            # Of many at once, which torch's operations alone take.
            with contextlib.suppress(RuntimeError):
                return _unpooled(slopes, chosen)
        return _followed(slopes, chosen)

    @staticmethod
    def jvp(ctx: Any, slopes: Tensor) -> tuple[Tensor, None]:
        (chosen,) = ctx.saved_tensors
        fours = slopes.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).transpose(-3, -2).flatten(-2)
        return fours.gather(-1, chosen.movedim(-1, -3).unsqueeze(-1).long()).squeeze(-1), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], maps: Tensor) -> tuple[Any, tuple[int, int]]:
        many = maps.movedim(in_dims[0], 0)
        found = _Pool.apply(_laid_out(many.flatten(0, 1)))
        return tuple(each.unflatten(0, many.shape[:2]) for each in found), (0, 0)


def _unpooled(slopes: Tensor, chosen: Tensor) -> Tensor:
    """Gradients of what was pooled, `(N, C, h, w)` → those of the maps: each where its value came from, 0 elsewhere."""
    slopes = _laid_out(slopes)
    n, channels, height, width = slopes.shape
    made = _maps_like(slopes, n, channels, 2 * height, 2 * width)
    _, scatter = _loops(slopes.dtype)
    scatter(_fours(made), _rows(slopes), chosen.flatten(0, 1).numpy())
    return made


def _followed(slopes: Tensor, chosen: Tensor) -> Tensor:
    """The same by torch's operations, of which it knows gradients and transformations."""
    given = slopes.movedim(-3, -1)
    *others, height, width, channels = given.shape
    # Added, as torch does it: zeros below zero become others, and nothing is multiplied by infinity.
    none = given.new_zeros(*others, height, width, 4, channels)
    fours = none.scatter_add(-2, chosen.unsqueeze(-2).long(), given.unsqueeze(-2))
    fours = fours.reshape(*others, height, width, 2, 2, channels).transpose(-4, -3)
    return fours.reshape(*others, 2 * height, 2 * width, channels).movedim(-1, -3)


def _laid_out(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


def _maps_like(maps: Tensor, *shape: int) -> Tensor:
    n, channels, height, width = shape
    # On a CPU, whatever device is the usual one.
    return maps.new_empty((n, height, width, channels)).permute(0, 3, 1, 2)


def _rows(maps: Tensor) -> Any:
    """Bit patterns of maps `(N, C, h, w)`, channels last, as `(N·h, w, C)`."""
    return maps.detach().permute(0, 2, 3, 1).flatten(0, 1).view(PATTERNS[maps.dtype]).numpy()


def _fours(maps: Tensor) -> Any:
    """Bit patterns of maps `(N, C, 2h, 2w)`, channels last, as `(N·h, 2, w, 2, C)`."""
    found = _rows(maps)
    rows, width, channels = found.shape
    return found.reshape(rows // 2, 2, width // 2, 2, channels)


def _loops(precision: torch.dtype) -> tuple[Callable[..., None], Callable[..., None]]:
    """What chooses, and what scatters."""
    with COMPILING:
        return _compiled(torch.iinfo(PATTERNS[precision]).bits)


@lru_cache
def _compiled(bits: int) -> tuple[Callable[..., None], Callable[..., None]]:
    # Slow to import.
    from dpsnn import pool_kernels as kernels

    kind = np.int16 if bits == 16 else np.int32
    codes = kernels.codes(kind)
    none = np.empty((0, 2, 0, 2, 0), kind), np.empty((0, 0, 0), kind), np.empty((0, 0, 0), np.int8)
    for loop in (kernels.choose, kernels.scatter):
        try:
            loop(codes, *none)
        except OSError:  # it is compiled, but there is no room to keep it
            loop(codes, *none)
    return partial(kernels.choose, codes), partial(kernels.scatter, codes)
