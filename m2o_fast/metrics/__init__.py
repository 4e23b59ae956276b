"""Numbers that say how good translations are. Images are in [0, 1]; definitions and caveats in ``docs/metrics.md``."""

from m2o_fast.metrics.color import ColorStatistics, color_report
from m2o_fast.metrics.distribution import (
    FeatureBank,
    distribution_report,
    distribution_warnings,
    frechet_distance,
    kid,
    precision_recall,
)
from m2o_fast.metrics.diversity import Lpips, PairwiseDistance, open_lpips
from m2o_fast.metrics.features import Extractor, open_extractor
from m2o_fast.metrics.looks import NearestLook
from m2o_fast.metrics.pixels import PixelErrors
from m2o_fast.metrics.segmentation import Confusion

__all__ = [
    "ColorStatistics",
    "Confusion",
    "Extractor",
    "FeatureBank",
    "Lpips",
    "NearestLook",
    "PairwiseDistance",
    "PixelErrors",
    "color_report",
    "distribution_report",
    "distribution_warnings",
    "frechet_distance",
    "kid",
    "open_extractor",
    "open_lpips",
    "precision_recall",
]
