"""Masks of secure averaging from ChaCha20, in place of Flower's Mersenne Twister.

Flower expands the key that two clients share into a mask by numpy's RandomState, seeded with 32 bits, the XOR of the
key's words, and never draws the two largest values of the ring. Whoever holds a masked update can try all 2**32 seeds,
and the Mersenne Twister is not meant to resist prediction in the first place: such masks hide nothing from a server
that tries. ChaCha20 (RFC 8439) keyed by the whole secret is a stream cipher, hence believed to be indistinguishable
from uniform; that is what `expand` rests on. The keys stay Flower's own: ECDH on P-384, fresh in every round.
"""

from collections.abc import Sequence
from importlib import import_module
from math import prod

import numpy as np
from numpy.typing import NDArray

PLACES = (
    "flwr.client.mod.secure_aggregation.secaggplus_mod",
    "flwr.server.workflow.secure_aggregation.secaggplus_workflow",
)
"""Modules of Flower that expand masks: the client's, which puts them on, and the server's, which takes them off."""

NAME = "pseudo_rand_gen"


def expand(
    seed: bytes, num_range: int, dimensions_list: Sequence[tuple[int, ...]]
) -> list[NDArray[np.int64]]:
    """A mask for each of a model's arrays, uniform over the ring, determined by the secret alone.

    Args:
        seed: The secret, with at least 128 bits of entropy; used once, as the nonce is fixed: SecAgg+ draws new keys in
            every round.
        num_range: Size of the ring, a power of two up to 2**32.
        dimensions_list: Shapes of the arrays. The parameters' names are Flower's, whose function this replaces.
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    if num_range & (num_range - 1) or not 2 <= num_range <= 2**32:
        raise ValueError(f"a ring of {num_range}; it must be a power of two up to 2**32")
    key = HKDF(hashes.SHA256(), 32, salt=None, info=b"dpsnn mask of secure averaging").derive(seed)
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    masks = []
    for shape in dimensions_list:
        words = np.frombuffer(stream.update(bytes(4 * prod(shape))), "<u4")
        # A remainder by a power of two of a uniform word is uniform.
        masks.append((words & np.uint32(num_range - 1)).astype(np.int64).reshape(shape))
    return masks


def install() -> None:
    """Let both halves of Flower's SecAgg+ expand their masks by ChaCha20, in this process.

    Raises:
        RuntimeError: If Flower no longer expands masks where it used to; better no run than one with weak masks.
    """
    for place in PLACES:
        module = import_module(place)
        if not hasattr(module, NAME):
            raise RuntimeError(f"{place} has no {NAME}: this version of Flower is not known")
        setattr(module, NAME, expand)
