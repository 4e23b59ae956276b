"""Fused operations on tensors: plain functions, usable without the rest of the package.

Every one has a reference in plain torch, which is its definition, and kernels in C++, CUDA or Triton that give the same
result faster. :func:`backends` says which of them is in use here and why.
"""

from m2o_fast.ops._library import Backend, backends, build_info, use_backend
from m2o_fast.ops.adain import adain_act, instance_norm_act
from m2o_fast.ops.resample import conv3x3_down2, up2_conv3x3

__all__ = ["Backend", "adain_act", "backends", "build_info", "conv3x3_down2", "instance_norm_act", "up2_conv3x3", "use_backend"]
