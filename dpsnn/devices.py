"""How many devices share one training, and which trainings they cannot share; nothing here imports torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from dpsnn.errors import UsageError, one_of
from dpsnn.numbers import check_count
from dpsnn.parts import option
from dpsnn.specs import ClassifierSpec

STRATEGIES = ("auto", "ddp")


@dataclass(frozen=True, kw_only=True)
class Devices:
    """The devices of one training. Like threads, they change its last bits and are no part of what it is.

    Raises:
        UsageError: If a value is out of range.
    """

    devices: int = option(
        1,
        "GPUs of this machine, or without any processes on its CPU, that share every batch of the training",
    )
    strategy: str = option(
        "auto", "how several devices train together; auto is ddp, the mean of their gradients"
    )

    def __post_init__(self) -> None:
        check_count(self.devices, "devices", 1)
        one_of(self.strategy, STRATEGIES, "strategy")
        if self.strategy != "auto" and self.devices == 1:
            raise UsageError(
                f"strategy {self.strategy} says nothing about one device; add --devices, or leave it out"
            )

    def check(self, spec: ClassifierSpec) -> None:
        """Refuse what cannot be shared.

        Raises:
            UsageError: If a defence needs whole batches or one process, or batches cannot be shared equally.
        """
        if self.devices == 1:
            return
        for part in spec.active:
            if part.private:
                raise UsageError(
                    f"{part.label or part.key} draws lots and noise in one process, and counts the epsilon of that; on"
                    f" {self.devices} devices it would promise more than it keeps: leave out --devices"
                )
            if part.couples:
                raise UsageError(
                    f"{part.couples}, and each of {self.devices} devices sees its share of a batch alone; leave out"
                    f" --devices, or --{part.flat(part.own_fields()[0].name)}"
                )
        if spec.batch_size % self.devices:
            raise UsageError(
                f"batch_size is {spec.batch_size}, of all devices together, and {self.devices} of them cannot share it"
                f" equally; take a multiple of {self.devices}"
            )


def recorded(counts: Sequence[int]) -> dict[str, int | list[int]]:
    """What stands beside a model that several trained; nothing for one, as it always was.

    Args:
        counts: Of devices, one after another where the training went on with others: the noise of its epochs is then
            what no number of devices would have drawn from the start.
    """
    if len(counts) > 1:
        return {"devices": [*counts]}
    return {"devices": counts[0]} if counts and counts[0] > 1 else {}
