"""Batch norm over the whole batch of all processes that train together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class BatchNorm2d(nn.BatchNorm2d):
    """torch's batch norm; where several processes train, its statistics are those of all their images.

    All processes must bring as many images to every call. What runs in evaluation mode needs nobody else.

    Attributes:
        average: Replaces tensors by their means over the processes; ``None``: there is one process.
        shares: How many processes there are.
    """

    average: Callable[[list[Tensor]], None] | None = None
    shares: int = 1

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` to the same shape and dtype; statistics are at least float32."""
        if self.average is None or not self.training:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # sums of many, in a format that holds them
        mean = _MeanOverAll.apply(wide.mean((0, 2, 3)), self.average)
        centred = wide - mean[:, None, None]
        variance = _MeanOverAll.apply(centred.square().mean((0, 2, 3)), self.average)
        self._remember(mean, variance, self.shares * x.numel() // x.shape[1])
        scale = (variance + self.eps).rsqrt() * (1 if self.weight is None else self.weight)
        y = centred * scale[:, None, None]
        return (y if self.bias is None else y + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (count / (count - 1)), share)


class _MeanOverAll(torch.autograd.Function):
    """The mean over all processes. Gradients are averaged over them in the end, so here they are, too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, average: Callable[[list[Tensor]], None]) -> Tensor:
        ctx.average = average
        mean = values.clone()
        average([mean])
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.clone()
        ctx.average([gradient])
        return gradient, None
