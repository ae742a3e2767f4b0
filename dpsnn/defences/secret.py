"""Random numbers that nobody can draw again: what the noise and the lots of DP-SGD are made from."""

import os
import secrets
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from dpsnn.batches import derived_bytes
from dpsnn.numbers import Number

BLOCK = 2**18
"""Numbers that one stream gives on a CPU, where each takes one thread."""


class Secret:
    """A key of 256 bits, and as many independent random streams as are asked for, each by its name.

    Streams are derived by SHAKE-256, so that one says nothing about the key or another. Within a stream a generator
    draws that is no cipher: on the CPU numpy's SFC64, seeded from 256 bits of the key, on a GPU torch's Philox with 63.
    Hence every tensor of every step has streams of its own. Lots come from torch's on the CPU, whose whole state is
    made from 256 bits of the key (`keyed_generator`): of a seed it takes 32 bits, which can all be tried.

    Noise is drawn, added and divided in double precision, and rounded once, to 24 bits also where the total has more.
    In single precision torch makes two numbers from one of 2²⁴ radii: some hundred of a million are so large that the
    next radius is far away, and the weights after a single step tell the right guess of what noise was added to from a
    wrong one (Mironov 2012; tests/test_lattice.py). So would all 53 bits, as few of the small numbers can be drawn.

    Copies, unpickled ones and those of forked processes have keys of their own: where two trainings draw the same, the
    difference of their weights has no noise at all.

    Args:
        key: 32 bytes; drawn by the operating system unless given.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self.key = secrets.token_bytes(32) if key is None else key
        if len(self.key) != 32:
            raise ValueError(f"a key of {len(self.key)} bytes, not 32")
        self._process = os.getpid()

    def __reduce__(self) -> tuple[type["Secret"], tuple[()]]:
        return Secret, ()

    def __repr__(self) -> str:
        return "Secret(...)"  # never into a log or a traceback

    def derive(self, length: int, *stream: int) -> bytes:
        """`length` bytes of one stream."""
        if self._process != os.getpid():
            self.key, self._process = secrets.token_bytes(32), os.getpid()
        return derived_bytes(self.key, length, *stream)

    def seed(self, *stream: int) -> int:
        """A seed of 63 bits, for generators that take no more."""
        return int.from_bytes(self.derive(8, *stream), "little") >> 1

    def gaussian(
        self, total: torch.Tensor, spread: Number, *stream: int, over: Number = 1
    ) -> torch.Tensor:
        """`(total + noise) / over`, rounded to 24 bits, laid out as the total; the same however many threads draw.

        Args:
            total: What the noise is added to, `(...)`; it stays as it is.
            spread: Standard deviation of the noise.
            stream: The name of what is drawn; on a CPU every block of it adds its number.
            over: What all is divided by.
        """
        if total.device.type != "cpu":
            numbers = torch.Generator(total.device).manual_seed(self.seed(*stream))
            noise = torch.empty_like(total, dtype=torch.float64).normal_(generator=numbers)
            return noise.mul_(spread).add_(total).div_(over).float().to(total.dtype)
        made = torch.empty(total.shape, dtype=torch.float32)
        values, known = made.view(-1).numpy(), total.detach().reshape(-1).numpy()
        starts = range(0, len(values), BLOCK)

        def draw(number: int) -> None:
            part = slice(starts[number], starts[number] + BLOCK)
            noise = self._numbers(*stream, number).standard_normal(len(values[part]))
            noise *= spread
            noise += known[part]
            noise /= over
            values[part] = noise

        if len(starts) > 1:
            with ThreadPoolExecutor(min(torch.get_num_threads(), len(starts))) as threads:
                list(threads.map(draw, range(len(starts))))
        elif starts:
            draw(0)
        alike = made.stride() == total.stride() and made.dtype == total.dtype
        return made if alike else torch.empty_like(total).copy_(made)

    def _numbers(self, *stream: int) -> np.random.Generator:
        """One stream of double precision, of numpy: it takes half the time of torch's."""
        seed = int.from_bytes(self.derive(32, *stream), "little")
        # Eight words: by itself it mixes what it is given into 128 bits.
        return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, pool_size=8)))
