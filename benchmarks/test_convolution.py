"""3x3 convolutions, over borders of zeros and reflected ones: torch's against ours, which takes Winograd's form."""

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
from m2o_fast.ops.reflected import reflected_conv3x3


class Case(NamedTuple):
    shape: tuple[int, int, int, int]
    out_channels: int
    channels_last: bool = True
    reflected: bool = False

    def __str__(self) -> str:
        op, sizes = "reflected_conv3x3" if self.reflected else "conv2d", "x".join(map(str, self.shape))
        words = f"{op} {sizes} to {self.out_channels} channels float32"
        return words + " channels_last" * self.channels_last


QUICK = [Case((32, 64, 16, 16), 64), Case((32, 64, 16, 16), 64, channels_last=False)]
QUICK += [Case((4, 256, 16, 16), 256, reflected=True)]
FULL = [
    Case((32, 32, 32, 32), 32),
    Case((32, 32, 16, 16), 64),
    Case((32, 64, 8, 8), 128),
    Case((32, 128, 16, 16), 128),
    Case((4, 64, 16, 16), 64),
    Case((4, 64, 8, 8), 64),
    Case((8, 64, 128, 128), 64),
    Case((8, 256, 32, 32), 256),
    Case((8, 512, 16, 16), 512),
    Case((8, 512, 16, 16), 512, channels_last=False),
    Case((4, 256, 16, 16), 256, channels_last=False, reflected=True),
]
CASES = [*QUICK, *(pytest.param(case, marks=pytest.mark.full) for case in FULL)]


def padded_conv2d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What a reflected border is in plain torch."""
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), weight, bias)


#: over zeros and over reflected borders
FUNCTIONS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "eager": (partial(F.conv2d, padding=1), padded_conv2d),
    "compiled": (partial(conv2d, padding=1), reflected_conv3x3),
}


def make_inputs(case: Case) -> list[list[Tensor]]:
    """As many as take turns: image, weight, bias, and the gradient of the result."""
    generator = torch.Generator(DEVICE).manual_seed(0)

    def image(channels: int) -> Tensor:
        values = torch.randn((case.shape[0], channels, *case.shape[2:]), generator=generator)
        return values.to(memory_format=torch.channels_last if case.channels_last else torch.contiguous_format)

    weight = torch.randn((case.out_channels, case.shape[1], 3, 3), generator=generator)
    bias = torch.randn(case.out_channels, generator=generator)
    turns = 1 + max(1, CACHE_BYTES // (8 * weight.new_empty(case.shape).numel()))
    return [[image(case.shape[1]), weight, bias, image(case.out_channels)] for _ in range(turns)]


def gradients(function: Callable[..., Tensor], inputs: list[Tensor]) -> tuple[Tensor, ...]:
    *arguments, grad = inputs
    leaves = [tensor.detach().requires_grad_() for tensor in arguments]
    y = function(*leaves)
    return (y.detach(), *torch.autograd.grad(y, leaves, grad))


@pytest.mark.parametrize("implementation", FUNCTIONS)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.skipif(DEVICE.type != "cpu", reason="elsewhere it is torch's own")
def test_conv2d(benchmark, measure, case: Case, implementation: str) -> None:
    benchmark.group = f"{case}, forward+backward"
    inputs = once_for_all(make_inputs, case)
    function, torchs = FUNCTIONS[implementation][case.reflected], FUNCTIONS["eager"][case.reflected]
    precise = [tensor.double() for tensor in inputs[0]]
    for result, truth in zip(gradients(function, inputs[0]), gradients(torchs, precise), strict=True):
        assert (result - truth).square().mean().sqrt() <= 1e-5 * truth.square().mean().sqrt()
    measure(lambda turn: gradients(function, inputs[turn % len(inputs)]), implementation)
