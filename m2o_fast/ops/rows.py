"""Convolutions of stride 1 to a few channels, one row of the kernel at a time, on a CPU.

Kernels that hold sixteen output channels in a vector are idle for most of it where an image has three. Here the taps of
a row of the kernel count as channels: products of matrices lead to as many planes, which are then added up, each moved
by its tap. The gradient by weight is the same in reverse, and so is the gradient by input where it is the input that
has few channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``conv2d(x, weight, bias)``, channels_last.

    Args:
        x: Float ``[N, Ci, H, W]``; channels_last is read without a copy.
        weight: Float ``[Co, Ci, k, k]``.
        bias: Float ``[Co]`` or None.
    """
    count, channels, height, width = x.shape
    outputs, _, side, _ = weight.shape
    rows, columns = height - side + 1, width - side + 1
    taps = weight.permute(2, 3, 0, 1).reshape(side, side * outputs, channels)
    y = x.new_zeros((count, outputs, rows, columns))
    if bias is not None:
        y += bias[:, None, None]
    planes = x.new_empty((side * outputs, rows * width))
    for image, found in zip(x.permute(0, 2, 3, 1), y, strict=True):
        for k in range(side):
            torch.addmm(planes, taps[k], _matrix(image, k, rows).T, beta=float(k > 0), out=planes)
        for k, moved in enumerate(planes.view(side, outputs, rows, width)):
            found += moved[:, :, k : k + columns]
    return y.contiguous(memory_format=torch.channels_last)


def by_weight(grad: Tensor, x: Tensor, side: int) -> Tensor:
    """The gradient of :func:`convolve` by a weight ``[Co, Ci, side, side]``."""
    (_, outputs, rows, columns), width = grad.shape, x.shape[3]
    planes = grad.new_zeros((side, outputs, rows, width))
    taps = x.new_zeros((side, side * outputs, x.shape[1]))
    for image, gradient in zip(x.permute(0, 2, 3, 1), grad, strict=True):
        for k in range(side):
            planes[k, :, :, k : k + columns] = gradient
        for k in range(side):
            taps[k].addmm_(planes.view(side * outputs, -1), _matrix(image, k, rows))
    return taps.view(side, side, outputs, -1).permute(2, 3, 0, 1)


def by_input(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient of ``conv2d(x, weight)`` by x of few channels, channels_last."""
    beyond = weight.shape[2] - 1
    return convolve(F.pad(grad, (beyond,) * 4), weight.flip(2, 3).transpose(0, 1), None)


def _matrix(image: Tensor, first: int, rows: int) -> Tensor:
    """The pixels of some rows of an image ``[H, W, C]``, ``[rows * W, C]``."""
    return image[first : first + rows].reshape(-1, image.shape[2])
