"""Attacks by name. An attack knows only the `Knowledge` it is handed: this package imports neither data, classifier nor
defences. To add one: write its file and a line here; it must win against an identity client and lose to a constant one.
"""

from dpsnn.attacks.base import Attack, Knowledge
from dpsnn.attacks.decoder import DecoderAttack
from dpsnn.attacks.mi_face import MIFace

ATTACKS: dict[str, type] = {"decoder": DecoderAttack, "mi_face": MIFace}

__all__ = ["ATTACKS", "Attack", "DecoderAttack", "Knowledge", "MIFace"]
