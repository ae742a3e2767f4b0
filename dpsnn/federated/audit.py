"""Is the secure average the average? Recomputed from the updates themselves, outside the protocol."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from dpsnn.federated.quantisation import CLIP, error_bound


class Audit(NamedTuple):
    """One round's average against the exact one."""

    difference: float
    """Largest absolute difference in any weight."""
    bound: float
    """What quantisation explains at most; NaN if a value was clipped, for then nothing bounds it."""
    largest: float
    """Largest change of any weight in any update."""


def audit(folder: Path, current: int, images: dict[int, int], clients: int) -> Audit:
    """Compare the server's average of a round with that of the clients' updates, and delete both.

    Args:
        folder: Where clients and server left them.
        current: The round, from 1.
        images: Number of images of each client, by index.
        clients: Number of clients for which the quantisation was chosen.
    """
    there = {i: folder / f"update_{current}_{i}.npy" for i in images}
    there = {i: path for i, path in there.items() if path.exists()}
    average = np.load(path := folder / f"average_{current}.npy")
    path.unlink()
    exact = np.zeros_like(average)
    total, largest, widest = sum(images[i] for i in there), 0.0, 0.0
    for i, path in there.items():
        update = np.load(path).astype(np.float64)
        path.unlink()
        exact += update * (images[i] / total)
        own = float(np.abs(update).max(initial=0))
        # Not `max`, which may lose NaN.
        largest = float(np.maximum(largest, own))
        widest = float(np.maximum(widest, own * images[i] / sum(images.values())))
    share = total / sum(images.values())
    bound = error_bound(len(there), share, largest, clients) if widest <= CLIP else float("nan")
    return Audit(float(np.abs(average - exact).max(initial=0)), bound, largest)
