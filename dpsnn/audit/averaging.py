"""The average of what an audit's attacks guessed: an attack of its own that costs next to nothing.

Attacks that err in different ways are closer to the truth together than each (see `dpsnn.attacks.ensemble`). Here the
members are those that were made anyway, with all the epochs that the budget paid for.
"""

from collections.abc import Mapping, Sequence

import torch

from dpsnn.attacks.ensemble import best_weights
from dpsnn.audit.attacking import JUDGED, Attempt, judgement
from dpsnn.audit.plan import Planned
from dpsnn.audit.wire import Wire
from dpsnn.batches import to_unit

AVERAGE = Planned("ensemble", "weighted average", asks=False, share=0.0)

LEAST = 4
"""Own validation pictures, half of which weigh and half of which judge."""


def averaged(attempts: Mapping[str, Sequence[Attempt]], wire: Wire) -> list[Attempt]:
    """The average for each seed of which two maps or more were made; none where there is nothing to weigh them by.

    Weights are found on every other own validation picture, and the average judges itself on the rest.

    Args:
        attempts: Of every attack, one for each seed.
        wire: What they were made on.
    """
    truth = to_unit(wire.validation[:JUDGED])
    if len(truth) < LEAST:
        return []
    of_seeds: dict[int, list[Attempt]] = {}
    for each in (each for made in attempts.values() for each in made):
        if each.judged is not None and each.victims == len(wire.victims):
            of_seeds.setdefault(each.seed, []).append(each)
    return [_average(made, wire, seed) for seed, made in of_seeds.items() if len(made) > 1]


def _average(made: Sequence[Attempt], wire: Wire, seed: int) -> Attempt:
    truth = to_unit(wire.validation[:JUDGED])
    judged = torch.stack([each.judged for each in made if each.judged is not None])
    weights = best_weights(judged[:, ::2], truth[::2])
    own = torch.einsum("m,m...->...", weights, judged[:, 1::2])
    error, floor, spread = judgement(own, wire, slice(1, len(truth), 2))
    guesses = torch.zeros_like(made[0].guesses)
    for weight, each in zip(weights.tolist(), made):
        guesses += weight * each.guesses
    return Attempt(
        AVERAGE,
        seed,
        guesses=guesses,
        own_error=error,
        own_floor=floor,
        own_spread=spread,
        settings={f"weight_{a.planned.key}": w for a, w in zip(made, weights.tolist())},
    )
