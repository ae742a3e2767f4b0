"""The ring of integers in which updates are added, and how far that average can be from the exact one."""

from dpsnn.tensors import Number

RING = 2**32
"""Masked values are uniform over 0 ... RING - 1."""

CLIP = 1.0
"""Updates, weighted by their share of the images, are clipped to [-CLIP, CLIP] before they become integers. A round of
training changes no weight by nearly as much; where one did, the client says so."""


def levels(clients: int) -> int:
    """R, into which [-CLIP, CLIP] is divided: the largest power of two whose sum over all clients fits the ring.

    At most 2**30, as Flower's integers before masking have 32 bits with a sign.
    """
    return int(2 ** min(30, 32 - clients.bit_length()))


def error_bound(clients: int, share: Number, largest: Number, most: int | None = None) -> float:
    """Largest difference of the secure average from Σ nᵢ δᵢ / Σ nᵢ in any weight, if no value was clipped.

    A client with nᵢ of the M images rounds its weight nᵢ/M to a multiple of 1/R, off by at most 1/(2R), and each value
    of its weighted update to one of two neighbouring levels (at random, so that the mean is right), off by less than
    2·CLIP/R. With K clients that hold the share s = Σ nᵢ/M, and |δᵢ| ≤ D, rounding values costs K·2·CLIP/(R s), and
    rounding weights K·D/(R s), since none is further than 2 D from the average.

    Args:
        clients: K, whose updates were added.
        share: s, at most 1; below 1 where clients were lost.
        largest: D, the largest change of any weight in any of the updates.
        most: Clients for which R was chosen; by default K.
    """
    steps = levels(clients if most is None else most)
    # The server's share of a rounded weight may itself be smaller by K/(2R).
    kept = float(share) - clients / (2 * steps)
    return clients * (2 * CLIP + float(largest)) / (steps * kept)
