"""What the tests of adain_act share: runs of it, and the comparison with float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from cases import Target, judge
from torch import Tensor

from m2o_fast.ops import adain_act

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(x: Tensor, gamma: Tensor, beta: Tensor, grad: Tensor, function=adain_act, **options) -> tuple[Tensor, ...]:
    """y and the gradients of x, gamma and beta."""
    x, gamma, beta = (tensor.detach().requires_grad_() for tensor in (x, gamma, beta))
    y = function(x, gamma, beta, **options)
    return y.detach(), *torch.autograd.grad(y, (x, gamma, beta), grad)


def output_shape(shape: tuple[int, ...], resample: str | None) -> tuple[int, ...]:
    factor = {None: 1, "up2": 2, "down2": 0.5}[resample]
    return *shape[:2], int(factor * shape[2]), int(factor * shape[3])


def in_torch(x: Tensor, gamma: Tensor, beta: Tensor, *, resample: str | None = None, **options) -> Tensor:
    """The same without fusion: what is resampled has been rounded to the dtype of x, as in any chain of operations."""
    y = adain_act(x, gamma, beta, backend="reference", **options)
    if resample == "up2":
        return F.interpolate(y, scale_factor=2, mode="nearest")
    return F.avg_pool2d(y, 2) if resample == "down2" else y


def far_from_kink(grad: Tensor, x: Tensor, gamma: Tensor, beta: Tensor, margin: float, resample: str | None) -> Tensor:
    """The gradient, 0 where rounding may take the activation to its other side."""
    z = adain_act(x.double(), gamma.double(), beta.double(), slope=1.0, backend="reference")
    near = (z.abs() <= margin).double()
    if resample == "up2":
        near = F.interpolate(near, scale_factor=2, mode="nearest")
    elif resample == "down2":
        near = F.max_pool2d(near, 2)
    return torch.where(near == 0, grad.to(z.device), 0)


def check(
    target: Target,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    grad: Tensor | None = None,
    resample: str | None = None,
    **options,
) -> tuple[Tensor, ...]:
    """Runs a backend, torch in the same dtype and torch in float64, and judges y and every gradient."""
    backend, device = target
    dtype, eps = x.dtype, torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps
    spread = x.double().var((2, 3), correction=0).add(1e-5).sqrt()
    condition = 1 + (x.double().mean((2, 3)).abs() / spread).max().item()  # how much a rounded mean is worth
    if grad is None:
        grad = normal(*output_shape(x.shape, resample), seed=9)
    grad = far_from_kink(grad, x, gamma, beta, 16 * eps * condition, resample).to(dtype)
    on_device = [tensor.to(device) if device.type != "cpu" else tensor for tensor in (x, gamma, beta, grad)]
    results = run(*on_device, resample=resample, backend=backend, **options)
    same_dtype = run(x, gamma, beta, grad, in_torch, resample=resample, **options)
    exact = run(x.double(), gamma.double(), beta.double(), grad.double(), in_torch, resample=resample, **options)
    for name, result, torch_result, truth in zip(
        ("y", "grad_x", "grad_gamma", "grad_beta"), results, same_dtype, exact, strict=True
    ):
        assert result.shape == truth.shape and result.dtype == torch_result.dtype, name
        last_place = max(eps, torch.finfo(result.dtype).eps)
        judge(result, torch_result, truth).assert_good(name, last_place, condition=1 if name == "y" else condition)
    return results
