"""The engine's shares as plain bytes: 16 for each number, and nothing else crosses the wire.

ABY3 (Mohassel & Rindal 2018) splits a number x, in fixed point modulo 2⁶⁴, into x₀ + x₁ + x₂; worker i holds xᵢ and
the next one. Two of the three workers together could rebuild x, one alone holds two uniform numbers. The engine wraps
shares in a description of their own; here it is made from the shape that is *expected*, never taken from a stranger.
"""

import math
import os
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import spu
from jaxtyping import Float
from spu import libspu

from dpsnn.secure.config import PARTIES
from dpsnn.secure.messages import Malformed

BYTES = 16
"""Of a number's share: two words of 64 bits."""


def config() -> libspu.RuntimeConfig:
    """How every party computes: ABY3 in 64 bits, 18 of them behind the point."""
    made = libspu.RuntimeConfig(protocol=libspu.ProtocolKind.ABY3, field=libspu.FieldType.FM64)
    # The engine's default exponential is off by 0.001, this one by 0.0001.
    made.fxp_exp_mode = libspu.RuntimeConfig.EXP_PADE
    return made


def quiet() -> None:
    """Let the engine's library speak of errors only."""
    options = libspu.logging.LogOptions()
    options.log_level = libspu.logging.LogLevel.ERROR
    # Without a path it writes spu.log into the working folder.
    options.system_log_path = os.devnull
    libspu.logging.setup_logging(options)


@lru_cache(1)
def _io() -> spu.Io:
    quiet()
    return spu.Io(PARTIES, config())


def size(shape: Sequence[int]) -> int:
    """Bytes of one worker's share."""
    return BYTES * math.prod(shape)


def split(values: Float[np.ndarray, "..."]) -> list[bytes]:
    """One share for each worker, drawn anew at every call."""
    shares = _io().make_shares(
        np.ascontiguousarray(values, np.float32), libspu.Visibility.VIS_SECRET
    )
    return [unwrap(share) for share in shares]


def join(parts: Sequence[bytes], shape: Sequence[int]) -> Float[np.ndarray, "..."]:
    """The numbers that all workers' shares hide together.

    Raises:
        Malformed: If a share is of the wrong size, or the two copies of a part differ.
    """
    if any(len(part) != size(shape) for part in parts):
        raise Malformed("a share of the wrong size")
    words = [np.frombuffer(part, np.uint64).reshape(-1, 2) for part in parts]
    # Each part is held by two workers: a damaged or forged one shows unless both agree on it.
    if any((a[:, 1] != b[:, 0]).any() for a, b in zip(words, [*words[1:], words[0]])):
        raise Malformed("the workers' shares contradict one another")
    return np.asarray(_io().reconstruct([wrap(part, shape) for part in parts]))


def wrap(part: bytes, shape: Sequence[int]) -> libspu.Share:
    """A share as the engine takes it."""
    chunk = libspu.ValueChunk()
    chunk.total_bytes, chunk.chunk_offset, chunk.content = len(part), 0, part
    made = libspu.Share()
    made.meta, made.share_chunks = _meta(tuple(shape)), [chunk.SerializeToString()]
    return made


def unwrap(share: libspu.Share) -> bytes:
    """The bytes of a share of the engine."""
    content = []
    for raw in share.share_chunks:
        chunk = libspu.ValueChunk()
        chunk.ParseFromString(raw)
        content.append((chunk.chunk_offset, chunk.content))
    return b"".join(part for _, part in sorted(content))


@lru_cache(256)
def _meta(shape: tuple[int, ...]) -> bytes:
    """The engine's description of a share: real numbers, secret, additive, of this shape."""
    meta = libspu.ValueMeta()
    meta.data_type, meta.visibility = libspu.DataType.DT_F32, libspu.Visibility.VIS_SECRET
    meta.storage_type = "aby3.AShr<FM64>"
    meta.shape = list(shape)
    return bytes(meta.SerializeToString())
