"""Tensor types by role: one word per idea, with its shape.

Leakage is measured on `Smashed`, what really crosses the wire, never on `Activation`.
"""

from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from dpsnn.numbers import Number

__all__ = [
    "Activation",
    "Batch",
    "Images",
    "Inputs",
    "Labels",
    "Logits",
    "Number",
    "Pixels",
    "Smashed",
]

Images = Float[Tensor, "n c h w"]
"""Pictures with values in [0, 1]."""

Pixels = UInt8[Tensor, "n c h w"]
"""The same pictures as they are stored: bytes in 0..255."""

Inputs = Shaped[Tensor, "n *input"]
"""What clients in general take: pictures, of which bytes are scaled to [0, 1], or rows of any other shape."""

Labels = Int[Tensor, " n"]
"""Class indices, 0 based."""

Activation = Float[Tensor, "n *cut"]
"""The tensor at the cut before any defence, in float32."""

Smashed = Float[Tensor, "n *cut"]
"""The tensor at the cut as it crosses the wire, after the defences, in float32."""

Logits = Float[Tensor, "n classes"]
"""Class scores before the softmax."""

Batch = tuple[Images, Labels]
"""What a data module yields."""
