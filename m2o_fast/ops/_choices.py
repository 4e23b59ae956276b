"""What is used when nobody asks for anything else: one table, set from measurements.

The rows behind it: benchmarks/results/, shown in docs/benchmarks.md. Where a device has no rows yet, the entry is the
expectation from counting memory passes and multiplications, and says so.
"""

from __future__ import annotations

import torch

#: Operator -> device type -> backends, the fastest first. The first one that is there is taken; Triton on a CPU is the
#: interpreter, for tests. CUDA orders are expectations: not run on a GPU yet.
BACKENDS: dict[str, dict[str, tuple[str, ...]]] = {
    "adain_act": {"cpu": ("compiled", "reference", "triton"), "cuda": ("compiled", "triton", "reference")},
    "instance_norm_act": {"cpu": ("compiled", "reference", "triton"), "cuda": ("compiled", "triton", "reference")},
}

#: Operator -> device type -> dtypes whose resampling is folded into the convolution. CUDA: an expectation, from 2.25
#: times fewer multiplications and no tensor in between.
FOLDED: dict[str, dict[str, tuple[torch.dtype, ...]]] = {
    "conv3x3_down2": {
        "cpu": (torch.float32, torch.float64, torch.bfloat16, torch.float16),
        "cuda": (torch.float32, torch.float64, torch.bfloat16, torch.float16),
    },
    "up2_conv3x3": {
        "cpu": (torch.float32, torch.float64, torch.bfloat16, torch.float16),
        "cuda": (torch.float32, torch.float64, torch.bfloat16, torch.float16),
    },
}


def folds(op: str, device: str, dtype: torch.dtype) -> bool:
    """Whether ``op`` folds its resampling into the convolution on this type of device."""
    return dtype in FOLDED[op].get(device, ())
