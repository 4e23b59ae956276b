"""soft_color_histogram of 10,000 colours: the kernels against the formula by triangles, eager and compiled by torch.

All colours of a call fit a cache, and so they do in a loss.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import DEVICE
from torch import Tensor

from m2o_fast.ops import soft_color_histogram

COUNT = 10_000


def eager(colors: Tensor, bins: int) -> Tensor:
    """As one would write it for a few bins; all pairs of red and green bins are kept for every colour."""
    position = (colors * bins - 0.5).clamp(0, bins - 1)
    weights = (1 - (position[:, :, None] - torch.arange(bins, device=colors.device)).abs()).clamp(min=0)
    return torch.einsum("ni,nj,nk->ijk", *weights.unbind(1)).flatten()


def compiled_by_torch() -> Callable[..., Tensor]:
    torch.compiler.reset()
    return torch.compile(eager, fullgraph=True, dynamic=False)


def with_backend(backend: str) -> Callable[..., Tensor]:
    return lambda colors, bins: soft_color_histogram(colors, bins, backend=backend)


IMPLEMENTATIONS: dict[str, Callable[[], Callable[..., Tensor]]] = {
    "eager": lambda: eager,
    "compile": compiled_by_torch,
    "reference": lambda: with_backend("reference"),
    "compiled": lambda: with_backend("compiled"),
}
if DEVICE.type == "cuda":
    IMPLEMENTATIONS["triton"] = lambda: with_backend("triton")


def differentiate(function: Callable[..., Tensor], colors: Tensor, bins: int, grad: Tensor) -> Tensor:
    leaf = colors.detach().requires_grad_()
    return torch.autograd.grad(function(leaf, bins), leaf, grad)[0]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("mode", ["forward", "forward+backward"])
@pytest.mark.parametrize("bins", [4, pytest.param(16, marks=pytest.mark.full)])
def test_soft_color_histogram(benchmark, measure, bins: int, mode: str, implementation: str) -> None:
    benchmark.group = f"soft_color_histogram {COUNT} colours, {bins}^3 cells, {mode}"
    generator = torch.Generator(DEVICE).manual_seed(0)
    inputs = [torch.rand(COUNT, 3, generator=generator, device=DEVICE) for _ in range(4)]
    grad = torch.randn(bins**3, generator=generator, device=DEVICE)
    function = IMPLEMENTATIONS[implementation]()
    exact = soft_color_histogram(inputs[0].double(), bins, backend="reference")
    torch.testing.assert_close(function(inputs[0], bins).double(), exact, rtol=1e-4, atol=1e-3)
    slopes = differentiate(lambda *a: soft_color_histogram(*a, backend="reference"), inputs[0].double(), bins,
                           grad.double())  # fmt: skip
    error = (differentiate(function, inputs[0], bins, grad) - slopes).abs()
    assert error.median() <= 1e-4 * slopes.abs().max()  # a colour next to a centre may have the slope of the other side
    if mode == "forward":
        measure(lambda i: function(inputs[i % 4], bins), implementation)
    else:
        measure(lambda i: differentiate(function, inputs[i % 4], bins, grad), implementation)
