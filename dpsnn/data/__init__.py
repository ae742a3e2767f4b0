"""Data sets by name, found by walking this folder for classes with a `key`; their shapes and roles are tested."""

from dpsnn.data.base import ROLES, ImageDataModule, Pool
from dpsnn.data.digits import Digits
from dpsnn.data.emnist import EMNIST
from dpsnn.data.faces import Faces, FacesAll, FacesOthers, FacesTuning
from dpsnn.data.mnist import MNIST
from dpsnn.data.omniglot import Omniglot, Omniglot28, OmniglotOverlap
from dpsnn.parts import Registry

DATASETS = Registry("dataset")

__all__ = [
    "DATASETS",
    "EMNIST",
    "MNIST",
    "ROLES",
    "Digits",
    "Faces",
    "FacesAll",
    "FacesOthers",
    "FacesTuning",
    "ImageDataModule",
    "Omniglot",
    "Omniglot28",
    "OmniglotOverlap",
    "Pool",
]
