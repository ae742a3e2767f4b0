"""dpsnn: how much of a private input leaks out of a split neural network, and how well each defence protects it."""

__version__ = "0.1.0"
