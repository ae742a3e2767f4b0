"""Share out training images among clients, at random or with skewed labels."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from dpsnn.batches import derived_seed
from dpsnn.errors import UsageError
from dpsnn.tensors import Labels, Number

FEWEST_IMAGES = 2
"""Of a client: with fewer there is nothing to train on."""

DRAWS = 1000


def partition(
    labels: Labels, clients: int, seed: int, skew: Number = 0.0
) -> list[Int[Tensor, " rows"]]:
    """Rows of each client; together they are all rows, each once.

    Args:
        labels: Classes of the N training images.
        clients: K, how many share them.
        seed: Same seed, same rows, in whatever process asks.
        skew: α of Dirichlet(α, ..., α) over the clients, drawn for every class by itself (Yurochkin et al. 2019,
            arXiv 1905.12022): large α is nearly even, 0.1 gives most clients few classes. 0 means no skew: parts of
            equal size (± 1), at random.

    Raises:
        UsageError: If there are too few images, or so much skew that some client would get next to none.
    """
    if len(labels) < FEWEST_IMAGES * clients:
        raise UsageError(
            f"{len(labels)} training images are too few for {clients} clients; name fewer --clients"
        )
    generator = torch.Generator().manual_seed(derived_seed(seed, 21))
    if not skew:
        return list(torch.randperm(len(labels), generator=generator).tensor_split(clients))
    draws = np.random.default_rng(derived_seed(seed, 22))
    for _ in range(DRAWS):
        parts: list[list[Tensor]] = [[] for _ in range(clients)]
        for label in labels.unique():
            rows = (labels == label).nonzero().squeeze(1)
            rows = rows[torch.randperm(len(rows), generator=generator)]
            shares = draws.dirichlet([skew] * clients).cumsum()[:-1]
            cuts = torch.from_numpy((shares * len(rows)).round().astype(np.int64))
            for own, part in zip(parts, rows.tensor_split(cuts)):
                own.append(part)
        joined = [torch.cat(own) for own in parts]
        if min(map(len, joined)) >= FEWEST_IMAGES:
            return joined
    raise UsageError(
        f"skew {skew} leaves some of {clients} clients without images in every one of {DRAWS} draws; raise --skew or"
        " name fewer --clients"
    )
