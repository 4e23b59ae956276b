"""What the tests of residual_merge and leaky_relu_down2 share: their definitions once more, and derivatives."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from m2o_fast.ops import leaky_relu_down2, residual_merge

SCALE, SLOPE = 0.7, 0.2


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def doubled(shape: tuple[int, ...]) -> tuple[int, ...]:
    return *shape[:2], 2 * shape[2], 2 * shape[3]


def merge_shapes(coarse: tuple[int, ...], resample: str | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of a and b whose coarser grid is given."""
    if resample is None:
        return coarse, coarse
    return (doubled(coarse), coarse) if resample == "up2" else (coarse, doubled(coarse))


# The definitions once more, by torch's own operations.


def plain_merge(a: Tensor, b: Tensor, resample: str | None) -> Tensor:
    if resample == "up2":
        b = F.interpolate(b, scale_factor=2, mode="nearest")
    return (a + (F.avg_pool2d(b, 2) if resample == "down2" else b)) * SCALE


def plain_leaky(x: Tensor, slope: float = SLOPE) -> Tensor:
    return F.avg_pool2d(F.leaky_relu(x, slope), 2)


def merge_by(backend: str, resample: str | None) -> Callable[..., Tensor]:
    return lambda a, b: residual_merge(a, b, scale=SCALE, resample_b=resample, backend=backend)


def leaky_by(backend: str, slope: float = SLOPE) -> Callable[..., Tensor]:
    return lambda x: leaky_relu_down2(x, slope=slope, backend=backend)


def derivatives(function: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor, along: list[Tensor]):
    """Result, gradients, and the derivative of the gradients' product with ``along`` by ``grad``."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    y = function(*leaves)
    plain = torch.autograd.grad(y, leaves, grad, retain_graph=True)
    grad = grad.detach().requires_grad_()
    again = torch.autograd.grad(y, leaves, grad, create_graph=True)
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    return [y.detach(), *plain, *torch.autograd.grad(again, grad, along)]
