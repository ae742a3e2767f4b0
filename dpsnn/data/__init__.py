"""Data sets by name. To add one: write its file, add a line here, and its shapes and roles are tested."""

from dpsnn.data.base import ROLES, ImageDataModule, Pool
from dpsnn.data.digits import Digits
from dpsnn.data.emnist import EMNIST
from dpsnn.data.faces import Faces, FacesAll, FacesOthers, FacesTuning
from dpsnn.data.mnist import MNIST
from dpsnn.data.omniglot import Omniglot, Omniglot28, OmniglotOverlap

DATASETS: dict[str, type[ImageDataModule]] = {
    "digits": Digits,
    "mnist": MNIST,
    "emnist": EMNIST,
    "faces": Faces,
    "faces_all": FacesAll,
    "faces_others": FacesOthers,
    "faces_tuning": FacesTuning,
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
