"""Group norm, a scale and a shift of each plane, and SiLU, of which autograd keeps the input alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from m2o_fast.losses import at_least_float32
from m2o_fast.nn.norms import Conv2d
from m2o_fast.nn.recomputation import recomputed

_EPS = 1e-5


def groups_of(channels: int, most: int = 32) -> int:
    """The largest power of two that is no more than ``most``, and gives equal groups of two channels at least."""
    fitting = channels & -channels
    if fitting == channels:
        fitting = max(1, fitting // 2)
    return min(fitting, 1 << (most.bit_length() - 1))


class _Statistics(NamedTuple):
    """Of an input's groups, as numbers of its planes: ``[N, C, 1, 1]`` each."""

    mean: Tensor
    inverse: Tensor


class NormSiLU(nn.Module):
    """``SiLU((1 + scale) * GroupNorm(x) + shift)``, with learned scale and shift of the norm.

    Args:
        channels: C.
        groups: As for :func:`groups_of`, at most.
    """

    def __init__(self, channels: int, groups: int = 32) -> None:
        super().__init__()
        self.groups = groups_of(channels, groups)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, convolution: Conv2d, modulation: Tensor | None = None) -> Tensor:
        """What ``convolution`` makes of it; its input is computed again for the backward pass.

        Args:
            x: Float ``[N, C, H, W]``.
            convolution: Takes images of C channels.
            modulation: Float ``[N, 2 C]``, scales and then shifts; ``None``: both are 0.

        Returns:
            Float ``[N, C', H, W]``.
        """
        scale, shift = self.weight.expand(x.shape[0], -1), self.bias.expand(x.shape[0], -1)
        if modulation is not None:
            more, further = modulation.chunk(2, dim=1)
            scale, shift = scale * (1 + more), torch.addcmul(further, shift, 1 + more)
        with torch.no_grad():
            statistics = _statistics(x, self.groups)

        def make() -> Tensor:
            return _Activated.apply(x, scale, shift, statistics, self.groups)

        return recomputed(convolution, make)


def _statistics(x: Tensor, groups: int) -> _Statistics:
    rows, channels, height, width = x.shape
    sizes = rows, channels, height * width, groups
    _, *found = torch.native_group_norm(at_least_float32(x), None, None, *sizes, _EPS)
    return _Statistics(*(numbers.repeat_interleave(channels // groups, 1)[..., None, None] for numbers in found))


class _Activated(torch.autograd.Function):
    """``SiLU(scale * (x - mean) * inverse + shift)``; statistics are functions of x, and are differentiated as such."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, statistics: _Statistics, groups: int) -> Tensor:
        ctx.save_for_backward(x, scale, shift, *statistics)
        ctx.groups = groups
        factor = scale[..., None, None] * statistics.inverse
        before = torch.addcmul(shift[..., None, None] - statistics.mean * factor, at_least_float32(x), factor)
        return F.silu(before, inplace=True).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved, scale, shift, *kept = ctx.saved_tensors
        scale, shift, (mean, inverse) = scale[..., None, None], shift[..., None, None], kept
        centred = at_least_float32(saved) - mean  # so that sums lose nothing to a large mean
        before = torch.addcmul(shift, centred, scale * inverse)
        grad = torch.ops.aten.silu_backward(at_least_float32(grad), before)
        by_shift = grad.sum((2, 3), keepdim=True)
        by_scale = inverse * torch.mul(grad, centred, out=before).sum((2, 3), keepdim=True)
        mean, product = (_group_means(scale * sums, ctx.groups, grad) for sums in (by_shift, by_scale))
        # inverse * (scale * grad - mean - inverse * centred * product), in two passes
        by_x = torch.addcmul(-inverse * mean, centred, -inverse.square() * product)
        by_x = by_x.addcmul_(grad, scale * inverse).to(saved.dtype)
        return by_x, by_scale.flatten(1), by_shift.flatten(1), None, None


def _group_means(sums: Tensor, groups: int, x: Tensor) -> Tensor:
    """Sums over planes ``[N, C, 1, 1]`` to the means over groups, as numbers of their planes."""
    by_group = sums.view(len(x), groups, -1)
    pixels = x.shape[2] * x.shape[3]
    return (by_group.mean(2, keepdim=True) / pixels).expand_as(by_group).reshape_as(sums)
