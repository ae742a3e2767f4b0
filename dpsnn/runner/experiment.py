"""What an experiment is, in plain values."""

from dataclasses import dataclass

from dpsnn.specs import AttackerSpec, ClassifierSpec


@dataclass(frozen=True)
class Experiment:
    """A classifier and the attackers trained against it (their `model` is filled in when it is known)."""

    classifier: ClassifierSpec
    attackers: tuple[AttackerSpec, ...]
