"""What a metric gives for no information at all: a number means little without it."""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from dpsnn.batches import to_unit
from dpsnn.tensors import Labels

Pictures = Shaped[Tensor, "n c h w"]
"""Bytes, or floats in [0, 1]."""


def mean_image(surrogate: Pictures, count: int) -> Float[Tensor, "{count} c h w"]:
    """The mean of the attacker's own images, `count` times: the best constant guess."""
    mean = to_unit(surrogate).mean(0, keepdim=True)
    return mean.expand(count, -1, -1, -1)


def class_means(
    surrogate: Pictures, own: Labels, labels: Int[Tensor, " victims"]
) -> Float[Tensor, "victims c h w"] | None:
    """For each label the mean of the own images of that class: the best guess of who knows the class and no more.

    Args:
        surrogate: The attacker's own images.
        own: Their classes.
        labels: Those of the victims.

    Returns:
        One image per victim; None where some victim's class is not among the own ones.
    """
    if not bool(torch.isin(labels, own).all()):
        return None
    means = {int(label): to_unit(surrogate[own == label]).mean(0) for label in labels.unique()}
    return torch.stack([means[int(label)] for label in labels])


def majority_share(labels: Labels) -> float:
    """Accuracy in percent of always naming the most frequent class."""
    return 100 * labels.bincount().max().item() / len(labels)


def shuffled(samples: Tensor, seed: int = 0) -> Tensor:
    """The rows in another order, each away from its own place: independent pairs of the same distributions.

    Raises:
        ValueError: If there is only one, which has no other place.
    """
    n = len(samples)
    if n < 2:
        raise ValueError(f"{n} samples have no other order; give 2 or more")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    # Rotating along one random cycle leaves no row at home.
    target = torch.empty_like(order)
    target[order] = order.roll(1)
    return samples[target.to(samples.device)]
