"""Diagonal Fisher information leakage: what noise on the wire does to attackers who are right on average.

Maeng, Guo, Kariyappa & Suh 2023 (arXiv 2305.04146). Of any unbiased attacker the mean squared error is at least 1/dFIL
(Cramér & Rao). No attacker of pictures is unbiased: each knows how pictures look and is drawn towards the usual, and
so its error may be, and is, far below. The number is of no use as a bound; it compares mechanisms where prior
knowledge counts for little.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from dpsnn.errors import NoLikelihood
from dpsnn.tensors import Inputs, Number

PROBES = 64
"""Values of a client's output up to which every one is looked at; of more so many random sums."""

AT_ONCE = 128
"""Gradients that are taken at a time."""


def squared_jacobians(
    client: Callable[[Tensor], Tensor], images: Inputs, seed: int = 0
) -> Float[Tensor, " n"]:
    """‖J‖², the sum of squares of all derivatives of a client's output by its input, at each of n images.

    Exact up to PROBES values of the output; of more an estimate that is right on average (Hutchinson 1990: E‖Jᵀv‖² for
    random signs v), with a standard error of at most √(2 / PROBES), 18 %, and less the more directions J has.

    Args:
        client: Images → activations, row by row, with gradients.
        images: In [0, 1], or rows of any shape.
        seed: Of the signs.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for image in images:
        with torch.no_grad():
            values = client(image[None])[0].numel()
        if values <= PROBES:
            probes, share = torch.eye(values), 1.0
        else:
            probes = torch.randint(2, (PROBES, values), generator=generator) * 2.0 - 1
            share = 1 / PROBES
        total = 0.0
        for part in probes.split(AT_ONCE):
            given = image.expand(len(part), *image.shape).detach().clone().requires_grad_()
            output = client(given).flatten(1)
            if not output.requires_grad:
                raise NoLikelihood(
                    "the client has no gradient, hence no Fisher information is known"
                )
            (slopes,) = torch.autograd.grad((output * part.to(output)).sum(), given)
            total += float(slopes.double().pow(2).sum())
        found.append(share * total)
    return torch.tensor(found)


def unbiased_bound(
    squares: Float[Tensor, " n"], information: Number, dimension: int, queries: int = 1
) -> Float[Tensor, " n"]:
    """1/dFIL at each image: the least mean squared error, per value of the image, of whoever is right on average.

    Of an estimate of `squared_jacobians` it is an estimate too, on average a little above the truth.

    dFIL is the trace of the Fisher information of the image, k·I·‖J‖² for noise of the same information I on every
    value of k transmissions, over the number of values of the image. Infinite where nothing is told.

    Args:
        squares: `squared_jacobians`.
        information: Fisher information of the noise for a shift of one value: 1/σ² if Gaussian, 1/b² if Laplace.
        dimension: Values of an image.
        queries: k.
    """
    return dimension / (queries * information * squares)
