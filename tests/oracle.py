"""dcor, in a process of its own, as numbers from outside to compare ours with.

Importing dcor starts its compiler. That sets the number of torch's threads anew, whereupon sums differ in the last bit;
and beside a library as large as torch it now and then finds no room for its code and aborts. It is told to compile
nothing: that takes longer than all that is asked for here.
"""

import os
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from typing import Any

import numpy as np

Samples = np.ndarray[Any, Any]


@cache
def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_uncompiled)


def _uncompiled() -> None:
    """Let dcor be imported as plain Python; its sums of many rows at once, which are always compiled, are left out."""
    os.environ["NUMBA_DISABLE_JIT"] = "1"
    import numba

    numba.guvectorize = lambda *signatures, **options: lambda function: function
    import dcor  # noqa: F401


def _value(function: str, x: Samples, y: Samples, exponent: float) -> float:
    import dcor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # exponent 2 does not characterise independence
        return float(getattr(dcor, function)(x, y, exponent=exponent))


def dcor_value(function: str, x: Samples, y: Samples, exponent: float) -> float:
    """`dcor.<function>(x, y, exponent=exponent)` for samples `(N, P)` and `(N, Q)`."""
    return _process().submit(_value, function, x, y, exponent).result()
