"""Defences by name. To add one: write its file and add a line here; strength 0 must be exactly the identity."""

from dpsnn.defences.base import Defence, DefenceList
from dpsnn.defences.noise import GaussianNoise, LaplaceNoise
from dpsnn.defences.nopeek import NoPeek

DEFENCES: dict[str, type[Defence]] = {
    "laplace": LaplaceNoise,
    "gaussian": GaussianNoise,
    "nopeek": NoPeek,
}

__all__ = ["DEFENCES", "Defence", "DefenceList", "GaussianNoise", "LaplaceNoise", "NoPeek"]
