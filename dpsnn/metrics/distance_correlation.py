r"""Distance correlation (Székely, Rizzo & Bakirov 2007; bias-corrected: Székely & Rizzo 2013).

Both estimators need no centred matrix, only sums over the two distance matrices a and b: with n samples, row sums
a_i. and totals a..,

    biased      dCov² = Σ a_ij b_ij / n² - 2 Σ a_i. b_i. / n³ + a.. b.. / n⁴
    corrected   dCov² = (Σ a_ij b_ij - 2/(n-2) Σ a_i. b_i. + a.. b.. / ((n-1)(n-2))) / (n (n-3))

so rows are taken in blocks and memory grows with n, not n². Sums are kept in float64, where cancellation is harmless.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from dpsnn.tensors import Number

BLOCK_ELEMENTS = 9_000_000
"""Distances held at once per matrix, 36 MB in float32: beyond it rows are taken in blocks and recomputed backward. Not
smaller: below 32 MiB glibc serves aligned requests from its heap, which does not reuse them and grows block by block."""


class _Sums(NamedTuple):
    """Per-row sums of two distance matrices and the totals of their products."""

    rows_a: Tensor
    rows_b: Tensor
    ab: Tensor
    aa: Tensor
    bb: Tensor


def _prepare(samples: Tensor) -> Tensor:
    """Flatten, move the origin to the mean (distances do not mind, rounding does) and set the scale to 1."""
    flat = samples.flatten(1)
    flat = flat if flat.dtype == torch.float64 else flat.float()
    flat = flat - flat.mean(0, keepdim=True)
    # Distance correlation ignores scale, and `eps` should too. No gradient: R does not change along it.
    scale = flat.detach().pow(2).sum(1).mean().sqrt()
    return flat / scale if scale > 0 else flat


def _distances(rows: Tensor, samples: Tensor, exponent: Number) -> Tensor:
    """‖rows_i - samples_j‖^exponent in float64 by one matrix product; 0, with gradient 0, where points coincide."""
    row_norms, norms = rows.pow(2).sum(1, keepdim=True), samples.pow(2).sum(1)
    squared = (row_norms + norms) - 2 * (rows @ samples.T)
    if exponent == 2:
        return squared.double().clamp(min=0)
    # Rounding leaves coinciding points a little apart, by about eps √p; the root would make a huge gradient of that.
    noise = 4 * torch.finfo(rows.dtype).eps * samples.shape[1] ** 0.5 * (row_norms + norms)
    apart = squared > noise
    squared = torch.where(apart, squared, torch.ones_like(squared))
    return torch.where(apart, squared.pow(exponent / 2), torch.zeros_like(squared)).double()


def _block_sums(
    x_rows: Tensor, x: Tensor, y_rows: Tensor, y: Tensor, exponent: Number
) -> tuple[Tensor, ...]:
    a, b = _distances(x_rows, x, exponent), _distances(y_rows, y, exponent)
    return a.sum(1), b.sum(1), (a * b).sum(), (a * a).sum(), (b * b).sum()


def _sums(x: Tensor, y: Tensor, exponent: Number) -> _Sums:
    n = len(x)
    block = max(1, min(n, BLOCK_ELEMENTS // n))
    parts = []
    # Not slices: the gradient of each would be a padded copy of the whole.
    for x_rows, y_rows in zip(x.split(block), y.split(block)):
        arguments = (x_rows, x, y_rows, y, exponent)
        if block < n and torch.is_grad_enabled():
            parts.append(checkpoint(_block_sums, *arguments, use_reentrant=False))
        else:
            parts.append(_block_sums(*arguments))
    rows_a, rows_b, ab, aa, bb = zip(*parts)
    totals = (torch.stack(part).sum() for part in (ab, aa, bb))
    return _Sums(torch.cat(rows_a), torch.cat(rows_b), *totals)


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
        A scalar in [0, 1]; about 0 when `x` or `y` is constant. Independent high-dimensional samples do *not* give 0
        unless N is large: compare at equal N, beside the value on shuffled pairs.

    Raises:
        ValueError: If there are fewer than two samples, for which it is undefined.
    """
    _check(x, y, exponent, least=2)
    with torch.autocast(x.device.type, enabled=False):
        sums, n = _sums(_prepare(x), _prepare(y), exponent), len(x)

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
        A scalar in [-1, 1]; 0 when `x` or `y` is constant.

    Raises:
        ValueError: If there are fewer than four samples, for which it is undefined.
    """
    _check(x, y, exponent, least=4)
    with torch.autocast(x.device.type, enabled=False):
        sums, n = _sums(_prepare(x), _prepare(y), exponent), len(x)

    def covariance(products: Tensor, p: Tensor, q: Tensor) -> Tensor:
        centred = products - 2 / (n - 2) * (p * q).sum() + p.sum() * q.sum() / ((n - 1) * (n - 2))
        return centred / (n * (n - 3))

    variance_x = covariance(sums.aa, sums.rows_a, sums.rows_a)
    variance_y = covariance(sums.bb, sums.rows_b, sums.rows_b)
    scale, tiny = variance_x * variance_y, 1e-20
    squared = covariance(sums.ab, sums.rows_a, sums.rows_b) / scale.clamp(min=tiny).sqrt()
    return torch.where(scale > tiny, squared, 0.0).to(torch.promote_types(x.dtype, torch.float32))


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
