"""Nearest upsampling and a 5x5 convolution over reflected borders, as one 3x3 convolution at the lower resolution.

Of the 5x5 pixels that an output sees, those copied from one pixel share a product: for each of the four places of an
output in its square that leaves 3x3 products, 2.8 times fewer, in a form that Winograd's kernels take, and the image at
full resolution never exists. Exact algebra; the folded kernel is linear in the weight, so gradients of any order are
right.

A reflection of the upsampled image is none of the image before: its row -1 is a copy of row 0, that of the folded
convolution one of row 1. What that makes, in the outermost squares alone, is added afterwards.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from m2o_fast.ops._checks import wide
from m2o_fast.ops._choices import folding_5x5_pays, folds
from m2o_fast.ops._formats import in_format, output_format
from m2o_fast.ops._library import forced_backend, needs_torch
from m2o_fast.ops.convolution import conv2d
from m2o_fast.ops.linear import linear
from m2o_fast.ops.reflected import reflected_conv3x3


def up2_reflected_conv5x5(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, fold: bool | None = None) -> Tensor:
    """``conv2d(pad(interpolate(x, scale_factor=2), 2, mode="reflect"), weight, bias)``; only rounding differs.

    Args:
        x: Float ``[N, Ci, H, W]``. Where H or W is 1 there is nothing to mirror, and the edge is repeated.
        weight: Float ``[Co, Ci, 5, 5]``, of the dtype of x (autocast apart).
        bias: Float ``[Co]`` or None, of the dtype of x (autocast apart).
        fold: Whether to fold; ``None`` takes what was measured to be faster on this kind of device. In 16 bits sums of
            weights are rounded once more.

    Returns:
        Float ``[N, Co, 2 H, 2 W]``, in the dtype and memory format of x, or in the dtype of autocast.

    Raises:
        ValueError: A weight of a wrong shape.
    """
    if x.dim() != 4 or weight.dim() != 4 or weight.shape[2:] != (5, 5) or x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"up2_reflected_conv5x5: needs x [N, Ci, H, W] and weight [Co, Ci, 5, 5], got {list(x.shape)} and "
            f"{list(weight.shape)}"
        )
    flat = min(x.shape[2:]) == 1
    if flat or needs_torch() or not (_folds(x, weight) if fold is None else fold):
        mode = "replicate" if flat else "reflect"
        return conv2d(F.pad(F.interpolate(x, scale_factor=2, mode="nearest"), (2,) * 4, mode=mode), weight, bias)
    taps = weight.reshape(-1, 25)
    kernels = _product(taps, _sums(taps)).view(-1, x.shape[1], 3, 3)
    # Channels: place above or below, place at the left or right, Co. Unfolding them is a copy.
    squares = reflected_conv3x3(x, kernels, None if bias is None else bias.repeat(4))
    y = squares.permute(0, 2, 3, 1).unflatten(3, (2, 2, -1)).transpose(2, 3)
    y = y.reshape(x.shape[0], 2 * x.shape[2], 2 * x.shape[3], -1)
    return in_format(_Framed.apply(y, *_frame(x, weight)).permute(0, 3, 1, 2), output_format(x))


def _folds(x: Tensor, weight: Tensor) -> bool:
    if forced_backend() == "reference" or not folds("up2_reflected_conv5x5", x.device.type, x.dtype):
        return False
    return folding_5x5_pays(x.shape, weight.shape[0])


def _product(taps: Tensor, sums: Tensor) -> Tensor:
    """Taps ``[Co * Ci, 25]`` as kernels ``[kernels, Co * Ci, taps]`` of ``sums [kernels, 25, taps]``, rounded once."""
    with torch.autocast(taps.device.type, enabled=False):
        return (taps.to(sums.dtype) @ sums).to(taps.dtype)


# No constant comes from the host: a CUDA graph records no such copy.


def _sums(taps: Tensor) -> Tensor:
    """``[4, 25, 9]``: of each folded kernel, which taps fall together."""
    place, tap, folded = (torch.arange(count, device=taps.device) for count in (2, 5, 3))
    line = ((place[:, None, None] + tap) // 2 == folded[:, None]).to(wide(taps.dtype))
    return torch.einsum("pia,qjb->pqabij", line, line).reshape(4, 25, 9)


def _edges(taps: Tensor) -> Tensor:
    """``[4, 25, 10]``: the two lines of the kernel that see row -1, column -1, row H and column W, in that order."""
    eye = torch.eye(5, dtype=wide(taps.dtype), device=taps.device)
    seen = (eye[:, :2].flip(1), eye[:, 3:].flip(1))
    lines = [torch.einsum(way, two, eye) for two in seen for way in ("ak,bj->abkj", "bk,aj->abkj")]
    return torch.stack(lines).view(4, 25, 10)


def _frame(x: Tensor, weight: Tensor) -> list[Tensor]:
    """What the true reflection adds to the two outermost lines of outputs, channels last: above, left, below, right.

    It differs from the one of ``x``, which the folded convolution saw, in the rows -1 and H and the columns -1 and W.
    """
    taps = weight.reshape(-1, 25)
    kernels = _product(taps, _edges(taps)).view(4, *weight.shape[:2], 2, 5)
    lines: list[Tensor] = []
    for k, (edge, inner) in enumerate(((0, 1), (-1, -2))):
        row, column = _difference(x[:, :, edge], x[:, :, inner]), _difference(x[..., edge], x[..., inner])
        for corner in (1, -2):  # the rows have these
            column[:, :, corner].zero_()
        lines += [_convolved(row, kernels[2 * k]).transpose(1, 2), _convolved(column, kernels[2 * k + 1])]
    return lines


class _Framed(torch.autograd.Function):
    """Adds a frame to images ``[N, H, W, C]`` in place: autograd's own slices would copy the gradient for each side."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, above: Tensor, left: Tensor, below: Tensor, right: Tensor) -> Tensor:
        y[:, :2] += above
        y[:, :, :2] += left
        y[:, -2:] += below
        y[:, :, -2:] += right
        ctx.mark_dirty(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return grad, grad[:, :2], grad[:, :, :2], grad[:, -2:], grad[:, :, -2:]


def _difference(edge: Tensor, inner: Tensor) -> Tensor:
    """Of lines ``[N, Ci, L]``, one upsampled and reflected, one reflected and upsampled: ``[N, Ci, 2 L + 4]``."""
    truly = F.pad(edge.repeat_interleave(2, dim=2), (2, 2), mode="reflect")
    return truly - F.pad(inner, (1, 1), mode="reflect").repeat_interleave(2, dim=2)


def _convolved(line: Tensor, kernel: Tensor) -> Tensor:
    """A line ``[N, Ci, L + 4]`` through two lines of a kernel, ``[Co, Ci, 2, 5]``: ``[N, L, 2, Co]``."""
    seen = line.unfold(2, 5, 1).transpose(1, 2).flatten(2)  # [N, L, Ci * 5]
    return linear(seen, kernel.permute(2, 0, 1, 3).flatten(2).flatten(0, 1)).unflatten(2, (2, -1))
