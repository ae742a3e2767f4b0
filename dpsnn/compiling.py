"""Whether loops can be compiled here, and the one lock under which they are."""

import threading

COMPILING = threading.Lock()
"""numba's compiler does not bear to be in two threads."""


def compiles() -> bool:
    """Whether numba is of use here: it refuses a numpy newer than itself, and can be switched off."""
    try:
        # Slow to import.
        import numba
    except ImportError:
        return False
    return not getattr(numba.config, "DISABLE_JIT")  # set when it is imported
