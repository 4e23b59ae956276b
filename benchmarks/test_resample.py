"""Convolutions with the resampling folded in against convolution and resampling one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from conftest import CACHE_BYTES, DEVICE, once_for_all
from torch import Tensor

from m2o_fast.ops import conv3x3_down2, up2_conv3x3
from m2o_fast.ops.reflected_up import up2_reflected_conv5x5


class Case(NamedTuple):
    op: str
    shape: tuple[int, int, int, int]
    out_channels: int
    dtype: torch.dtype = torch.float32
    channels_last: bool = False

    def __str__(self) -> str:
        words = [self.op, "x".join(map(str, self.shape)), f"to {self.out_channels} channels"]
        words += [str(self.dtype).removeprefix("torch.")]
        return " ".join([*words, *["channels_last"] * self.channels_last])


QUICK = [
    Case("conv3x3_down2", (8, 16, 32, 32), 16),
    Case("up2_conv3x3", (8, 16, 16, 16), 16),
    Case("up2_reflected_conv5x5", (8, 16, 16, 16), 16),
]
FULL = [
    Case("conv3x3_down2", (8, 8, 32, 32), 8),
    Case("conv3x3_down2", (32, 64, 32, 32), 64),
    Case("conv3x3_down2", (32, 128, 16, 16), 128),
    Case("conv3x3_down2", (8, 64, 128, 128), 64),
    Case("conv3x3_down2", (32, 64, 32, 32), 64, channels_last=True),
    Case("conv3x3_down2", (8, 64, 128, 128), 64, torch.bfloat16, channels_last=True),
    Case("up2_conv3x3", (8, 8, 16, 16), 8),
    Case("up2_conv3x3", (32, 128, 16, 16), 64),
    Case("up2_conv3x3", (32, 128, 8, 8), 128),
    Case("up2_conv3x3", (8, 64, 64, 64), 64),
    Case("up2_conv3x3", (32, 128, 16, 16), 64, channels_last=True),
    Case("up2_conv3x3", (8, 64, 64, 64), 64, torch.bfloat16, channels_last=True),
    Case("up2_reflected_conv5x5", (8, 64, 8, 8), 32, channels_last=True),
    Case("up2_reflected_conv5x5", (4, 256, 16, 16), 128, channels_last=True),
    Case("up2_reflected_conv5x5", (4, 128, 32, 32), 64, channels_last=True),
    Case("up2_reflected_conv5x5", (1, 256, 64, 64), 128, channels_last=True),
]
CASES = [*QUICK, *(pytest.param(case, marks=pytest.mark.full) for case in FULL)]


def up2_reflected(x: Tensor) -> Tensor:
    return F.pad(F.interpolate(x, scale_factor=2, mode="nearest"), (2,) * 4, mode="reflect")


UNFOLDED: dict[str, Callable[..., Tensor]] = {
    "conv3x3_down2": lambda x, w, b: F.avg_pool2d(F.conv2d(x, w, b, padding=1), 2),
    "up2_conv3x3": lambda x, w, b: F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), w, b, padding=1),
    "up2_reflected_conv5x5": lambda x, w, b: F.conv2d(up2_reflected(x), w, b),
}
FOLDED: dict[str, Callable[..., Tensor]] = {
    "conv3x3_down2": lambda x, w, b: conv3x3_down2(x, w, b, fold=True),
    "up2_conv3x3": lambda x, w, b: up2_conv3x3(x, w, b, fold=True),
    "up2_reflected_conv5x5": lambda x, w, b: up2_reflected_conv5x5(x, w, b, fold=True),
}


def make_inputs(case: Case) -> list[list[Tensor]]:
    """As many as take turns: image, weight, bias, and the gradient of the result."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    memory_format = torch.channels_last if case.channels_last else torch.contiguous_format

    def normal(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator, device=DEVICE).to(case.dtype)
        return values.to(memory_format=memory_format) if len(shape) == 4 else values

    side = 5 if case.op.endswith("5x5") else 3
    weight, bias = normal(case.out_channels, case.shape[1], side, side), normal(case.out_channels)
    like = UNFOLDED[case.op](normal(*case.shape), weight, bias)
    turns = 1 + max(1, CACHE_BYTES // like.nbytes // 2)
    return [[normal(*case.shape), weight, bias, normal(*like.shape)] for _ in range(turns)]


def gradients(function: Callable[..., Tensor], inputs: list[Tensor]) -> tuple[Tensor, ...]:
    *arguments, grad = inputs
    leaves = [tensor.detach().requires_grad_() for tensor in arguments]
    return torch.autograd.grad(function(*leaves), leaves, grad)


@pytest.mark.parametrize("implementation", ["eager", "folded"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_resampled_convolution(benchmark, measure, case: Case, implementation: str) -> None:
    benchmark.group = f"{case}, forward+backward"
    inputs = once_for_all(make_inputs, case)
    unfolded = UNFOLDED[case.op]
    function = FOLDED[case.op] if implementation == "folded" else unfolded
    precise = [tensor.double() for tensor in inputs[0]]
    for result, truth in zip(gradients(function, inputs[0]), gradients(unfolded, precise), strict=True):
        tolerance = 0.1 if case.dtype == torch.bfloat16 else 5e-3
        assert (result - truth).square().mean().sqrt() <= tolerance * truth.square().mean().sqrt()
    measure(lambda turn: gradients(function, inputs[turn % len(inputs)]), implementation)
