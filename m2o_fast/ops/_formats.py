"""Memory formats: which one an operator's output has, and how a tensor comes into it."""

from __future__ import annotations

import torch
from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """Whether the output of an operator on ``x`` ``[N, C, H, W]`` is channels_last.

    It is if x is (and is not contiguous as well), or if x is a slice of a channels_last tensor. The kernels follow the
    same rule (``csrc/tensor.h``).
    """
    if x.is_contiguous():
        return False
    _, channels, height, width = x.shape
    _, inner, row, column = x.stride()
    count = channels
    for size, stride in ((width, column), (height, row)):
        if size == 1:
            continue
        if inner <= 0 or stride < inner * count:
            return False
        inner, count = stride, size
    return inner > 0 and (height != 1 or width != 1)


def output_format(x: Tensor) -> torch.memory_format:
    """The memory format of an operator's output on ``x``, see :func:`is_channels_last`."""
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


def in_format(y: Tensor, memory_format: torch.memory_format) -> Tensor:
    """``y`` with exactly the strides of a fresh tensor in ``memory_format``, a copy only where they differ.

    ``Tensor.contiguous`` leaves strides of dimensions of size 1 alone; fakes and kernels must agree on those, too.
    """
    strides = torch.empty_like(y, memory_format=memory_format, device="meta").stride()
    return y if y.stride() == strides else torch.empty_like(y, memory_format=memory_format).copy_(y)
