"""adain_act against eager torch, torch.compile and its own reference: forward, and forward with backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from conftest import CACHE_BYTES, DEVICE
from torch import Tensor

from m2o_fast.ops import adain_act


class Case(NamedTuple):
    shape: tuple[int, int, int, int]
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    in_cache: bool = False  # the same tensors every time, else tensors that no cache holds

    def __str__(self) -> str:
        words = ["x".join(map(str, self.shape)), str(self.dtype).removeprefix("torch.")]
        words += ["channels_last"] * self.channels_last
        return " ".join([*words, "in cache" if self.in_cache else "out of cache"])


# 32 px with width 128, and 256 px with StarGAN v2's widths
QUICK = [Case((32, 128, 32, 32)), Case((32, 128, 16, 16), in_cache=True)]
FULL = [
    Case((32, 128, 16, 16)),
    Case((32, 64, 32, 32)),
    Case((8, 64, 256, 256)),
    Case((8, 512, 16, 16)),
    Case((8, 128, 128, 128)),
    Case((8, 64, 32, 32), in_cache=True),
    Case((8, 512, 16, 16), in_cache=True),
    Case((32, 128, 32, 32), channels_last=True),
    Case((8, 128, 128, 128), channels_last=True),
    Case((32, 128, 32, 32), torch.bfloat16),
    Case((8, 128, 128, 128), torch.bfloat16),
]
CASES = [*QUICK, *(pytest.param(case, marks=pytest.mark.full) for case in FULL)]


def eager(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """As StarGAN v2 writes it. Float32 gamma and beta make y float32; the next convolution would take it back."""
    y = (1 + gamma[:, :, None, None]) * F.instance_norm(x) + beta[:, :, None, None]
    return F.leaky_relu(y, 0.2).to(x.dtype)


def reference(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return adain_act(x, gamma, beta, backend="reference")


def compiled_by_torch() -> Callable[..., Tensor]:
    torch.compiler.reset()
    return torch.compile(reference, fullgraph=True, dynamic=False)


IMPLEMENTATIONS: dict[str, Callable[[], Callable[..., Tensor]]] = {
    "eager": lambda: eager,
    "compile": compiled_by_torch,
    "reference": lambda: reference,
    "compiled": lambda: lambda *tensors: adain_act(*tensors, backend="compiled"),
}
if DEVICE.type == "cuda":
    IMPLEMENTATIONS["triton"] = lambda: lambda *tensors: adain_act(*tensors, backend="triton")


class Inputs(NamedTuple):
    x: Tensor
    gamma: Tensor
    beta: Tensor
    grad: Tensor


def make_inputs(case: Case) -> list[Inputs]:
    """As many as take turns. Values as features have them: no zeros, no special numbers."""
    n, c, *_ = case.shape
    memory_format = torch.channels_last if case.channels_last else torch.contiguous_format
    generator = torch.Generator(DEVICE).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=DEVICE)

    def features() -> Tensor:
        return normal(*case.shape).to(case.dtype).to(memory_format=memory_format)

    size = features().nbytes
    count = 1 if case.in_cache else 1 + max(1, CACHE_BYTES // size)
    # gamma and beta stay float32, as under autocast
    return [Inputs(features(), 0.3 * normal(n, c), 0.3 * normal(n, c), features()) for _ in range(count)]


def gradients(function: Callable[..., Tensor], inputs: Inputs) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs[:3]]
    return torch.autograd.grad(function(*leaves), leaves, inputs.grad.to(inputs.x.dtype))


def assert_right(function: Callable[..., Tensor], inputs: Inputs) -> None:
    """The first sample against float64, by root mean square: near 0, rounding decides the side of the activation."""
    results = [function(*inputs[:3]), *gradients(function, inputs)]
    first = Inputs(*(tensor[:1].double() for tensor in inputs))
    truths = [reference(*first[:3]), *gradients(reference, first)]
    for result, truth in zip(results, truths, strict=True):
        tolerance = 0.1 if inputs.x.dtype == torch.bfloat16 else 2e-3
        assert (result[:1] - truth).square().mean().sqrt() <= tolerance * truth.square().mean().sqrt()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("mode", ["forward", "forward+backward"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_adain_act(benchmark, measure, case: Case, mode: str, implementation: str) -> None:
    benchmark.group = f"adain_act {case}, {mode}"
    inputs = make_inputs(case)
    function = IMPLEMENTATIONS[implementation]()
    assert_right(function, inputs[0])
    if mode == "forward":

        def call(turn: int) -> object:
            with torch.no_grad():
                return function(*inputs[turn % len(inputs)][:3])
    else:

        def call(turn: int) -> object:
            return gradients(function, inputs[turn % len(inputs)])

    # forward reads x and writes y; backward reads the gradient and x and writes the gradient of x
    tensors = 2 if mode == "forward" else 5
    measure(call, implementation, None if case.in_cache else tensors * inputs[0].x.nbytes)
