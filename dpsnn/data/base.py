"""The shared part of every data set: roles of images that never mix, resident tensors, fast batches."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from dpsnn.batches import PoissonBatches, Share, TensorBatches, derived_seed
from dpsnn.data.files import USUAL
from dpsnn.errors import UsageError, one_of

ROLES = ("train", "surrogate", "scoring", "validation", "test")
"""What an image may be used for: to train the classifier, to train an attacker, to score an attack, to choose the
classifier's epoch, or for the one reported test accuracy. Every image has at most one role, unless a data set says
otherwise."""


class Pool(NamedTuple):
    """All images of a data set, in a fixed order, before roles are given out."""

    pixels: Tensor
    """uint8 `(N, C, H, W)`."""
    labels: Tensor
    """int64 `(N,)`, 0 based."""
    source: str
    """Where they came from, in a few words; it is recorded beside every result."""


class ImageDataModule(pl.LightningDataModule):
    """A data set whose images stay in memory as bytes and are handed out by role.

    A subclass sets the constants and `load`; a role is a range of row numbers of the pool that `load` returns.

    Args:
        data_dir: Folder where data sets lie or are downloaded to.
        batch_size: Images per batch.
        seed: Seed of the training order; epoch e is shuffled with a generator made from `(seed, e)`, so that a resumed
            training sees the same batches as an uninterrupted one.

    Raises:
        UsageError: In `setup`, if the data cannot be reached or is damaged.
    """

    image_shape: ClassVar[tuple[int, int, int]]
    """`(C, H, W)` of one image."""
    num_classes: ClassVar[int]
    mean: ClassVar[float]
    """Mean of the training pixels in [0, 1]; networks standardise with it."""
    std: ClassVar[float]
    judged: ClassVar[bool] = True
    """Whether attacks are scored on images of the classes that the classifier learns, so that a judge trained on them can
    say whether reconstructions are recognisable."""
    judge_network: ClassVar[str] = "validator"
    """Architecture of its validators, by name."""
    chooses_epoch: ClassVar[bool] = True
    """Whether there are images to choose the classifier's epoch by; without them the last one is kept."""

    def __init__(self, data_dir: str | Path = USUAL, batch_size: int = 128, seed: int = 0) -> None:
        super().__init__()
        self.data_dir = Path(data_dir)
        self.batch_size = batch_size
        self.seed = seed
        self.poisson = False
        """Whether training lots are drawn row by row, as DP-SGD's accounting needs it, rather than shuffled."""
        self.lot_seed: Callable[[int], bytes | None] = lambda epoch: None
        """Key of the lots of an epoch, where they are not drawn from the public seed."""
        self.fixed_order = False
        """Whether training images come in the order of their rows in every epoch, rather than shuffled."""
        self._pool: Pool | None = None
        self._resident: dict[tuple[str, torch.device], tuple[Tensor, Tensor]] = {}

    def load(self) -> Pool:
        """Read every image of the data set."""
        raise TypeError(f"{type(self).__name__} must say how to load its images")

    def roles(self, pool: Pool) -> dict[str, range]:
        """The row numbers of the pool that each role owns."""
        raise TypeError(f"{type(self).__name__} must say which images have which role")

    @property
    def pool(self) -> Pool:
        if self._pool is None:
            self._pool = self._checked(self.load())
        return self._pool

    def _checked(self, pool: Pool) -> Pool:
        """The pool, if it is what the constants promise and large enough for its roles."""
        self.roles(pool)
        shape, labels = tuple(pool.pixels.shape[1:]), pool.labels
        if shape != self.image_shape or not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise UsageError(
                f"{pool.source} has images of shape {shape} with labels {labels.min()} to {labels.max()}, not"
                f" {self.image_shape} with 0 to {self.num_classes - 1}; fetch its files again"
            )
        if len(labels) != len(pool.pixels):
            raise UsageError(
                f"{pool.source} has {len(pool.pixels)} images, and {len(labels)} labels; fetch its files again"
            )
        if labels.min() == labels.max() and self.num_classes > 1:
            raise UsageError(
                f"{pool.source}: of its {len(labels)} labels every one is {labels[0]}; fetch its files again"
            )
        return pool

    @property
    def source(self) -> str:
        """Where the images came from."""
        return self.pool.source

    def setup(self, stage: str | None = None) -> None:
        self.pool

    def rows(self, role: str) -> range:
        """Row numbers of one role."""
        one_of(role, ROLES, "role")
        own = self.roles(self.pool)
        if role not in own:
            raise UsageError(
                f"{self.source} has no images for the role {role}, only for {sorted(own)}; choose another data set"
            )
        return own[role]

    def tensors(self, role: str, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Pixels (uint8) and labels of one role, resident on `device`."""
        key = (role, torch.device(device))
        if key not in self._resident:
            rows = self.rows(role)
            part = slice(rows.start, rows.stop)
            self._resident[key] = (
                self.pool.pixels[part].to(device),
                self.pool.labels[part].to(device),
            )
        return self._resident[key]

    def foreign_surrogate(self, limit: int = 5000) -> Tensor:
        """Pixels for an attacker whose target was trained on *another* data set: up to `limit` images.

        The attacker's own role comes first, then the others: no image of this set is the target's, so all are fair.
        """
        order = ("surrogate", "scoring", "validation", "train", "test")
        return torch.cat([self.tensors(role)[0] for role in order])[:limit]

    def batches(
        self,
        role: str,
        shuffle_seed: int | None = None,
        device: torch.device | str = "cpu",
        share: Share = Share(),
    ) -> TensorBatches:
        """Batches `(images in [0, 1], labels)` of one role, or a share of each."""
        return TensorBatches(
            *self.tensors(role, device),
            batch_size=self.batch_size,
            shuffle_seed=shuffle_seed,
            share=share,
        )

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def _share(self) -> Share:
        return Share(self.trainer.global_rank, self.trainer.world_size) if self.trainer else Share()

    def train_dataloader(self) -> TensorBatches | PoissonBatches:
        """Training batches, shuffled unless asked otherwise; the trainer must reload them every epoch."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        if self.poisson:
            rows = self.tensors("train", self._device())
            if self.batch_size > len(rows[0]):
                raise UsageError(
                    f"batch_size is {self.batch_size}, but there are {len(rows[0])} training images; lots of DP-SGD"
                    " cannot be larger: lower --batch_size"
                )
            secret = self.lot_seed(epoch)
            seed = derived_seed(self.seed, epoch, 1) if secret is None else secret
            return PoissonBatches(*rows, batch_size=self.batch_size, seed=seed)
        order = None if self.fixed_order else derived_seed(self.seed, epoch)
        return self.batches("train", order, self._device(), self._share())

    def val_dataloader(self) -> TensorBatches:
        """Validation batches; where several processes train one model, each has a part of the images to itself."""
        share = self._share()
        pixels, labels = self.tensors("validation", self._device())
        if len(labels) < share.of:
            raise UsageError(
                f"{self.source} has {len(labels)} validation images for {share.of} devices; lower --devices"
            )
        own = share.rows(len(labels))
        return TensorBatches(pixels[own], labels[own], batch_size=self.batch_size // share.of)


def contiguous_roles(total: int, **sizes: int) -> dict[str, range]:
    """Consecutive ranges of the given sizes, in the order given.

    Raises:
        UsageError: If the pool is smaller than the roles need.
    """
    if sum(sizes.values()) > total or min(sizes.values()) < 1:
        raise UsageError(f"{total} images are too few for the roles {sizes}")
    ranges, start = {}, 0
    for role, size in sizes.items():
        ranges[role] = range(start, start + size)
        start += size
    return ranges
