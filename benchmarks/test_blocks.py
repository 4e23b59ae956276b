"""Whole residual blocks of StarGAN v2, forward and backward, against the same block as one writes it in torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from conftest import CACHE_BYTES, DEVICE, once_for_all
from torch import Tensor, nn

from m2o_fast.nn.blocks import AdaINAct, AdaINResBlock, InstanceNormAct, ResBlock

STYLE = 64


class Case(NamedTuple):
    block: str
    shape: tuple[int, int, int, int]
    out_channels: int

    def __str__(self) -> str:
        return f"{self.block} {'x'.join(map(str, self.shape))} to {self.out_channels} channels"


CASES = [
    Case("AdaINResBlock up", (32, 128, 16, 16), 64),
    pytest.param(Case("AdaINResBlock", (32, 128, 16, 16), 128), marks=pytest.mark.full),
    Case("ResBlock normalised down", (32, 64, 32, 32), 128),
    pytest.param(Case("ResBlock down", (32, 64, 32, 32), 128), marks=pytest.mark.full),
    pytest.param(Case("AdaINResBlock up", (8, 128, 64, 64), 64), marks=pytest.mark.full),
]


def make_block(case: Case) -> nn.Module:
    torch.manual_seed(0)
    channels, resamples = case.shape[1], "up" in case.block or "down" in case.block
    if case.block.startswith("AdaIN"):
        return AdaINResBlock(channels, case.out_channels, STYLE, upsample=resamples).to(DEVICE)
    normalize = "normalised" in case.block
    return ResBlock(channels, case.out_channels, normalize=normalize, downsample=resamples).to(DEVICE)


def make_block_and_inputs(case: Case) -> tuple[nn.Module, list[list[Tensor]]]:
    """As many inputs as take turns: image, style, and the gradient of the result."""
    block = make_block(case)
    generator = torch.Generator(DEVICE).manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=DEVICE)

    x = normal(*case.shape)
    style = normal(case.shape[0], STYLE)
    like = runner("eager", block)(x, style)
    turns = 1 + max(1, CACHE_BYTES // x.nbytes)
    return block, [[normal(*case.shape), normal(*style.shape), normal(*like.shape)] for _ in range(turns)]


def normalise(layer: nn.Module | None, x: Tensor, style: Tensor) -> Tensor:
    """Norm and activation in plain torch."""
    if isinstance(layer, AdaINAct):
        gamma, beta = layer.fc(style)[:, :, None, None].chunk(2, dim=1)
        x = (1 + gamma) * F.instance_norm(x) + beta
    elif isinstance(layer, InstanceNormAct):
        x = F.instance_norm(x, weight=layer.weight, bias=layer.bias)
    return F.leaky_relu(x, 0.2)


def convolve(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Torch's convolution, whatever the layer takes."""
    return F.conv2d(x, layer.weight, layer.bias, padding=layer.padding)


def eager_adain_block(block: AdaINResBlock, x: Tensor, style: Tensor) -> Tensor:
    """In the order of arXiv 1912.01865: nothing folded, nothing commuted, nothing fused."""

    def up(image: Tensor) -> Tensor:
        return F.interpolate(image, scale_factor=2, mode="nearest") if block.upsample else image

    h = convolve(block.conv1, up(normalise(block.norm1, x, style)))
    h = convolve(block.conv2, normalise(block.norm2, h, style))
    shortcut = up(x) if block.conv1x1 is None else convolve(block.conv1x1, up(x))
    return (h + shortcut) / math.sqrt(2)


def eager_block(block: ResBlock, x: Tensor, style: Tensor) -> Tensor:
    def down(image: Tensor) -> Tensor:
        return F.avg_pool2d(image, 2) if block.downsample else image

    h = down(convolve(block.conv1, normalise(block.norm1, x, style)))
    h = convolve(block.conv2, normalise(block.norm2, h, style))
    shortcut = down(x if block.conv1x1 is None else convolve(block.conv1x1, x))
    return (h + shortcut) / math.sqrt(2)


def runner(implementation: str, block: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    styled = isinstance(block, AdaINResBlock)

    def fused(x: Tensor, style: Tensor) -> Tensor:
        return block(x, style) if styled else block(x)

    def eager(x: Tensor, style: Tensor) -> Tensor:
        return eager_adain_block(block, x, style) if styled else eager_block(block, x, style)

    if implementation == "compile":
        torch.compiler.reset()
        return torch.compile(eager, fullgraph=True, dynamic=False)
    return fused if implementation == "compiled" else eager


def gradients(function: Callable[[Tensor, Tensor], Tensor], block: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    x, style, grad = inputs
    x = x.detach().requires_grad_()
    return list(torch.autograd.grad(function(x, style), [x, *block.parameters()], grad))


@pytest.mark.parametrize("implementation", ["eager", pytest.param("compile", marks=pytest.mark.full), "compiled"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_block(benchmark, measure, case: Case, implementation: str) -> None:
    benchmark.group = f"{case}, forward+backward"
    block, inputs = once_for_all(make_block_and_inputs, case)
    function = runner(implementation, block)
    results, truths = (gradients(f, block, inputs[0]) for f in (function, runner("eager", block)))
    for result, truth in zip(results, truths, strict=True):
        tolerance = 5e-3 * truth.square().mean().sqrt() + 1e-3  # that of a bias before a norm is 0
        assert (result - truth).square().mean().sqrt() <= tolerance
    measure(lambda turn: gradients(function, block, inputs[turn % len(inputs)]), implementation)
