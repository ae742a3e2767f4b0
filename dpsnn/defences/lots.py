"""Lots as they come from a loader: how many examples they hold, their parts, and rows as unlike as possible."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, IterableDataset

from dpsnn.errors import UsageError


def length(lot: Any) -> int:
    """Examples in a lot: rows of its tensors.

    Raises:
        UsageError: If it holds no tensor, or tensors of different lengths.
    """
    lengths = {len(leaf) for leaf in tree_leaves(lot) if isinstance(leaf, Tensor) and leaf.dim()}
    if not lengths:
        raise UsageError("a batch holds no tensor of examples; DP-SGD cannot tell its size")
    if len(lengths) > 1:
        raise UsageError(
            f"tensors of a batch have {' and '.join(map(str, sorted(lengths)))} rows; under DP-SGD the first axis of"
            " each must be the examples"
        )
    return lengths.pop()


def parts(lot: Any, total: int, limit: int | None) -> Iterator[Any]:
    """The lot, in parts of at most `limit` examples."""
    if limit is None or total <= limit:
        yield lot
        return
    for start in range(0, total, limit):
        yield tree_map(lambda t: _rows(t, total)[start : start + limit], lot)


def _rows(leaf: Any, total: int) -> Tensor:
    if isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == total:
        return leaf
    raise UsageError(
        "batches with anything but tensors of one length cannot be split; leave out physical_batch"
    )


def take(lot: Any, rows: list[int]) -> Any:
    """These rows of a lot."""

    def some(leaf: Any) -> Any:
        of_examples = isinstance(leaf, Tensor) and leaf.dim()
        return leaf[torch.tensor(rows, device=leaf.device)] if of_examples else leaf

    return tree_map(some, lot)


def joined(first: Any, second: Any) -> Any:
    """Two lots as one."""

    def both(a: Any, b: Any) -> Any:
        return torch.cat([a, b]) if isinstance(a, Tensor) and a.dim() else a

    return tree_map(both, first, second)


def enlarged(lot: Any, more: Any, most: int) -> Any:
    """A lot and examples of others, at most `most`; the lot alone where they do not fit it."""
    if more is None:
        return lot
    try:
        both = joined(lot, more)
    except (RuntimeError, ValueError, TypeError):
        return lot
    return take(both, list(range(min(most, length(both)))))


def unlike(lot: Any, total: int) -> list[int]:
    """All rows, those first that differ most from the rest: extremes of each tensor, and the rarest of its values."""
    chosen: list[int] = []
    for leaf in tree_leaves(lot):
        if not (isinstance(leaf, Tensor) and leaf.dim()):
            continue
        values = leaf.detach().reshape(total, -1)
        means = values.double().nan_to_num().mean(1)
        chosen += [int(means.argmin()), int(means.argmax())]
        if values.shape[1] == 1 and not leaf.is_floating_point():
            kinds, counts = values.flatten().unique(return_counts=True)
            rarest = kinds[counts.argsort()[:2]]
            chosen += [int((values.flatten() == kind).nonzero()[0]) for kind in rarest]
    return list(dict.fromkeys([*chosen, *range(total)]))


def altered(lot: Any) -> Any:
    """Other examples of the same types, where a lot holds too few: nothing but values that could occur."""

    def other(leaf: Any) -> Any:
        if not (isinstance(leaf, Tensor) and leaf.dim()):
            return leaf
        if leaf.is_floating_point():
            return leaf.flip(0) * 0.5 + 0.1
        if leaf.dtype == torch.uint8:
            return leaf.flip(0).bitwise_not()
        # Labels and tokens: those of the neighbours, in another order along the example as well.
        return leaf.flip(tuple(range(leaf.dim())))

    return tree_map(other, lot)


def check_first_axis(loader: Any) -> None:
    """Let the loader make lots of two and of three examples.

    Raises:
        UsageError: If their sizes are not two and three.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return
    data: Any = loader.dataset
    if loader.batch_sampler is None:
        raise UsageError(
            "the training loader has no batch size, so that DP-SGD cannot tell examples; give it one"
        )
    for count in (2, 3):
        if len(data) < count:
            return
        with torch.random.fork_rng():
            made = loader.collate_fn([data[i] for i in range(count)])
        if length(made) != count:
            raise UsageError(
                f"the training loader makes {length(made)} rows of {count} examples; under DP-SGD the first axis of"
                " every tensor in a batch must be the examples"
            )
