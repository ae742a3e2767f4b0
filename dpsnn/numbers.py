"""The type of a number, where what needs it must not import torch."""

Number = float | int
"""A real number. Callers write 2 where 2.0 is meant, and the checker of types under pytest is strict about it."""
