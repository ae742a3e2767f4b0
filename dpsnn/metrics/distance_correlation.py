r"""Distance correlation (Székely, Rizzo & Bakirov 2007; bias-corrected: Székely & Rizzo 2013).

Both estimators need no centred matrix, only sums over the two distance matrices a and b: with n samples, row sums
a_i. and totals a..,

    biased      dCov² = Σ a_ij b_ij / n² - 2 Σ a_i. b_i. / n³ + a.. b.. / n⁴
    corrected   dCov² = (Σ a_ij b_ij - 2/(n-2) Σ a_i. b_i. + a.. b.. / ((n-1)(n-2))) / (n (n-3))

so rows are taken in blocks and memory grows with n, not n². Sums are kept in float64, where cancellation is harmless
but for the corrected one of extreme outliers, which hence has a second way (`_centred_products`).
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from dpsnn.tensors import Number

BLOCK_ELEMENTS = 1 << 19
"""Distances held at once per matrix, about what stays in a processor's cache; rows are taken in blocks of so many."""


class _Sums(NamedTuple):
    """Per-row sums of two distance matrices and the totals of their products, in float64."""

    rows_a: Tensor
    rows_b: Tensor
    ab: Tensor
    aa: Tensor
    bb: Tensor


def _near_one(samples: Tensor) -> Tensor:
    """Divide by the power of two next to the largest value: exact, and squares neither overflow nor vanish."""
    largest = samples.detach().abs().amax()
    power = largest / (2 * torch.frexp(largest).mantissa)
    return samples / torch.where(largest > 0, power, 1.0)


def _prepare(samples: Tensor) -> Tensor:
    """Flatten, move the origin to the mean (distances do not mind, rounding does) and set the scale to 1.

    Samples that are all the same become 0; where a value is not finite, NaN comes out.
    """
    flat = samples.flatten(1)
    flat = _near_one(flat if flat.dtype == torch.float64 else flat.float())
    flat = _near_one(flat - flat.mean(0, keepdim=True))
    if (flat == flat[:1]).all():
        # The mean of equal values is off by rounding, which must not be blown up.
        return flat * 0
    # Distance correlation ignores scale, and `eps` should too. No gradient: R does not change along it.
    return flat / flat.detach().pow(2).sum(1).mean().sqrt()


