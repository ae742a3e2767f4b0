"""Encrypted inference: three workers compute a prediction from secret shares, and none sees the image or the weights.

The engine is `spu` (ABY3: three parties, semi-honest, an honest majority), which the extra `secure` brings.
`sharing.py` explains the idea without it. Then, from the inside out: `convert.py` and `graph.py` make a network what
the engine computes, `engine.py` computes it, `messages.py` and `keys.py` are the wire, `worker.py`, `owner.py` and
`client.py` the roles, `cluster.py` all three workers on one machine.
"""

from importlib.util import find_spec

from dpsnn.errors import UsageError


def require() -> None:
    """Raise UsageError, which says how to install it, unless the extra is there."""
    if not all(find_spec(name) for name in ("spu", "cryptography")):
        raise UsageError(
            "encrypted inference needs the extra 'secure', which needs numpy below 2, hence an environment of its own:"
            " `./main.sh secure` makes it, or install it by `pip install -e '.[secure]'`"
        )
