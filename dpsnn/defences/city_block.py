"""Sums of absolute differences between every two rows, which Laplace noise makes likelihoods of.

torch's own (`torch.cdist(p=1)`) reads every row anew for every other one. Here four rows meet each other row at once
and stay where a processor reads them fastest, which takes about an eighth of the time; `benchmarks/mixture.py` times
the attack that is made of it.
"""

import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dpsnn.compiling import COMPILING, compiles

WORTH = 50_000_000
"""Differences from which on it is worth the half second that the first call compiles, if ten or so follow."""

COMPILED, PLAIN = 0.15, 1.2
"""Nanoseconds, about, that a difference takes on a core, by what is compiled and by torch."""

TOGETHER = 4
"""Rows at once."""


def city_block(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Sums of absolute differences over the values of each two rows, in their precision, on all of torch's threads.

    Few rows, any on a GPU, and those of which a gradient is asked are left to torch, and all where nothing is compiled.
    """
    followed = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
    there = a.device == b.device == torch.device("cpu")
    known = a.dtype == b.dtype and a.dtype in (torch.float, torch.double)
    if there and known and not followed and len(a) * b.numel() >= WORTH and compiles():
        return compiled(a, b)
    return torch.cdist(a, b, p=1)


def pace(differences: int) -> float:
    """Nanoseconds, about, that each of so many differences of values takes on a core."""
    return COMPILED if differences >= WORTH and compiles() else PLAIN


def compiled(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """`city_block` on a CPU, however few rows there are."""
    total = a.new_zeros(len(a), len(b))
    with COMPILING:
        sums = _kernel()
        sums(*(part[:0].detach().contiguous().numpy() for part in (a, b, total)))
    known, made = b.detach().contiguous().numpy(), total.numpy()
    threads = torch.get_num_threads()
    rows = TOGETHER * max(1, -(-len(a) // (TOGETHER * threads)))
    starts = range(0, len(a), rows)
    said = a.detach().contiguous().numpy()
    with ThreadPoolExecutor(threads) as pool:
        for done in [
            pool.submit(sums, said[s : s + rows], known, made[s : s + rows]) for s in starts
        ]:
            done.result()
    return total


@lru_cache
def _kernel() -> Callable[..., None]:
    # Slow to import.
    import numba

    def sums(a: Any, b: Any, total: Any) -> None:
        count, values = a.shape
        whole = count - count % TOGETHER
        for i in range(0, whole, TOGETHER):
            for j in range(len(b)):
                first = second = third = fourth = total[i, j]  # 0, in their precision
                for k in range(values):
                    known = b[j, k]
                    first += abs(a[i, k] - known)
                    second += abs(a[i + 1, k] - known)
                    third += abs(a[i + 2, k] - known)
                    fourth += abs(a[i + 3, k] - known)
                total[i, j] = first
                total[i + 1, j] = second
                total[i + 2, j] = third
                total[i + 3, j] = fourth
        for i in range(whole, count):
            for j in range(len(b)):
                first = total[i, j]
                for k in range(values):
                    first += abs(a[i, k] - b[j, k])
                total[i, j] = first

    # Sums may be taken in any order, which vectors need; infinities and NaN keep their meaning. Checks of types at run
    # time wrap what they check, which is not to be compiled.
    compiler = numba.njit(fastmath={"reassoc", "contract", "nsz"}, nogil=True)
    found: Callable[..., None] = compiler(inspect.unwrap(sums))
    return found
