"""Attacks by name. An attack knows only the `Knowledge` it is handed: this package imports neither data, classifier nor
defences. To add one: write its file and a line here; it must win against an identity client and lose to a constant one.
"""

from dpsnn.attacks.base import Attack, Knowledge, NotFinite, WhiteBox
from dpsnn.attacks.decoder import DecoderAttack
from dpsnn.attacks.feature_inversion import FeatureInversion
from dpsnn.attacks.mi_face import MIFace
from dpsnn.attacks.sign_descent import SignDescent

ATTACKS: dict[str, type] = {
    "decoder": DecoderAttack,
    "inversion": FeatureInversion,
    "sign": SignDescent,
}

Inversion = FeatureInversion | SignDescent
"""Attacks that compute each image anew, through the client's gradients, rather than learn how beforehand."""

__all__ = [
    "ATTACKS",
    "Attack",
    "DecoderAttack",
    "FeatureInversion",
    "Inversion",
    "Knowledge",
    "MIFace",
    "NotFinite",
    "SignDescent",
    "WhiteBox",
]
