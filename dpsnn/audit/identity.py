"""What tells a model, and pictures, from others of the same name: digests, compared where names are not enough."""

from collections.abc import Iterable
from hashlib import sha256

import torch
from torch import Tensor, nn


def of_module(module: nn.Module) -> str:
    """Of the kinds of its layers, and of its weights and buffers, byte by byte."""
    made = sha256()
    for name, layer in module.named_modules():
        made.update(f"{name} {type(layer).__qualname__}\n".encode())
    for name, weight in sorted(module.state_dict().items()):
        if isinstance(weight, Tensor):
            made.update(f"{name} {tuple(weight.shape)} {weight.dtype}\n".encode())
            made.update(as_bytes(weight))
    return made.hexdigest()


def of_tensors(parts: Iterable[Tensor]) -> str:
    """Of rows, whatever their order and however they are dealt out: each by itself, then all of them."""
    rows = sorted(sha256(as_bytes(row)).digest() for part in parts for row in part)
    return sha256(b"".join(rows)).hexdigest()


def as_bytes(tensor: Tensor) -> memoryview:
    """Without a copy, where it lies in order on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
