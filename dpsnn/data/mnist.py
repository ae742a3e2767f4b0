"""MNIST (LeCun, Bottou, Bengio & Haffner 1998), in the roles of Titcombe et al. 2021."""

import torch
import torchvision

from dpsnn.data.base import ImageDataModule, Pool, contiguous_roles
from dpsnn.data.files import find_or_download, read_pair

FILES = tuple(
    f"MNIST/raw/{part}-{kind}-ubyte"
    for part in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)


class MNIST(ImageDataModule):
    """70,000 handwritten digits, 28×28, white on black.

    Roles: rows 0–40,000 of the training file train the classifier, 40,000–45,000 the attacker, 45,000–50,000 score
    attacks, 50,000–60,000 choose the classifier's epoch; the test file is reported once.
    """

    image_shape = (1, 28, 28)
    num_classes = 10
    mean = 0.1307
    std = 0.3081

    def load(self) -> Pool:
        files = find_or_download(
            self.data_dir,
            FILES,
            lambda root: torchvision.datasets.MNIST(str(root), download=True),
            "MNIST",
        )
        train, test = read_pair(*files[:2]), read_pair(*files[2:])
        return Pool(torch.cat([train[0], test[0]]), torch.cat([train[1], test[1]]), "MNIST")

    def roles(self, pool: Pool) -> dict[str, range]:
        return contiguous_roles(
            len(pool.labels),
            train=40_000,
            surrogate=5_000,
            scoring=5_000,
            validation=10_000,
            test=10_000,
        )
