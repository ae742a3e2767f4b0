"""Attacks by name. An attack knows only the `Knowledge` it is handed: this package imports neither data, classifier nor
defences. To add one: write its file and a line here; it must win against an identity client and lose to a constant one.
"""

from dpsnn.attacks.base import Attack, Knowledge
from dpsnn.attacks.decoder import DecoderAttack

ATTACKS: dict[str, type[DecoderAttack]] = {"decoder": DecoderAttack}

__all__ = ["ATTACKS", "Attack", "DecoderAttack", "Knowledge"]
