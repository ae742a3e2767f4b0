"""Attacks, one a file, found by walking this folder: settings that derive from `Attack`, and what they build.

An attack knows only the `Knowledge` it is handed: this package imports neither data, classifier nor defences. Each must
win against an identity client and lose to a constant one.
"""

from dpsnn.attacks.base import (
    Attack,
    AttackModule,
    Insider,
    Knowledge,
    Need,
    NotFinite,
    WhiteBox,
)
from dpsnn.attacks.decoder import DecoderAttack
from dpsnn.attacks.feature_inversion import FeatureInversion
from dpsnn.attacks.mi_face import MIFace
from dpsnn.attacks.nearest import Nearest
from dpsnn.attacks.sign_descent import SignDescent
from dpsnn.parts import Registry

ATTACKS = Registry("attack")

__all__ = [
    "ATTACKS",
    "Attack",
    "AttackModule",
    "DecoderAttack",
    "FeatureInversion",
    "Insider",
    "Knowledge",
    "MIFace",
    "Nearest",
    "Need",
    "NotFinite",
    "SignDescent",
    "WhiteBox",
]
