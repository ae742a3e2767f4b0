"""NoPeek (Vepakomma, Singh, Gupta & Raskar 2020, arXiv 2008.09161): train the client to say little about its input."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import torch
from torch import Tensor

from dpsnn.defences.base import CutInfo, Defence, DefenceModule, checked_strength
from dpsnn.errors import UsageError
from dpsnn.metrics import distance_correlation
from dpsnn.parts import option, spell
from dpsnn.tensors import Images, Labels, Number, Smashed


@dataclass(frozen=True, kw_only=True)
class NoPeekLoss(Defence):
    """A loss that lets the client say little about its input (Vepakomma et al. 2020, arXiv 2008.09161)."""

    key = "nopeek"
    heading = "NoPeek"
    label = "NoPeek"
    order = 30
    since = 1
    always = True
    couples = "NoPeek compares the images of a batch with one another"

    weight: Number = option(
        0.0, "weight of the NoPeek loss: distance correlation of images and smashed tensor"
    )
    exponent: Number = option(
        1.0,
        "power of the distances in NoPeek, in (0, 2]; 2 is the published statistic",
        check="free",
    )
    clean: bool = option(
        False, "let NoPeek look at the activation before the noise, not at what crosses the wire"
    )

    @property
    def place(self) -> int:
        return 0 if self.clean else 90

    def check(self, spec: Any) -> None:
        if not 0 < self.exponent <= 2:
            raise UsageError(f"nopeek_exponent is {self.exponent}; it must be in (0, 2]")
        if self.on and spec.batch_size < 2:
            raise UsageError(
                "batch_size is 1; NoPeek compares images of a batch and needs 2 or more"
            )

    def build(self, cut: CutInfo) -> DefenceModule:
        return NoPeek(self.weight, self.exponent)

    def token(self) -> str:
        power = format(Decimal(repr(self.exponent)).normalize(), "f")
        more = f"{f'_exp{power}' if self.exponent != 1 else ''}{'_clean' if self.clean else ''}"
        return f"_{spell(self.weight)}nopeek{more if self.on else ''}"


class NoPeek(DefenceModule):
    """Penalise the distance correlation of images and smashed tensor; nothing changes at inference.

    Args:
        weight: Factor on the distance correlation; 0 is exactly no penalty.
        exponent: Power of the distances in (0, 2]; Titcombe et al. effectively used 2.

    Raises:
        UsageError: If the weight is negative or not finite.
    """

    def __init__(self, weight: Number, exponent: Number = 1.0) -> None:
        super().__init__()
        self.weight = checked_strength(weight, "the NoPeek weight")
        self.exponent = exponent

    @property
    def couples(self) -> str:
        return "NoPeek (--nopeek_weight) compares the examples of a batch" if self.weight else ""

    def penalty(self, images: Images, smashed: Smashed, labels: Labels | None = None) -> Tensor:
        # A last batch of one image has no distance correlation; it trains on the task alone.
        if self.weight == 0 or len(images) < 2:
            return torch.zeros((), device=smashed.device)
        return self.weight * distance_correlation(images, smashed, self.exponent)

    def extra_repr(self) -> str:
        return f"weight={self.weight}, exponent={self.exponent}"
