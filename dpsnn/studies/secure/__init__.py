"""Encrypted inference: what three workers cost and see."""
