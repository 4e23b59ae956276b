"""Numbers that say how good translations are. Images are in [0, 1]; definitions and caveats in ``docs/metrics.md``."""

from m2o_fast.metrics.color import ColorStatistics, color_report
from m2o_fast.metrics.evaluator import evaluate_multimodal, evaluate_unimodal
from m2o_fast.metrics.pixels import MeanSquaredError

__all__ = ["ColorStatistics", "MeanSquaredError", "color_report", "evaluate_multimodal", "evaluate_unimodal"]
