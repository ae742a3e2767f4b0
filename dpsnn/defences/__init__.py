"""Defences, one a file, found by walking this folder: settings that derive from `Defence`, and what they build.

Strength 0 must be exactly the identity.
"""

from dpsnn.defences.base import CutInfo, Defence, DefenceList, DefenceModule
from dpsnn.defences.clip import ClipGaussian
from dpsnn.defences.noise import GaussianNoise, LaplaceNoise
from dpsnn.defences.nopeek import NoPeek
from dpsnn.defences.quantise import Quantise
from dpsnn.parts import Registry

DEFENCES = Registry("defence")

__all__ = [
    "ClipGaussian",
    "DEFENCES",
    "CutInfo",
    "Defence",
    "DefenceList",
    "DefenceModule",
    "GaussianNoise",
    "LaplaceNoise",
    "NoPeek",
    "Quantise",
]
