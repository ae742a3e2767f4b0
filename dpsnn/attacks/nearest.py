"""The plainest attack: answer with the own image whose activation is nearest to what crossed the wire.

It learns nothing, and it invents nothing: what it gives are true pictures, of somebody else.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dpsnn.attacks.base import BLOCK, Attack, AttackModule, Knowledge, Need, average, check_finite
from dpsnn.batches import to_unit
from dpsnn.signals import check
from dpsnn.tensors import Inputs, Smashed

AT_ONCE = 1000
"""Own activations to which distances are taken at a time."""


@dataclass(frozen=True, kw_only=True)
class NearestImage(Attack):
    """Answer with the own image whose activation is nearest to what crossed the wire."""

    key = "nearest"
    order = 40
    needs = frozenset({Need.QUERIES, Need.TRANSMISSIONS})

    def build(self, knowledge: Knowledge, queries: int, seed: int) -> AttackModule:
        return Nearest(knowledge)


def nearest(wanted: Smashed, known: Float[Tensor, " m *cut"]) -> Int[Tensor, " n"]:
    """For each row of `wanted` the row of `known` with the smallest Euclidean distance; of equal ones the first."""
    rows, others = wanted.flatten(1), known.flatten(1)
    # By the differences themselves: products of matrices round so that equal ones need not be equal.
    exact = "donot_use_mm_for_euclid_dist"
    smallest = rows.new_full((len(rows),), torch.inf)
    found = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    for start in range(0, len(others), AT_ONCE):
        check()
        distances = torch.cdist(rows, others[start : start + AT_ONCE], compute_mode=exact)
        least, at = distances.min(1)
        # min gives any of equal ones.
        at = (distances == least.unsqueeze(1)).int().argmax(1)
        better = least < smallest
        smallest[better], found[better] = least[better], start + at[better]
    return found


class Nearest(AttackModule):
    """Look the mean of the transmissions up among the client's answers to the own images.

    Args:
        knowledge: The client as an oracle, and own images.
    """

    at_once = BLOCK

    own: Tensor

    def __init__(self, knowledge: Knowledge) -> None:
        super().__init__()
        self.knowledge = knowledge
        self.register_buffer("own", knowledge.surrogate.clone())

    @torch.no_grad()
    def infer(self, heard: Float[Tensor, "queries n *cut"]) -> Inputs:
        """The own images, in [0, 1], that are nearest to the mean of what was heard.

        Raises:
            NotFinite: If what was heard holds infinity or NaN, to which nothing is near.
        """
        wanted = average(heard)
        check_finite(wanted, what="smashed tensor", cause="train the target again")
        known = self.knowledge.activations.to(heard.device)
        return to_unit(self.own[nearest(wanted, known)])
