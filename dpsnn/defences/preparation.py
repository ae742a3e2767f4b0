"""Whether what is done to a batch before the training step leaves its examples apart: collating, hooks of its transfer.

Recipes put mixup and CutMix there. An example would then reach the gradients of others, and no clipping after it helps.
"""

import copy
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, IterableDataset

from dpsnn.defences.rehearsal import same_draws
from dpsnn.defences.trial import SEEDS
from dpsnn.errors import UsageError

SHOWN = 3
"""Examples of a batch that is made to look at."""


def check_preparation(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Prepare one example beside some others, and beside yet others, and compare what becomes of it.

    Rows of different shapes are not compared: examples may be filled up to the longest of their batch.

    Raises:
        UsageError: If its neighbours change an example.
    """
    loader: Any = trainer.train_dataloader
    if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
        data: Any = loader.dataset
        collate = loader.collate_fn
        items = [data[i] for i in range(min(len(data), 2 * SHOWN))]
    elif tensors := getattr(loader, "tensors", None):
        items, collate = list(zip(*(t[: 2 * SHOWN] for t in tensors))), _stacked
    else:
        return
    half = (len(items) + 1) // 2
    for seed in range(SEEDS if half > 1 else 0):
        made = []
        # As many in both, lest they draw other numbers.
        for neighbours in (items[1:half], items[1 - half :]):
            with same_draws(half, seed):
                lot: Any = collate(copy.deepcopy([items[0], *neighbours]))
                lot = module._on_before_batch_transfer(lot, dataloader_idx=0)
                lot = trainer.strategy.batch_to_device(lot, dataloader_idx=0)
            made.append(_first(lot, half))
        if any(a.shape == b.shape and not _equal(a, b) for a, b in zip(*made)):
            raise UsageError(
                "an example is changed by the others of its batch before the training step, in collate_fn or in a hook"
                " of the transfer (mixup, statistics of a batch), so that clipping it bounds nothing; prepare every"
                " example by itself"
            )


def _first(lot: Any, rows: int) -> list[Tensor]:
    """What became of the first example."""
    leaves = (leaf for leaf in tree_leaves(lot) if isinstance(leaf, Tensor))
    return [leaf[0].double() for leaf in leaves if leaf.dim() and len(leaf) == rows]


def _equal(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=True)


def _stacked(rows: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.stack(column) for column in zip(*rows))
