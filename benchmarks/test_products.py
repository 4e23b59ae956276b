"""Convolutions as products of matrices (few pixels: gathered patches; few channels: by rows), torch's against ours."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from conftest import CACHE_BYTES, DEVICE, once_for_all
from torch import Tensor

from m2o_fast.ops import conv2d


class Case(NamedTuple):
    shape: tuple[int, int, int, int]
    out_channels: int
    kernel: int
    stride: int = 1
    padding: int = 0

    def __str__(self) -> str:
        over = f"{self.kernel}x{self.kernel}" + f" stride {self.stride}" * (self.stride > 1)
        return f"conv2d {over} {'x'.join(map(str, self.shape))} to {self.out_channels} channels float32 channels_last"


QUICK = [Case((4, 512, 4, 4), 512, 4, 2, 1), Case((4, 64, 70, 70), 3, 7)]
FULL = [
    Case((4, 512, 2, 2), 512, 4, 2, 1),
    Case((32, 512, 4, 4), 512, 4, 2, 1),
    Case((4, 256, 8, 8), 512, 4, 2, 1),
    Case((4, 128, 16, 16), 256, 4, 2, 1),
    Case((4, 3, 70, 70), 64, 7),
    Case((4, 64, 262, 262), 3, 7),
]
CASES = [*QUICK, *(pytest.param(case, marks=pytest.mark.full) for case in FULL)]
FUNCTIONS: dict[str, Callable[..., Tensor]] = {"eager": F.conv2d, "compiled": conv2d}


def make_inputs(case: Case) -> list[list[Tensor]]:
    """As many as take turns: image, weight, bias, and the gradient of the result."""
    generator = torch.Generator(DEVICE).manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(memory_format=torch.channels_last)

    weight = drawn(case.out_channels, case.shape[1], case.kernel, case.kernel)
    bias = torch.randn(case.out_channels, generator=generator)
    sides = [(side + 2 * case.padding - case.kernel) // case.stride + 1 for side in case.shape[2:]]
    turns = 1 + max(1, CACHE_BYTES // (8 * weight.new_empty(case.shape).numel()))
    return [[drawn(*case.shape), weight, bias, drawn(case.shape[0], case.out_channels, *sides)] for _ in range(turns)]


def forward(function: Callable[..., Tensor], inputs: list[Tensor]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return (function(*inputs[:-1]),)


def gradients(function: Callable[..., Tensor], inputs: list[Tensor]) -> tuple[Tensor, ...]:
    *arguments, grad = inputs
    leaves = [tensor.detach().requires_grad_() for tensor in arguments]
    y = function(*leaves)
    return (y.detach(), *torch.autograd.grad(y, leaves, grad))


PASSES = {"forward": forward, "forward+backward": gradients}


@pytest.mark.parametrize("implementation", FUNCTIONS)
@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.skipif(DEVICE.type != "cpu", reason="elsewhere it is torch's own")
def test_products(benchmark, measure, case: Case, passes: str, implementation: str) -> None:
    benchmark.group = f"{case}, {passes}"
    inputs = once_for_all(make_inputs, case)
    geometry, run = {"stride": case.stride, "padding": case.padding}, PASSES[passes]
    function = partial(FUNCTIONS[implementation], **geometry)
    truths = run(partial(F.conv2d, **geometry), [tensor.double() for tensor in inputs[0]])
    for result, truth in zip(run(function, inputs[0]), truths, strict=True):
        assert (result - truth).square().mean().sqrt() <= 1e-5 * truth.square().mean().sqrt()
    measure(lambda turn: run(function, inputs[turn % len(inputs)]), implementation)
