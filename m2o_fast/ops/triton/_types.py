"""Number types in the words of Triton."""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl

#: Types of image elements that are compiled ahead of time; float16 is like bfloat16.
ELEMENT_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}


def wide_in_kernel(dtype: torch.dtype) -> Any:
    """The type that a kernel computes in, as a constant for it."""
    return tl.float64 if dtype == torch.float64 else tl.float32
