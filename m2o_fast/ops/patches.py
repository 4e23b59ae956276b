"""Convolutions of few pixels as one product of matrices: gathered patches times the weight, on a CPU.

A patch is what one output sees, all channels of a pixel side by side. In channels_last a row of it is one piece of
memory, and so is a row of a channels_last weight, so gathering costs little and the weight is read where it lies. The
gradient by input is the product with the weight the other way, whose patches are added up where they overlap; the
gradient by weight is the product of gradients and patches. Torch's kernels need the weight in an order of their own,
and where images have a few pixels and hundreds of channels that copy, and sums over so few pixels, take most of their
time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Geometry(NamedTuple):
    """How a convolution goes over an image."""

    stride: int
    padding: int
    reflected: bool = False  # the padding, which is 1 then, is the image's own reflection; patches have zeros


def output_size(x: Tensor, weight: Tensor, geometry: Geometry) -> tuple[int, int]:
    """Height and width of what a convolution gives."""
    height, width = ((side + 2 * geometry.padding - weight.shape[2]) // geometry.stride + 1 for side in x.shape[2:])
    return height, width


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """``conv2d(x, weight, bias, stride, padding)``, channels_last as all results here.

    Args:
        x: Float ``[N, Ci, H, W]``.
        weight: Float ``[Co, Ci, k, k]``, k a multiple of the stride; best in channels_last.
        bias: Float ``[Co]`` or None.
        geometry: Stride and padding.

    Returns:
        Float ``[N, Co, H', W']``.
    """
    size = (x.shape[0], weight.shape[0], *output_size(x, weight, geometry))
    y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    patches, matrix, out = _gathered(x, weight.shape[2], geometry), _matrix(weight).T, _pixels(y)
    torch.mm(patches, matrix, out=out) if bias is None else torch.addmm(bias, patches, matrix, out=out)
    return y


def convolve_transposed(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """``conv_transpose2d(x, weight, bias, stride, padding)``; a weight ``[Co, Ci, k, k]``."""
    stride, padding = geometry.stride, geometry.padding
    height, width = (stride * (side - 1) + weight.shape[2] - 2 * padding for side in x.shape[2:])
    y = by_input(x, weight, (height, width), geometry)
    return y if bias is None else y.add_(bias[:, None, None])


def by_input(grad: Tensor, weight: Tensor, size: tuple[int, int], geometry: Geometry) -> Tensor:
    """The gradient of :func:`convolve` by images of ``size``."""
    patches = _pixels(grad) @ _matrix(weight)
    return _overlapped(patches, grad.shape, weight.shape[2], size, geometry)


def by_weight(grad: Tensor, x: Tensor, kernel: int, geometry: Geometry) -> Tensor:
    """The gradient of :func:`convolve` by a weight ``[Co, Ci, kernel, kernel]``."""
    found = _pixels(grad).T @ _gathered(x, kernel, geometry)
    return found.view(-1, kernel, kernel, x.shape[1]).permute(0, 3, 1, 2)


def _matrix(weight: Tensor) -> Tensor:
    """``[Co, k * k * Ci]``: no copy of a channels_last weight."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def _pixels(x: Tensor) -> Tensor:
    """``[N * H * W, C]``: no copy of channels_last images."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _gathered(x: Tensor, kernel: int, geometry: Geometry) -> Tensor:
    """The patches of all outputs, ``[N * H' * W', kernel * kernel * C]``."""
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0) + (geometry.padding,) * 4)
    windows = padded.unfold(1, kernel, geometry.stride).unfold(2, kernel, geometry.stride)
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, kernel * kernel * x.shape[1])


def _overlapped(patches: Tensor, grid: torch.Size, kernel: int, size: tuple[int, int], geometry: Geometry) -> Tensor:
    """The adjoint of :func:`_gathered`: patches of outputs ``[N, Co, H', W']`` added up to images of ``size``.

    A patch is cut into squares as large as the stride: squares of one place in all patches do not overlap.
    """
    stride, padding = geometry.stride, geometry.padding
    (count, _, rows, columns), parts = grid, kernel // stride
    sides = [max(-(-(side + padding) // stride), n + parts - 1) for side, n in zip(size, (rows, columns), strict=True)]
    patches = patches.view(count, rows, columns, parts, stride, parts, stride, -1)
    squares = patches.new_zeros((count, sides[0], stride, sides[1], stride, patches.shape[-1]))
    for i in range(parts):
        for j in range(parts):
            squares[:, i : i + rows, :, j : j + columns] += patches[:, :, :, i, :, j].transpose(2, 3)
    image = squares.view(count, sides[0] * stride, sides[1] * stride, -1).permute(0, 3, 1, 2)
    cut = image[:, :, padding : padding + size[0], padding : padding + size[1]]
    return cut.clone(memory_format=torch.channels_last)
