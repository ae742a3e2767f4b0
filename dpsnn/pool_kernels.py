"""Loops of `pools`. What is compiled of them is kept beside this file, or in the user's cache, for other processes.

Maps are `(N·h, 2, w, 2, C)`, what is pooled of them and which of four it was `(N·h, w, C)`. Values are compared as
integers of their size: numba knows no bfloat16. `codes` are those that depend on the size.
"""

import inspect
from typing import Any

import numba
import numpy as np


def codes(kind: Any) -> Any:
    """By how many bits the sign is shifted out, and the patterns of all bits but it, of infinity, and of minus zero."""
    bits = np.iinfo(kind).bits
    # The exponent of bfloat16 is that of float32.
    return (
        kind(bits - 1),
        kind(2 ** (bits - 1) - 1),
        kind(0x7F80 << bits - 16),
        kind(-(2 ** (bits - 1))),
    )


def _order(pattern: Any, kind: Any, codes: Any) -> Any:
    """An integer that is larger where the number is; that of both zeros is one, that of NaN the largest."""
    to_sign, size, infinity, _ = codes
    found = kind(pattern ^ ((pattern >> to_sign) & size))
    found = kind(0) if found == kind(-1) else found
    return size if (pattern & size) > infinity else found


def _choose(codes: Any, fours: Any, pooled: Any, chosen: Any) -> None:
    kind, size = pooled.dtype.type, codes[1]
    rows, width, channels = pooled.shape
    for row in range(rows):
        for column in range(width):
            a, b = fours[row, 0, column, 0], fours[row, 0, column, 1]
            c, d = fours[row, 1, column, 0], fours[row, 1, column, 1]
            values, places = pooled[row, column], chosen[row, column]
            for k in range(channels):
                value, place = a[k], np.int8(0)
                most = order(value, kind, codes)
                for_b, for_c = order(b[k], kind, codes), order(c[k], kind, codes)
                for_d = order(d[k], kind, codes)
                more = (for_b > most) | (for_b == size)
                value = b[k] if more else value
                most = for_b if more else most
                place = np.int8(1) if more else place
                more = (for_c > most) | (for_c == size)
                value = c[k] if more else value
                most = for_c if more else most
                place = np.int8(2) if more else place
                more = (for_d > most) | (for_d == size)
                values[k] = d[k] if more else value
                places[k] = np.int8(3) if more else place


def _scatter(codes: Any, fours: Any, slopes: Any, chosen: Any) -> None:
    zero, minus_zero = slopes.dtype.type(0), codes[3]
    rows, width, channels = slopes.shape
    for row in range(rows):
        for column in range(width):
            given, places = slopes[row, column], chosen[row, column]
            # One after another: a loop that writes to four places at once is not made of vectors. Minus zero becomes
            # zero, as where torch adds it.
            a, b = fours[row, 0, column, 0], fours[row, 0, column, 1]
            c, d = fours[row, 1, column, 0], fours[row, 1, column, 1]
            for k in range(channels):
                a[k] = given[k] if (places[k] == 0) & (given[k] != minus_zero) else zero
            for k in range(channels):
                b[k] = given[k] if (places[k] == 1) & (given[k] != minus_zero) else zero
            for k in range(channels):
                c[k] = given[k] if (places[k] == 2) & (given[k] != minus_zero) else zero
            for k in range(channels):
                d[k] = given[k] if (places[k] == 3) & (given[k] != minus_zero) else zero


njit: Any = numba.njit  # the types of whose arguments are those of one release


def _kept(loop: Any) -> Any:
    # Checks of types at run time wrap what they check, which is not to be compiled.
    plain = inspect.unwrap(loop)
    try:
        return njit(nogil=True, cache=True)(plain)
    except RuntimeError:  # nowhere to keep it
        return njit(nogil=True)(plain)


order = njit(inline="always")(inspect.unwrap(_order))
choose, scatter = _kept(_choose), _kept(_scatter)
