"""Pure functions first, torchmetrics Metrics over them second; every metric has a floor."""

from dpsnn.metrics.accuracy import correct
from dpsnn.metrics.distance_correlation import (
    DistanceCorrelation,
    bias_corrected_distance_correlation,
    distance_correlation,
    signed_root,
)
from dpsnn.metrics.floors import majority_share, mean_image, shuffled
from dpsnn.metrics.misfit import relative_misfit
from dpsnn.metrics.reconstruction import mse, psnr, relative_l2, ssim

__all__ = [
    "DistanceCorrelation",
    "bias_corrected_distance_correlation",
    "correct",
    "distance_correlation",
    "majority_share",
    "mean_image",
    "mse",
    "psnr",
    "relative_l2",
    "relative_misfit",
    "shuffled",
    "signed_root",
    "ssim",
]
