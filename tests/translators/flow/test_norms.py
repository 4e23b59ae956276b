"""Group norm with SiLU against torch's own operations: values, derivatives, precision, and what autograd keeps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from m2o_fast.nn.norms import Conv2d
from m2o_fast.translators.flow.norms import NormSiLU, groups_of

CHANNELS = 12


def layers(channels: int = CHANNELS) -> tuple[NormSiLU, Conv2d]:
    norm, convolution = NormSiLU(channels), Conv2d(channels, 3, 3, padding=1)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm, convolution


def plainly(norm: NormSiLU, convolution: Conv2d, x: Tensor, modulation: Tensor | None) -> Tensor:
    y = F.group_norm(x, norm.groups, norm.weight, norm.bias)
    if modulation is not None:
        scale, shift = modulation[:, :, None, None].chunk(2, dim=1)
        y = y * (1 + scale) + shift
    return F.conv2d(F.silu(y), convolution.weight, convolution.bias, padding=1)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("modulated", [False, True])
def test_values_and_derivatives(modulated: bool, memory_format: torch.memory_format) -> None:
    norm, convolution = layers()
    x = (torch.randn(2, CHANNELS, 5, 3) * 3 + 1).contiguous(memory_format=memory_format).requires_grad_()
    modulation = torch.randn(2, 2 * CHANNELS, requires_grad=True) if modulated else None
    inputs = [x, *norm.parameters(), *convolution.parameters(), *([modulation] if modulated else [])]
    found, wanted = norm(x, convolution, modulation), plainly(norm, convolution, x, modulation)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    along = torch.randn_like(found)
    for one, other in zip(*(torch.autograd.grad(y, inputs, along) for y in (found, wanted)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precision(dtype: torch.dtype) -> None:
    """Of images whose means are far from 0, over some draws: errors are at most twice those of torch."""
    squares = torch.zeros(2, 3)
    for _ in range(4):
        norm, convolution = layers()
        x = (torch.randn(2, CHANNELS, 16, 16) * 3 + 20).contiguous(memory_format=torch.channels_last)
        exact = _with_gradient(plainly, norm, convolution, x)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            for row, function in enumerate((lambda norm, conv, x, _: norm(x, conv), plainly)):
                found = _with_gradient(function, norm.float(), convolution.float(), x.to(dtype))
                pairs = zip(found, exact, strict=True)
                squares[row] += torch.stack([(one - other).square().mean() for one, other in pairs])
    ours, torchs = squares.sqrt()
    assert (ours <= 2 * torchs).all(), (ours, torchs)


def _with_gradient(function, norm: NormSiLU, convolution: Conv2d, x: Tensor) -> list[Tensor]:  # type: ignore[no-untyped-def]
    x = x.clone().requires_grad_()
    y = function(norm, convolution, x, None)
    gradients = torch.autograd.grad(y, [x, norm.weight], torch.ones_like(y))
    return [tensor.double() for tensor in (y.detach(), *gradients)]


def test_autograd_keeps_the_input_alone() -> None:
    norm, convolution = layers()
    x, kept = torch.randn(2, CHANNELS, 16, 16, requires_grad=True), {}

    def noted(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(noted, lambda tensor: tensor):
        norm(x, convolution)
    assert sum(size for place, size in kept.items() if place != x.untyped_storage().data_ptr()) < 0.5 * x.nbytes


def test_groups() -> None:
    """At most 32, or as many as are said; at least two channels each, so that a group knows more than its own mean."""
    counts = (1, 2, 3, 4, 6, 16, 48, 64, 96, 128, 384)
    assert [groups_of(count) for count in counts] == [1, 1, 1, 2, 2, 8, 16, 32, 32, 32, 32]
    assert [groups_of(12, most) for most in (1, 2, 32)] == [1, 2, 4] and groups_of(16, 4) == 4
