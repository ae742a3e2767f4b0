"""What tells a model, and pictures, from others of the same name: digests, compared where names are not enough.

Code has no digest: whoever has the same weights and other code is told by what is answered.
"""

from collections.abc import Iterable
from hashlib import sha256

import torch
from torch import Tensor, nn

from dpsnn.audit.trial import probes
from dpsnn.training import seeded


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


@torch.no_grad()
def answers(model: nn.Module, image_shape: tuple[int, ...]) -> list[float]:
    """What a model answers to the images that models are tried with: a weighted sum of each one's scores."""
    with seeded(0):
        given = model(probes(image_shape)).double().flatten(1)
    weights = torch.randn(given.shape[1], generator=torch.Generator().manual_seed(0)).double()
    return [float(each) for each in given @ weights]


def of_tensors(parts: Iterable[Tensor]) -> str:
    """Of rows, whatever their order and however they are dealt out: each by itself, then all of them."""
    return of_marks(mark(row) for part in parts for row in part)


def of_marks(marks: Iterable[bytes]) -> str:
    """Of digests, in whatever order."""
    return sha256(b"".join(sorted(marks))).hexdigest()


def mark(row: Tensor) -> bytes:
    """A digest of one row."""
    return sha256(as_bytes(row)).digest()


def as_bytes(tensor: Tensor) -> memoryview:
    """Without a copy, where it lies in order on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
