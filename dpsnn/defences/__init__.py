"""Defences, one a file, found by walking this folder: settings that derive from `Defence`, and what they build.

Strength 0 must be exactly the identity.
"""

from dpsnn.defences.base import CutInfo, Defence, DefenceList, DefenceModule
from dpsnn.parts import Registry

DEFENCES = Registry("defence")

__all__ = [
    "DEFENCES",
    "CutInfo",
    "Defence",
    "DefenceList",
    "DefenceModule",
]
