"""Random numbers that nobody can draw again: what the noise and the lots of DP-SGD are made from."""

import hashlib
import secrets
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from dpsnn.numbers import Number

WORDS = 624
"""Of 32 bits, in the state of torch's generator on the CPU, the Mersenne Twister MT19937."""

BLOCK = 2**18
"""Numbers that one stream gives on a CPU, where each takes one thread."""


class Secret:
    """A key of 256 bits, and as many independent random streams as are asked for, each by its name.

    Streams are derived by SHAKE-256, so that one says nothing about the key or another. Within a stream torch's own
    generators draw, which are no ciphers. On the CPU the whole state of 19,937 bits comes from the key, but who sees
    some thousand numbers of a stream exactly could compute the others; on a GPU it is Philox with a seed of 64 bits.
    Hence every tensor of every step has streams of its own. Nor does it cure what is known of Gaussian noise in
    floating point (Mironov 2012): its low bits can give a value away to who sees them all.

    Args:
        key: 32 bytes; drawn by the operating system unless given.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self.key = secrets.token_bytes(32) if key is None else key
        if len(self.key) != 32:
            raise ValueError(f"a key of {len(self.key)} bytes, not 32")

    def __repr__(self) -> str:
        return "Secret(...)"  # never into a log or a traceback

    def derive(self, length: int, *stream: int) -> bytes:
        """`length` bytes of one stream."""
        name = struct.pack(f"<{len(stream)}Q", *stream)
        return hashlib.shake_256(self.key + name).digest(length)

    def seed(self, *stream: int) -> int:
        """A seed of 63 bits, for generators that take no more."""
        return int.from_bytes(self.derive(8, *stream), "little") >> 1

    def generator(self, device: torch.device, *stream: int) -> torch.Generator:
        """A generator of one stream, where the numbers are needed."""
        made = torch.Generator(device).manual_seed(self.seed(*stream))
        if device.type == "cpu":
            made.set_state(_with_words(made.get_state(), self.derive(4 * WORDS, *stream)))
        return made

    def gaussian(self, like: torch.Tensor, spread: Number, *stream: int) -> torch.Tensor:
        """Gaussian noise as a tensor is shaped and laid out, the same however many threads draw it.

        Args:
            like: The tensor, `(...)`.
            spread: Standard deviation.
            stream: The name of what is drawn; on a CPU every block of it adds its number.
        """
        drawn = torch.empty(like.shape, dtype=like.dtype, device=like.device)
        if like.device.type != "cpu":
            return drawn.normal_(0, spread, generator=self.generator(like.device, *stream))
        blocks = drawn.view(-1).split(BLOCK)

        def draw(number: int) -> None:
            own = self.generator(like.device, *stream, number)
            blocks[number].normal_(0, spread, generator=own)

        if len(blocks) == 1:
            draw(0)
        else:
            with ThreadPoolExecutor(min(torch.get_num_threads(), len(blocks))) as threads:
                list(threads.map(draw, range(len(blocks))))
        return drawn if drawn.stride() == like.stride() else torch.empty_like(like).copy_(drawn)


def _with_words(state: torch.Tensor, words: bytes) -> torch.Tensor:
    """A freshly seeded state of torch's CPU generator, with other words: they stand from the fourth 64 bits on."""
    layout = state.numpy().copy()
    layout.view(np.uint64)[3 : 3 + WORDS] = np.frombuffer(words, dtype="<u4")
    return torch.from_numpy(layout)
