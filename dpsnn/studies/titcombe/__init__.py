"""Titcombe et al. 2021: a split MNIST classifier, noise on the wire and NoPeek, and who attacks them."""
