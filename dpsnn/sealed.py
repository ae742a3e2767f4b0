"""Files of plain values and tensors that carry a digest of all they say: what is read is what was written."""

import hashlib
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpsnn import unpickling
from dpsnn.errors import UsageError, reading
from dpsnn.manifest import staged

DIGEST = "digest"
"""The entry that seals a file."""


def plain(value: Any) -> Any:
    """The same in plain types alone: dicts, lists, tuples, numbers, text, bytes, and tensors of the CPU without more.

    Raises:
        TypeError: If it is, or holds, anything else.
    """
    if isinstance(value, Tensor):
        if value.dtype not in unpickling.DTYPES.values() or value.layout != torch.strided:
            raise TypeError(f"tensors of {value.dtype}, {value.layout} cannot be kept")
        tensor = value.detach().cpu()
        # Of a view its elements alone.
        return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    if value is None or isinstance(value, bool):
        return value
    kinds: tuple[type, ...] = (int, float, str, bytes)
    for kind in kinds:
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"{type(value).__name__} is no plain value")


def fingerprint(value: Any) -> str:
    """The SHA-256 of plain values: of their types, of all numbers to the last bit, of tensors with dtype and shape.

    Equal values written in another order of a dict's keys differ; how a tensor lies in memory makes no difference.
    """
    total = hashlib.sha256()
    _add(total, value)
    return total.hexdigest()


def _add(total: Any, value: Any) -> None:
    """Every value as a letter for its type, and where it can be of several lengths its length."""
    if isinstance(value, dict):
        total.update(b"d%d:" % len(value))
        for key, item in value.items():
            _add(total, key)
            _add(total, item)
    elif isinstance(value, list | tuple):
        total.update(b"%c%d:" % (b"l" if isinstance(value, list) else b"t", len(value)))
        for item in value:
            _add(total, item)
    elif isinstance(value, Tensor):
        total.update(f"x{value.dtype}{tuple(value.shape)}:".encode())
        total.update(value.contiguous().flatten().view(torch.uint8).numpy())
    elif isinstance(value, float):
        total.update(b"f" + struct.pack("<d", value))
    elif isinstance(value, str | bytes):
        raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
        total.update(b"%c%d:" % (b"b" if isinstance(value, bytes) else b"s", len(raw)))
        total.update(raw)
    else:  # whole numbers, truth values, None: their words differ
        total.update(f"{value!r};".encode())


def write(path: Path, content: dict[str, Any], mode: int = 0o666) -> None:
    """Write a file that appears whole or not at all, sealed by its digest.

    Args:
        path: The file; one of that name is replaced.
        content: Plain values and tensors, or what `plain` can turn into such.
        mode: Permissions, less the umask.
    """
    values = plain(content)
    with staged(path, mode) as temporary:
        torch.save({**values, DIGEST: fingerprint(values)}, temporary)


def read(path: Path, what: str, remedy: str) -> tuple[dict[str, Any], bool]:
    """What `write` wrote, and whether it was sealed; nothing that the file may contain is run.

    Args:
        path: The file.
        what: What it should be, for the line that says that it is not.
        remedy: What to do then.

    Raises:
        UsageError: If it is missing or damaged, above all if its digest is another, or holds more than plain values.
    """
    with reading(path, what, remedy):
        try:
            content = unpickling.load(path)
        except unpickling.Forbidden as error:
            raise UsageError(
                f"{path} is damaged or not {what}: it holds more than tensors and plain values, and is refused: it"
                f" could run code; {remedy}"
            ) from error
        if not isinstance(content, dict):
            raise ValueError("it holds no names")
        is_sealed = DIGEST in content
        if is_sealed and content.pop(DIGEST) != fingerprint(content):
            raise UsageError(f"{path} is damaged: it holds not what was written; {remedy}")
    return content, is_sealed


def fits(module: nn.Module, weights: object) -> bool:
    """Whether these are weights of the module: all of them by name, each of its shape and dtype."""
    own = module.state_dict()
    return (
        isinstance(weights, Mapping)
        and weights.keys() == own.keys()
        and all(
            isinstance(weights[name], Tensor)
            and (weights[name].shape, weights[name].dtype) == (tensor.shape, tensor.dtype)
            for name, tensor in own.items()
        )
    )
