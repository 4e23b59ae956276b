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
from m2o_fast.metrics.following import ContentKept, ReferencesFollowed, color_statistics
from m2o_fast.metrics.looks import NearestLook
from m2o_fast.metrics.pixel_colors import PixelColors, pixel_color_report
from m2o_fast.metrics.pixels import PixelErrors
from m2o_fast.metrics.segmentation import Confusion
from m2o_fast.metrics.variety import LookVariety, variety_report

__all__ = [
    "ColorStatistics",
    "Confusion",
    "ContentKept",
    "Extractor",
    "FeatureBank",
    "LookVariety",
    "Lpips",
    "NearestLook",
    "PairwiseDistance",
    "PixelColors",
    "PixelErrors",
    "ReferencesFollowed",
    "color_report",
    "color_statistics",
    "distribution_report",
    "distribution_warnings",
    "frechet_distance",
    "kid",
    "open_extractor",
    "open_lpips",
    "pixel_color_report",
    "precision_recall",
    "variety_report",
]
