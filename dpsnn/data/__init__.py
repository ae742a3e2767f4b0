"""Data sets by name. To add one: write its file, add a line here, and its shapes and roles are tested."""

from dpsnn.data.base import ROLES, ImageDataModule, Pool
from dpsnn.data.digits import Digits
from dpsnn.data.emnist import EMNIST
from dpsnn.data.mnist import MNIST
from dpsnn.data.omniglot import Omniglot, Omniglot28, OmniglotOverlap

DATASETS: dict[str, type[ImageDataModule]] = {
    "digits": Digits,
    "mnist": MNIST,
    "emnist": EMNIST,
    "omniglot": Omniglot,
    "omniglot28": Omniglot28,
    "omniglot_overlap": OmniglotOverlap,
}

__all__ = [
    "DATASETS",
    "EMNIST",
    "MNIST",
    "ROLES",
    "Digits",
    "ImageDataModule",
    "Omniglot",
    "Omniglot28",
    "OmniglotOverlap",
    "Pool",
]
