"""Batches from tensors that stay where they are: no workers, no copies, no per-image transforms."""

import hashlib
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


def derived_seed(seed: int, *streams: int) -> int:
    """A 63-bit seed for one of many independent random streams, for instance `(seed, epoch)`.

    SplitMix64's finaliser: neighbouring inputs give unrelated generators.
    """
    mask = (1 << 64) - 1
    state = seed & mask
    for stream in streams:
        state = (state + 0x9E3779B97F4A7C15 * (stream + 1)) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state >> 1


def derived_bytes(key: bytes, length: int, *streams: int) -> bytes:
    """`length` bytes of one of many independent streams of a key, by SHAKE-256: none says anything about another."""
    name = struct.pack(f"<{len(streams)}Q", *streams)
    return hashlib.shake_256(key + name).digest(length)


def keyed_generator(key: bytes, *streams: int) -> torch.Generator:
    """One of many independent generators on the CPU that nobody has without the whole key.

    `manual_seed` takes 32 bits of its seed there, and whoever tries all of them has every number: hence all 624 words
    of the generator's state are made from the key.
    """
    words = np.frombuffer(derived_bytes(key, 4 * 624, *streams), "<u4")
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    # Behind 24 bytes that say that new numbers are to be made from the words, which are kept in eight bytes each.
    state.numpy()[24 : 24 + 8 * 624].view(np.uint64)[:] = words
    return generator.set_state(state)


def to_unit(tensor: Tensor) -> Tensor:
    """Bytes become float32 in [0, 1]; anything else passes unchanged."""
    return tensor.float().div_(255) if tensor.dtype == torch.uint8 else tensor


def average(heard: Iterable[Tensor]) -> Tensor:
    """The mean of several transmissions, added up one after another as they come."""
    total, count = None, 0
    for smashed in heard:
        total, count = smashed if total is None else total + smashed, count + 1
    assert total is not None, "an image is sent once at least"
    return total / count if count > 1 else total


class Share(NamedTuple):
    """Which rows of every batch are this process's, where several train one model."""

    rank: int = 0
    """From 0."""
    of: int = 1
    """Processes."""

    def rows(self, count: int) -> slice:
        """Its own of so many rows, at most one more than another's.

        Where none are left for it, the first: every process takes every step, and `weight` says that it does not count.
        """
        start, stop = self._bounds(count)
        return slice(start, stop) if start < stop else slice(0, 1)

    def weight(self, count: int) -> float:
        """What its mean over own rows is to be multiplied by, for the mean over processes to be that over all rows."""
        start, stop = self._bounds(count)
        return (stop - start) * self.of / count

    def _bounds(self, count: int) -> tuple[int, int]:
        return count * self.rank // self.of, count * (self.rank + 1) // self.of


class TensorBatches:
    """Iterate over the rows of resident tensors, in order or shuffled anew.

    Args:
        tensors: Tensors `(N, ...)` of equal N, on any one device. uint8 ones are pixels and come out in [0, 1].
        batch_size: Rows per batch; the last batch may be smaller.
        shuffle_seed: Seed of this pass's permutation; None keeps the order. The permutation is drawn on the CPU, so it
            is the same on every device.
        passes: How often to go through all rows, each time in another order.
        share: Which rows of each batch to give; the batches and their order are those of all processes.

    Yields:
        A tuple with one batch of each tensor.
    """

    def __init__(
        self,
        *tensors: Tensor,
        batch_size: int,
        shuffle_seed: int | None = None,
        passes: int = 1,
        share: Share = Share(),
    ) -> None:
        if len({len(t) for t in tensors}) != 1:
            raise ValueError(f"tensors differ in length: {[len(t) for t in tensors]}")
        self.tensors = tensors
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.passes = passes
        self.share = share

    def __len__(self) -> int:
        return self.passes * -(-len(self.tensors[0]) // self.batch_size)

    def weight(self, index: int) -> float:
        """`Share.weight` in the batch of this number, from 0."""
        before = index % (len(self) // self.passes) * self.batch_size
        return self.share.weight(min(self.batch_size, len(self.tensors[0]) - before))

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        n, device = len(self.tensors[0]), self.tensors[0].device
        if self.shuffle_seed is None:
            for start in list(range(0, n, self.batch_size)) * self.passes:
                batch = range(n)[start : start + self.batch_size]
                own = batch[self.share.rows(len(batch))]
                yield tuple(to_unit(t[own.start : own.stop]) for t in self.tensors)
            return
        generator = torch.Generator().manual_seed(self.shuffle_seed)
        for _ in range(self.passes):
            order = torch.randperm(n, generator=generator).to(device)
            for batch in order.split(self.batch_size):
                rows = batch[self.share.rows(len(batch))]
                yield tuple(to_unit(t[rows]) for t in self.tensors)


def poisson_lots(examples: int, batch_size: int) -> tuple[float, int]:
    """How Poisson sampling draws lots of `batch_size` examples on average.

    Returns:
        The rate at which each example takes part in a lot, and lots of an epoch: as many as there are batches without
        sampling, so that an epoch may show a little more than every example on average.
    """
    return batch_size / examples, -(-examples // batch_size)


class PoissonBatches:
    """Iterate over lots in which every row takes part by itself with the same probability; a lot may be empty.

    Args:
        tensors: As of `TensorBatches`.
        batch_size: Rows of a lot on average.
        seed: Seed of the draws, made on the CPU, other ones in every pass; whoever knows it knows which rows took part.
            A key in bytes is one that nobody can try, and rates are then kept to 53 bits rather than 24, of which one
            of a million differs by a hundredth.

    Yields:
        A tuple with one batch of each tensor; as many tuples as `TensorBatches` gives batches.

    Raises:
        ValueError: If the tensors differ in length or lots would be larger than they.
    """

    def __init__(self, *tensors: Tensor, batch_size: int, seed: int | bytes) -> None:
        self._all = TensorBatches(*tensors, batch_size=batch_size)
        self.population = len(tensors[0])
        if batch_size > self.population:
            raise ValueError(f"lots of {batch_size} from {self.population} rows")
        self.sample_rate, self._lots = poisson_lots(self.population, batch_size)
        self.tensors, self.seed, self._passes = tensors, seed, 0

    def __len__(self) -> int:
        return self._lots

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        # The same lots twice would be no amplification by sampling.
        precision = torch.float32
        if isinstance(self.seed, bytes):
            generator, precision = keyed_generator(self.seed, self._passes), torch.float64
        else:
            seed = derived_seed(self.seed, self._passes) if self._passes else self.seed
            generator = torch.Generator().manual_seed(seed)
        self._passes += 1
        for _ in range(len(self)):
            numbers = torch.rand(self.population, generator=generator, dtype=precision)
            drawn = numbers < self.sample_rate
            rows = drawn.nonzero().squeeze(1).to(self._all.tensors[0].device)
            yield tuple(to_unit(t[rows]) for t in self._all.tensors)
