"""Rows in another order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def inverse(order: Tensor) -> Tensor:
    """The permutation ``[N]`` that undoes ``order``."""
    undone = torch.empty_like(order)
    undone[order] = torch.arange(order.shape[0], device=order.device)
    return undone


def permuted(x: Tensor, order: Tensor) -> Tensor:
    """``x[order]`` for a permutation ``[N]``: torch's gradient would add to zeros, and undo channels_last."""
    return _Permute.apply(x, order)


class _Permute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return x[order]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (order,) = ctx.saved_tensors
        return permuted(grad, inverse(order)), None
