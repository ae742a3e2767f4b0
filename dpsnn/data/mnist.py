"""MNIST (LeCun, Bottou, Bengio & Haffner 1998), in the roles of Titcombe et al. 2021."""

from typing import ClassVar

import torch
import torchvision

from dpsnn.data.base import ImageDataModule, Pool, contiguous_roles
from dpsnn.data.files import Idx, find_or_download, read_pair


class MNIST(ImageDataModule):
    """70,000 handwritten digits, 28×28, white on black.

    Roles: rows 0–40,000 of the training file train the classifier, 40,000–45,000 the attacker, 45,000–50,000 score
    attacks, 50,000–60,000 choose the classifier's epoch; the test file is reported once.
    """

    key = "mnist"

    image_shape = (1, 28, 28)
    num_classes = 10
    mean = 0.1307
    std = 0.3081
    files: ClassVar[tuple[Idx, ...]] = (
        Idx(
            "MNIST/raw/train-images-idx3-ubyte",
            (60_000, 28, 28),
            "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        ),
        Idx(
            "MNIST/raw/train-labels-idx1-ubyte",
            (60_000,),
            "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
        ),
        Idx(
            "MNIST/raw/t10k-images-idx3-ubyte",
            (10_000, 28, 28),
            "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        ),
        Idx(
            "MNIST/raw/t10k-labels-idx1-ubyte",
            (10_000,),
            "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
        ),
    )
    """Images and labels to train on, then those to test on."""

    def load(self) -> Pool:
        files = find_or_download(
            self.data_dir,
            [file.name for file in self.files],
            lambda root: torchvision.datasets.MNIST(str(root), download=True),
            "MNIST",
        )
        train, test = (read_pair(files[i : i + 2], self.files[i : i + 2]) for i in (0, 2))
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
