"""Pure functions first; metrics of reconstructions, one idea a file, found by walking this folder, over them second.

Every metric has a floor.
"""

from dpsnn.metrics.accuracy import correct
from dpsnn.metrics.base import Metric, Scored
from dpsnn.metrics.distance_correlation import (
    DistanceCorrelation,
    bias_corrected_distance_correlation,
    distance_correlation,
    signed_root,
)
from dpsnn.metrics.floors import majority_share, mean_image, shuffled
from dpsnn.metrics.misfit import relative_misfit
from dpsnn.metrics.relative import relative_l2
from dpsnn.metrics.squared_error import mse, psnr
from dpsnn.metrics.structural import ssim

__all__ = [
    "DistanceCorrelation",
    "Metric",
    "Scored",
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