class _Distances:
    """The matrix ‖s_i - s_j‖^exponent above its diagonal, some rows at a time, in buffers made once.

    The other half is the same by symmetry, and matrix products are most of the work. Allocating buffers anew for every
    block takes as long as filling them, and fragments the heap.
    """

    def __init__(self, samples: Tensor, exponent: Number) -> None:
        n, width = samples.shape
        self.samples = samples
        self.exponent = exponent
        self.norms = samples.pow(2).sum(1)
        # Rounding leaves coinciding points a little apart, by about eps √width; the root would make a huge gradient
        # of that.
        self.noise = 4 * torch.finfo(samples.dtype).eps * width**0.5
        self.size = max(1, min(n, BLOCK_ELEMENTS // n))
        self.buffers = samples.new_empty(3, self.size * n)

    def blocks(self) -> list[slice]:
        """Ranges of rows that together are all."""
        n = len(self.samples)
        return [slice(start, min(start + self.size, n)) for start in range(0, n, self.size)]

    def of(self, rows: slice) -> tuple[Tensor, Tensor]:
        """`(distances, squared distances)` from some samples to themselves and all after them, until the next call.

        Where points coincide they are 0 and infinity, so that their quotient is 0. With the exponent 2, which has no
        root, both are the squared distance.
        """
        shape = rows.stop - rows.start, len(self.samples) - rows.start
        squared, power, limit = self.buffers[:, : shape[0] * shape[1]].view(3, *shape)
        own, others = self.norms[rows, None], self.norms[rows.start :]
        points = self.samples[rows.start :]
        torch.addmm(others, points[: shape[0]], points.T, alpha=-2, out=squared)
        squared += own
        if self.exponent == 2:
            return squared.clamp_(min=0), squared
        torch.add(others, own, out=limit).mul_(self.noise)
        coincide = squared <= limit
        squared.masked_fill_(coincide, 0)
        torch.pow(squared, self.exponent / 2, out=power)
        return power, squared.masked_fill_(coincide, math.inf)

    def pull_back(
        self, rows: slice, gradient: Tensor, distances: Tensor, squared: Tensor, into: Tensor
    ) -> None:
        """Add the gradient by the samples, from that by the distances of `of(rows)` (which is used up).

        With w_ij = g_ij · exponent · ‖s_i - s_j‖^(exponent - 2) it is Σ_j w_ij (s_i - s_j) for either end.
        """
        if self.exponent != 2:
            gradient.mul_(distances).div_(squared)
        gradient.mul_(self.exponent)
        own, others = self.samples[rows], self.samples[rows.start :]
        into[rows].addcmul_(gradient.sum(1, keepdim=True), own).addmm_(gradient, others, alpha=-1)
        after, count = gradient[:, len(own) :], len(own)
        into[rows.stop :].addcmul_(after.sum(0).unsqueeze(1), others[count:])
        into[rows.stop :].addmm_(after.T, own, alpha=-1)


class _DistanceSums(torch.autograd.Function):
    """All of `_Sums`, with the gradient in closed form: autograd would keep twenty matrices of distances for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, exponent: Number) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, y)
        ctx.exponent = exponent
        of_x, of_y = _Distances(x, exponent), _Distances(y, exponent)
        row_sums = x.new_zeros(2, len(x), dtype=torch.float64)
        products = x.new_zeros(3, dtype=torch.float64)
        for rows in of_x.blocks():
            a, b = of_x.of(rows)[0].double(), of_y.of(rows)[0].double()
            count = len(a)
            for sums, part in zip(row_sums, (a, b)):
                sums[rows] += part.sum(1)
                sums[rows.stop :] += part[:, count:].sum(0)
            for k, (p, q) in enumerate(((a, b), (a, a), (b, b))):
                diagonal = (p[:, :count] * q[:, :count]).sum()
                products[k] += 2 * torch.dot(p.view(-1), q.view(-1)) - diagonal
        return *row_sums.unbind(), *products.unbind()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, y = ctx.saved_tensors
        of_x, of_y = _Distances(x, ctx.exponent), _Distances(y, ctx.exponent)
        rows_a, rows_b, ab, aa, bb = (gradient.to(x.dtype) for gradient in gradients)
        wants_x, wants_y, _ = ctx.needs_input_grad
        by_x = torch.zeros_like(x) if wants_x else None
        by_y = torch.zeros_like(y) if wants_y else None
        with torch.autocast(x.device.type, enabled=False):
            for rows in of_x.blocks():
                (a, a_squared), (b, b_squared) = of_x.of(rows), of_y.of(rows)
                # Of a distance in both of its places in the whole matrix: in the row of each of its ends.
                if by_x is not None:
                    by_a = rows_a[rows.start :] + rows_a[rows, None]
                    by_a.add_(2 * ab * b).add_(4 * aa * a)
                    of_x.pull_back(rows, by_a, a, a_squared, by_x)
                if by_y is not None:
                    by_b = rows_b[rows.start :] + rows_b[rows, None]
                    by_b.add_(2 * ab * a).add_(4 * bb * b)
                    of_y.pull_back(rows, by_b, b, b_squared, by_y)
        return by_x, by_y, None


def _check(x: Tensor, y: Tensor, exponent: Number, least: int) -> None:
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} samples and y {len(y)}; they must be the same samples")
    if len(x) < least:
        raise ValueError(
            f"distance correlation of {len(x)} samples is undefined; give {least} or more"
        )
    if not 0 < exponent <= 2:
        raise ValueError(f"exponent is {exponent}; it must be in (0, 2]")


def distance_correlation(
    x: Float[Tensor, "n ..."],
    y: Float[Tensor, "n ..."],
    exponent: Number = 1.0,
    eps: Number = 1e-12,
) -> Float[Tensor, ""]:
    r"""Biased sample distance correlation, the leakage that NoPeek penalises.

    Székely, Rizzo & Bakirov (2007): their R, not its square. N samples; trailing axes are flattened.

    Args:
        x: Samples `(N, *P)`, for instance images `(N, C, H, W)`.
        y: The same N samples seen elsewhere, `(N, *Q)`; Q need not match P.
        exponent: Power of the Euclidean distance in (0, 2]; 2 gives sqrt(linear CKA), the statistic of Titcombe et al.
        eps: Floor under both roots, in units of dCov² of samples scaled to unit mean square; it keeps the gradient
            finite where samples are constant.

    Returns:
        A scalar in [0, 1]; about 0 when `x` or `y` is constant, not a number when one of their values is not.
        Independent high-dimensional samples do *not* give 0 unless N is large: compare at equal N, beside the value on
        shuffled pairs.

    Raises:
        ValueError: If there are fewer than two samples, for which it is undefined.
    """
    _check(x, y, exponent, least=2)
    with torch.autocast(x.device.type, enabled=False):
        sums, n = _Sums(*_DistanceSums.apply(_prepare(x), _prepare(y), exponent)), len(x)

    def covariance(products: Tensor, p: Tensor, q: Tensor) -> Tensor:
        return products / n**2 - 2 * (p * q).sum() / n**3 + p.sum() * q.sum() / n**4

    covariance_xy = covariance(sums.ab, sums.rows_a, sums.rows_b)
    variance_x = covariance(sums.aa, sums.rows_a, sums.rows_a)
    variance_y = covariance(sums.bb, sums.rows_b, sums.rows_b)
    squared = covariance_xy / (variance_x.clamp(min=eps) * variance_y.clamp(min=eps)).sqrt()
    return squared.clamp(min=eps).sqrt().to(torch.promote_types(x.dtype, torch.float32))


def bias_corrected_distance_correlation(
    x: Float[Tensor, "n ..."], y: Float[Tensor, "n ..."], exponent: Number = 1.0
) -> Float[Tensor, ""]:
    r"""Bias-corrected *squared* distance correlation, the leakage that reports quote.

    Székely & Rizzo (2013): expected to be 0 for independent samples of any dimension and any N, hence below 0 for
    about half of them. Arguments as in `distance_correlation`.

    Returns:
        A scalar in [-1, 1]; 0 when `x` or `y` is constant or all distances in it are the same, not a number when one
        of their values is not.

    Raises:
        ValueError: If there are fewer than four samples, for which it is undefined.
    """
    _check(x, y, exponent, least=4)
    with torch.autocast(x.device.type, enabled=False):
        # In float64: centring takes nearly everything off where one sample lies far away from all others.
        products, x_squared, y_squared = _centred_products(
            _prepare(x.double()), _prepare(y.double()), exponent
        )
    scale = x_squared * y_squared
    constant = scale == 0
    squared = torch.where(constant, 0.0, products / torch.where(constant, 1.0, scale).sqrt())
    return squared.to(torch.promote_types(x.dtype, torch.float32))


RESOLVED = 1e-8
"""Share of the squares of distances above which what centring leaves of them survives the sums' cancellation."""

ROUNDING = 1e-26
"""Share below which it is rounding however it is computed: distances vary by less than 1e-13 of themselves."""


def _centred_products(x: Tensor, y: Tensor, exponent: Number) -> tuple[Tensor, Tensor, Tensor]:
    """Σ A_ij B_ij, Σ A_ij² and Σ B_ij² of the U-centred distances; those that are only rounding are 0."""
    sums, n = _Sums(*_DistanceSums.apply(x, y, exponent)), len(x)

    def centred(products: Tensor, p: Tensor, q: Tensor) -> Tensor:
        return products - 2 / (n - 2) * (p * q).sum() + p.sum() * q.sum() / ((n - 1) * (n - 2))

    x_squared = centred(sums.aa, sums.rows_a, sums.rows_a)
    y_squared = centred(sums.bb, sums.rows_b, sums.rows_b)
    if not (x_squared < RESOLVED * sums.aa or y_squared < RESOLVED * sums.bb):
        return centred(sums.ab, sums.rows_a, sums.rows_b), x_squared, y_squared
    # As in the paper, with matrices: it takes memory that grows with n², but such samples are rare.
    a, b = _u_centred(x, exponent), _u_centred(y, exponent)
    x_squared, y_squared = (a * a).sum(), (b * b).sum()
    return (
        (a * b).sum(),
        torch.where(x_squared > ROUNDING * sums.aa, x_squared, 0.0),
        torch.where(y_squared > ROUNDING * sums.bb, y_squared, 0.0),
    )


def _u_centred(samples: Tensor, exponent: Number) -> Tensor:
    """A_ij of Székely & Rizzo (2013): distances less their means over rows and columns, for n - 2 of n samples."""
    n = len(samples)
    a = torch.cdist(samples, samples, compute_mode="donot_use_mm_for_euclid_dist") ** exponent
    rows = a.sum(1)
    centred = a - (rows + rows.unsqueeze(1)) / (n - 2) + rows.sum() / ((n - 1) * (n - 2))
    return centred.fill_diagonal_(0)


def signed_root(squared: Tensor) -> Tensor:
    """sign(s)·√|s|: a bias-corrected square on the scale of R, still around 0 where there is nothing."""
    return squared.sign() * squared.abs().sqrt()


class DistanceCorrelation(Metric):
    """Distance correlation of all samples seen since the last reset, as a torchmetrics Metric.

    Args:
        exponent: As in `distance_correlation`.
        bias_corrected: Report sign·√|bias-corrected R²| rather than the biased R.
    """

    is_differentiable = True
    higher_is_better = None
    full_state_update = False
    x: list[Tensor]
    y: list[Tensor]

    def __init__(self, exponent: Number = 1.0, bias_corrected: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.exponent = exponent
        self.bias_corrected = bias_corrected
        self.add_state("x", default=[], dist_reduce_fx="cat")
        self.add_state("y", default=[], dist_reduce_fx="cat")

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add samples `(N, *P)` and the same samples seen elsewhere `(N, *Q)`."""
        self.x.append(x.flatten(1))
        self.y.append(y.flatten(1))

    def compute(self) -> Tensor:
        x, y = dim_zero_cat(self.x), dim_zero_cat(self.y)
        if self.bias_corrected:
            return signed_root(bias_corrected_distance_correlation(x, y, self.exponent))
        return distance_correlation(x, y, self.exponent)
