"""Fused operations on tensors: plain functions, usable without the rest of the package.

Every one has a reference in plain torch, which is its definition, and kernels in C++, CUDA or Triton that give the same
result faster. :func:`backends` says which of them is in use here and why.
"""

from m2o_fast.ops._library import Backend, backends, build_info, use_backend
from m2o_fast.ops.adain import adain_act, instance_norm_act
from m2o_fast.ops.convolution import conv2d
from m2o_fast.ops.histogram import color_histogram, color_recall, foreground_color, unique_color_count
from m2o_fast.ops.histogram_numpy import (
    color_histogram_numpy,
    color_recall_numpy,
    foreground_color_numpy,
    unique_color_count_numpy,
)
from m2o_fast.ops.linear import linear
from m2o_fast.ops.modulate import scale_bias_act, scale_channels
from m2o_fast.ops.modulated_conv import demodulation, modulated_conv2d, style_affines
from m2o_fast.ops.resample import conv3x3_down2, up2_conv3x3
from m2o_fast.ops.residual import leaky_relu_down2, residual_merge
from m2o_fast.ops.soft_histogram import soft_color_histogram

__all__ = [
    "Backend",
    "adain_act",
    "backends",
    "build_info",
    "color_histogram",
    "color_histogram_numpy",
    "color_recall",
    "color_recall_numpy",
    "conv2d",
    "conv3x3_down2",
    "demodulation",
    "foreground_color",
    "foreground_color_numpy",
    "instance_norm_act",
    "leaky_relu_down2",
    "linear",
    "modulated_conv2d",
    "residual_merge",
    "scale_bias_act",
    "scale_channels",
    "soft_color_histogram",
    "style_affines",
    "unique_color_count",
    "unique_color_count_numpy",
    "up2_conv3x3",
    "use_backend",
]
