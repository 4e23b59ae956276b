"""``linear``: torch's, but in bfloat16 also fast on a CPU that has no such arithmetic."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from m2o_fast.ops._bfloat16 import in_bfloat16, is_widened


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear``, differentiable any number of times.

    Args:
        x: Floating-point ``[..., I]``.
        weight: ``[O, I]``, of the dtype of x (autocast apart).
        bias: ``[O]`` or None, of the dtype of x (autocast apart).

    Returns:
        ``[..., O]``, in the dtype of x, or in that of autocast.
    """
    if not is_widened(x, weight, bias):
        return F.linear(x, weight, bias)
    x, weight, bias = in_bfloat16(x, weight, bias)
    with torch.autocast("cpu", enabled=False):
        return F.linear(x.float(), weight.float(), None if bias is None else bias.float()).bfloat16()
