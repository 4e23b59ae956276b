"""What the tests of scale_bias_act share: runs of it, and the comparison with float64."""

from __future__ import annotations

import itertools

import torch
from cases import judge
from torch import Tensor

from m2o_fast.ops import scale_bias_act

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
#: which of scale, bias and next_scale are given
GIVEN = {
    "all": (True, True, True),
    "scale": (True, False, False),
    "scale and bias": (True, True, False),
    "next scale": (False, False, True),
    "bias": (False, True, False),
    "none": (False, False, False),
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def vectors_for(shape: tuple[int, ...], given_ones: tuple[bool, ...] = (True, True, True)) -> list[Tensor | None]:
    """scale, bias and next_scale [N, C]; none is near 0, and no two are alike."""
    offsets = (1.5, 0.3, -2.0)
    values = [(0.5 * normal(*shape[:2], seed=1 + at) + offset).float() for at, offset in enumerate(offsets)]
    return [value if wanted else None for value, wanted in zip(values, given_ones, strict=True)]


def run(x: Tensor, vectors: list[Tensor | None], grad: Tensor, **options) -> list[Tensor]:
    """y, then the gradients of x and of the vectors that are given."""
    x, *vectors = (None if tensor is None else tensor.detach().requires_grad_() for tensor in (x, *vectors))
    y = scale_bias_act(x, *vectors, **options)
    given_ones = [tensor for tensor in (x, *vectors) if tensor is not None]
    return [y.detach(), *torch.autograd.grad(y, given_ones, grad)]


def mapped(function, tensors: list[Tensor | None]) -> list[Tensor | None]:
    return [None if tensor is None else function(tensor) for tensor in tensors]


def check(target, x: Tensor, vectors: list[Tensor | None], grad: Tensor | None = None, **options) -> list[Tensor]:
    """Runs a backend, torch in the same dtype and torch in float64, and judges y and every gradient."""
    backend, device = target
    eps = torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps
    if grad is None:
        grad = normal(*x.shape, seed=9)
    exact_vectors = mapped(Tensor.double, vectors)
    before = scale_bias_act(x.double(), *exact_vectors[:2], slope=1.0, backend="reference")
    # No gradient where rounding may take the activation to its other side.
    grad = torch.where(before.abs() > 16 * eps, grad, 0).to(x.dtype)

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device) if device.type != "cpu" else tensor

    results = run(move(x), mapped(move, vectors), move(grad), backend=backend, **options)
    same_dtype = run(x, vectors, grad, backend="reference", **options)
    exact = run(x.double(), exact_vectors, grad.double(), backend="reference", **options)
    names = [
        "y",
        "grad_x",
        *itertools.compress(("grad_scale", "grad_bias", "grad_next"), (v is not None for v in vectors)),
    ]
    for name, result, torch_result, truth in zip(names, results, same_dtype, exact, strict=True):
        assert result.shape == truth.shape and result.dtype == torch_result.dtype, name
        judge(result, torch_result, truth).assert_good(name, max(eps, torch.finfo(result.dtype).eps))
    return results
