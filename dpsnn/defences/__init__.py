"""Defences by name. To add one: write its file and add a line here; strength 0 must be exactly the identity."""

from dpsnn.defences.base import DefenceList, DefenceModule
from dpsnn.defences.noise import GaussianNoise, LaplaceNoise
from dpsnn.defences.nopeek import NoPeek

DEFENCES: dict[str, type[DefenceModule]] = {
    "laplace": LaplaceNoise,
    "gaussian": GaussianNoise,
    "nopeek": NoPeek,
}

__all__ = ["DEFENCES", "DefenceList", "DefenceModule", "GaussianNoise", "LaplaceNoise", "NoPeek"]
