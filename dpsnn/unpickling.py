"""Files of `torch.save` with plain values and tensors, read so that nothing runs and nothing outgrows the file.

`torch.load(weights_only=True)` runs nothing either. But it unpacks what it finds, whatever size it claims; it takes the
length of a storage from the pickle, not from the storage, and reads beyond its end; it compares no checksum; and
lists that hold one another many times over cost it nothing, while whoever walks them never returns. So the archive is
opened here, entry by entry, and its pickle may say only what `torch.save` says of such content.
"""

import io
import pickle
import pickletools
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

LARGEST = 2**31
"""Bytes of a file."""
LARGEST_PICKLE = 2**20
"""Bytes of its pickle, which names the tensors and does not hold them: a few kilobytes in truth."""
MOST_VALUES = 50_000
"""Values, those that stand in several places counted in each."""
DEEPEST = 32
"""Containers within one another."""
LONGEST_INT = 2**512
_PART = 2**20

DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "BoolStorage": torch.bool,
}
"""What may be kept: neither complex nor quantised numbers."""

_OPCODES = frozenset(
    "PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE"
    " EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS"
    " GLOBAL REDUCE BUILD BINPERSID BINPUT LONG_BINPUT BINGET LONG_BINGET".split()
)
"""What a pickle of protocol 2 is written in, as far as plain values need it."""


class Forbidden(Exception):
    """The file asks for more than plain values and tensors."""


# ---------------------------------------------------------------- stand-ins for what a pickle names


class _Named(NamedTuple):
    """Something that a pickle names, and may call; a tuple, so that no pickle can alter it."""

    name: str

    def __call__(self, *given: Any) -> Any:
        if self.name not in _CALLED:
            raise Forbidden(self.name)
        return _CALLED[self.name](*given)


class _Storage(NamedTuple):
    key: str
    dtype: torch.dtype
    length: int


class _Described(NamedTuple):
    """A tensor that is yet to be made."""

    storage: Any
    offset: Any
    size: Any
    stride: Any


class _Ordered(dict[Any, Any]):
    """An OrderedDict; that of a module's state says on the side which versions its parts have, all of them today's."""

    def __setstate__(self, state: object) -> None:
        pass


def _ordered() -> _Ordered:
    return _Ordered()


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any) -> _Described:
    return _Described(storage, offset, size, stride)


def _parameter(data: Any, grad: Any, hooks: Any) -> Any:
    return data


def _no_bytes() -> bytes:
    return b""


def _bytes(text: str, code: str) -> bytes:
    return text.encode({"latin1": code}[code])


_CALLED: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "_codecs.encode": _bytes,
    "__builtin__.bytes": _no_bytes,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> _Named:
        known = f"{module}.{name}"
        if known not in _CALLED and not (module == "torch" and name in DTYPES):
            raise Forbidden(known)
        return _Named(known)

    def persistent_load(self, pid: Any) -> _Storage:
        word, kind, key, _, length = pid
        if word != "storage" or type(key) is not str or type(length) is not int:
            raise ValueError("a storage is described wrongly")
        return _Storage(key, DTYPES[kind.name.removeprefix("torch.")], length)


def _unpickled(content: bytes) -> Any:
    if len(content) > LARGEST_PICKLE:
        raise ValueError("its description is too long")
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name not in _OPCODES:
            raise Forbidden(opcode.name)
        # The memo is an array as long as its largest index.
        if opcode.name.endswith("BINPUT") and int(argument or 0) > len(content):
            raise ValueError("its description is wrong")
    return _Unpickler(io.BytesIO(content)).load()


# ---------------------------------------------------------------- the tensors


