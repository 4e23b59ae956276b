"""A 3x3 convolution over reflected borders, on a CPU in Winograd's form.

Borders of zeros cost Winograd's kernels nothing, and reflected ones would have to be copied around the image first.
What differs are the outputs along the border: they lack what the row or column beyond it would have given. That is four
products of matrices, one for each side, and so are its derivatives.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from m2o_fast.ops import winograd
from m2o_fast.ops._choices import winograd_pays
from m2o_fast.ops.convolution import computes_itself, conv2d

_LEAST_SIDE = 4


def reflected_conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``conv2d(pad(x, 1, mode="reflect"), weight, bias)``; only rounding differs. Differentiable once on a CPU.

    Args:
        x: Float ``[N, Ci, H, W]``. Where H or W is 1 there is nothing to mirror, and the edge is repeated.
        weight: Float ``[Co, Ci, 3, 3]``, of the dtype of x (autocast apart).
        bias: Float ``[Co]`` or None.

    Returns:
        Float ``[N, Co, H, W]``, in the dtype and memory format of x.
    """
    exact = x.dtype == weight.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    if exact and computes_itself(x, weight) and _pays(x, weight):
        return _Reflected.apply(x, weight, bias)
    mode = "reflect" if min(x.shape[2:]) > 1 else "replicate"
    return conv2d(F.pad(x, (1, 1, 1, 1), mode=mode), weight, bias)


def _pays(x: Tensor, weight: Tensor) -> bool:
    return min(x.shape[2:]) >= _LEAST_SIDE and winograd_pays(x.shape, weight.shape[0])


class _Side(NamedTuple):
    """One of the four borders: outputs along it, inputs that are mirrored beyond it, and the taps that reach there."""

    outputs: tuple[int, int]  # axis of the images, place
    mirrored: tuple[int, int]
    taps: tuple[int, int]  # axis of the kernel, place
    reflects: bool  # corners: those beyond rows are mirrored again, so columns have none


def _sides(x: Tensor) -> Iterator[_Side]:
    for axis in (2, 3):
        last = x.shape[axis] - 1
        yield _Side((axis, 0), (axis, 1), (axis, 0), axis == 2)
        yield _Side((axis, last), (axis, last - 1), (axis, 2), axis == 2)


def _line(x: Tensor, place: tuple[int, int]) -> Tensor:
    """A row or column of all images, a view ``[N, length, C]``."""
    return x.select(*place).transpose(1, 2)


def _neighbours(line: Tensor, reflects: bool) -> Tensor:
    """``[N, length, C]`` to each pixel's three, ``[N * length, C * 3]``: the taps lie side by side in a weight, too."""
    ends = (line[:, 1:2], line[:, -2:-1]) if reflects else (torch.zeros_like(line[:, :1]),) * 2
    padded = torch.cat([ends[0], line, ends[1]], dim=1)
    length = line.shape[1]
    return torch.stack([padded[:, k : k + length] for k in range(3)], dim=3).view(-1, 3 * line.shape[2])


def _add_neighbours(line: Tensor, gradient: Tensor, reflects: bool) -> None:
    """The adjoint of :func:`_neighbours`: adds ``[N * length, C * 3]`` to a line."""
    parts = gradient.view(*line.shape, 3).unbind(3)
    line += parts[1]
    line[:, :-1] += parts[0][:, 1:]
    line[:, 1:] += parts[2][:, :-1]
    if reflects:
        line[:, 1] += parts[0][:, 0]
        line[:, -2] += parts[2][:, -1]


def _taps(weight: Tensor, side: _Side) -> Tensor:
    """The taps beyond a border as a matrix ``[Co, Ci * 3]``."""
    return weight.select(*side.taps).flatten(1)


class _Reflected(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = winograd.convolve(x, weight, bias)
        for side in _sides(x):
            line = _line(y, side.outputs)
            missing = _neighbours(_line(x, side.mirrored), side.reflects) @ _taps(weight, side).T
            line += missing.view_as(line)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        by_x = winograd.by_input(grad, weight) if need_x else None
        by_weight = winograd.by_weight(grad, x) if need_weight else None
        for side in _sides(x):
            outputs = _line(grad, side.outputs).flatten(0, 1)
            if by_x is not None:
                found = outputs @ _taps(weight, side)
                _add_neighbours(_line(by_x, side.mirrored), found, side.reflects)
            if by_weight is not None:
                found = outputs.T @ _neighbours(_line(x, side.mirrored), side.reflects)
                taps = by_weight.select(*side.taps)
                taps += found.view_as(taps)
        return by_x, by_weight, grad.sum((0, 2, 3)) if need_bias else None