def overlaps(size: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether elements of such a tensor may share memory, as in one that was expanded."""
    reach = 1
    for step, length in sorted(zip(stride, size)):
        if length > 1:
            if step < reach:
                return True
            reach = step * (length - 1) + reach
    return False


def _short(number: int) -> int:
    if abs(number) >= LONGEST_INT:
        raise ValueError("a number is too large")
    return number


class _Maker:
    """Turns what was unpickled into plain values and tensors."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, limit: int) -> None:
        self.archive, self.folder = archive, folder
        self.storages: dict[str, torch.UntypedStorage] = {}
        self.values, self.bytes = MOST_VALUES, limit

    def made(self, value: Any, depth: int = 0) -> Any:
        self.values -= 1
        if self.values < 0 or depth > DEEPEST:
            raise ValueError("its values are nested too often or too deeply")
        kind = type(value)
        if kind in (dict, _Ordered):
            return {self._key(k): self.made(v, depth + 1) for k, v in value.items()}
        if kind is list:
            return [self.made(v, depth + 1) for v in value]
        if kind is tuple:
            return tuple(self.made(v, depth + 1) for v in value)
        if kind is _Described:
            return self._tensor(value)
        if value is None or kind in (bool, float, str, bytes):
            return value
        if kind is int:
            return _short(value)
        raise Forbidden(kind.__name__)

    def _key(self, key: Any) -> str | int:
        if type(key) not in (str, int):
            raise Forbidden(f"a key of type {type(key).__name__}")
        self.values -= 1
        return key if type(key) is str else _short(key)

    def _tensor(self, described: _Described) -> Tensor:
        storage, offset, size, stride = described
        if type(storage) is not _Storage or type(size) is not tuple or type(stride) is not tuple:
            raise ValueError("a tensor is described wrongly")
        numbers = (offset, *size, *stride)
        if any(type(n) is not int or not 0 <= n <= LARGEST for n in numbers):
            raise ValueError("a tensor is described wrongly")
        if len(size) != len(stride) or overlaps(size, stride):
            raise ValueError("elements of a tensor share memory")
        last = offset + sum((s - 1) * step for s, step in zip(size, stride))
        if 0 not in size and last >= storage.length:
            raise ValueError("a tensor is larger than its storage")
        empty = torch.empty(0, dtype=storage.dtype)
        tensor = empty.set_(self._storage(storage), offset, size, stride)
        self.bytes -= tensor.nbytes
        if self.bytes < 0:
            raise ValueError("its tensors are larger than the file")
        if tensor.dtype == torch.bool and tensor.view(torch.uint8).gt(1).any():
            raise ValueError("a truth value is neither true nor false")
        return tensor

    def _storage(self, storage: _Storage) -> torch.UntypedStorage:
        if storage.key not in self.storages:
            entry = self.archive.getinfo(f"{self.folder}/data/{storage.key}")
            raw = torch.empty(entry.file_size, dtype=torch.uint8)
            view, start = raw.numpy(), 0
            # In parts, which saves a copy of the whole; its checksum is compared at the end.
            with self.archive.open(entry) as content:
                while part := content.read(_PART):
                    view[start : start + len(part)] = np.frombuffer(part, np.uint8)
                    start += len(part)
            self.storages[storage.key] = raw.untyped_storage()
        found = self.storages[storage.key]
        if found.nbytes() != storage.length * storage.dtype.itemsize:
            raise ValueError("a storage has another length than was written")
        return found


def load(path: Path) -> Any:
    """The plain values, and tensors on the CPU, of a file that `torch.save` wrote; an OrderedDict becomes a dict.

    Raises:
        Forbidden: If it asks for anything else.
        Exception: Of any other kind, if it is damaged or too large.
    """
    with open(path, "rb") as file:
        if file.read(2) not in (b"PK", b""):
            raise Forbidden("no archive")
        most = file.seek(0, io.SEEK_END)
        if most > LARGEST:
            raise ValueError(f"{most} bytes are more than the {LARGEST} of the largest")
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if len(set(names)) < len(names):
                raise ValueError("an entry is there twice")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ValueError("it is compressed, which none of these files is")
            if sum(entry.file_size for entry in entries) > most:
                raise ValueError("its entries are larger than the file")
            (folder,) = (n.removesuffix("/data.pkl") for n in names if n.endswith("/data.pkl"))
            if archive.read(f"{folder}/byteorder") != sys.byteorder.encode():
                raise ValueError("its numbers are written for another kind of processor")
            # Tensors may share storages, though hardly any does.
            maker = _Maker(archive, folder, 2 * most)
            return maker.made(_unpickled(archive.read(f"{folder}/data.pkl")))
