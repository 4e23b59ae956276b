"""Convolutions as products with gathered patches against torch's, alone and inside conv2d and conv_transpose2d."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from m2o_fast.ops import conv2d, convolution, patches
from m2o_fast.ops._choices import patches_pay
from m2o_fast.ops.convolution import conv_transpose2d
from m2o_fast.ops.patches import Geometry

#: kernel, stride, padding
GEOMETRIES = [(4, 2, 1), (4, 1, 1), (2, 2, 0), (3, 1, 1), (4, 2, 0), (4, 4, 3), (1, 1, 0)]
SIZES = [(4, 6), (5, 7), (9, 4)]
FORMATS = [torch.channels_last, torch.contiguous_format]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches also where they do not pay."""
    monkeypatch.setattr(convolution, "patches_pay", lambda *shapes, by_weight: True)
    monkeypatch.setattr(convolution, "is_worth_a_call", lambda *shapes: True)


def drawn(size: tuple[int, int], geometry: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format):
    """Images of 6 channels, a weight to 5, a bias, and a gradient of the outputs."""
    x = torch.randn(3, 6, *size, dtype=dtype).contiguous(memory_format=memory_format)
    weight = torch.randn(5, 6, geometry[0], geometry[0], dtype=dtype).contiguous(memory_format=torch.channels_last)
    bias = torch.randn(5, dtype=dtype)
    y = F.conv2d(x, weight, bias, *geometry[1:])
    return x, weight, bias, torch.randn_like(y).contiguous(memory_format=memory_format)


def all_of(x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor, geometry: tuple[int, ...]) -> list[Tensor]:
    """Output, gradient by input, gradient by weight."""
    kernel, *rest = geometry
    at, size = Geometry(*rest), (x.shape[2], x.shape[3])
    found = [patches.convolve(x, weight, bias, at), patches.by_input(grad, weight, size, at)]
    return [*found, patches.by_weight(grad, x, kernel, at)]


def torchs(x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor, geometry: tuple[int, ...]) -> list[Tensor]:
    inputs = [tensor.detach().clone().requires_grad_() for tensor in (x, weight)]
    y = F.conv2d(*inputs, bias, *geometry[1:])
    return [y.detach(), *torch.autograd.grad(y, inputs, grad)]


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_it_is_the_convolution(geometry: tuple[int, ...], size: tuple[int, int], memory_format) -> None:
    drawn_ones = drawn(size, geometry, torch.float64, memory_format)
    for ours, theirs in zip(all_of(*drawn_ones, geometry), torchs(*drawn_ones, geometry), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        assert ours.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("geometry", GEOMETRIES[:2], ids=str)
def test_any_strides(geometry: tuple[int, ...]) -> None:
    x, weight, bias, grad = drawn((6, 8), geometry, torch.float64, torch.contiguous_format)
    expected = all_of(x, weight, bias, grad, geometry)
    x, grad = (tensor.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0) for tensor in (x, grad))
    weight, bias = weight.flip(1).contiguous().flip(1), bias.repeat_interleave(2)[::2]
    for ours, right in zip(all_of(x, weight, bias, grad, geometry), expected, strict=True):
        torch.testing.assert_close(ours, right, rtol=0, atol=1e-12)


def test_float32_is_as_exact_as_torchs() -> None:
    geometry = (4, 2, 1)
    exact = drawn((8, 8), geometry, torch.float64, torch.channels_last)
    rounded = [tensor.float() for tensor in exact]
    right = torchs(*(tensor.double() for tensor in rounded), geometry)
    for ours, theirs, truth in zip(all_of(*rounded, geometry), torchs(*rounded, geometry), right, strict=True):
        assert (ours.double() - truth).abs().max() <= 2 * (theirs.double() - truth).abs().max() + 1e-6


@pytest.mark.parametrize("function", [conv2d, conv_transpose2d], ids=["conv2d", "conv_transpose2d"])
@pytest.mark.parametrize("geometry", [(4, 2, 1), (4, 1, 1), (2, 2, 0), (3, 2, 1)], ids=str)
def test_derivatives_of_any_order(function, geometry: tuple[int, ...], always: None) -> None:
    kernel, stride, padding = geometry
    shape = (3, 2, kernel, kernel) if function is conv2d else (2, 3, kernel, kernel)
    weight = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    x = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return function(x, weight, bias, stride=stride, padding=padding)

    theirs = getattr(F, function.__name__)
    torch.testing.assert_close(call(x, weight, bias), theirs(x, weight, bias, stride, padding), rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(call, (x, weight, bias), fast_mode=True)
    assert torch.autograd.gradgradcheck(call, (x, weight, bias), fast_mode=True)


@pytest.mark.parametrize("function", [conv2d, conv_transpose2d], ids=["conv2d", "conv_transpose2d"])
def test_what_is_asked_for_is_what_there_is(function, always: None) -> None:
    for chosen in range(3):
        inputs = [torch.randn(2, 4, 4, 4), torch.randn(4, 4, 4, 4), torch.randn(4)]
        inputs[1] = inputs[1].contiguous(memory_format=torch.channels_last)
        inputs[chosen].requires_grad_()
        function(*inputs, stride=2, padding=1).sum().backward()
        assert [tensor.grad is not None for tensor in inputs] == [k == chosen for k in range(3)]


@pytest.mark.parametrize("function", [conv2d, conv_transpose2d], ids=["conv2d", "conv_transpose2d"])
def test_without_gradients_it_gives_the_same_bits(function, always: None, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = torch.randn(2, 4, 6, 6), torch.randn(4, 4, 4, 4), torch.randn(4)
    weight = weight.contiguous(memory_format=torch.channels_last).requires_grad_()
    y = function(x, weight, bias, stride=2, padding=1)
    for name in ("conv2d", "conv_transpose2d"):
        monkeypatch.delattr(F, name)
    with torch.no_grad():
        assert torch.equal(function(x, weight, bias, stride=2, padding=1), y)


def test_results_may_be_changed_in_place(always: None) -> None:
    """Nets put their activations into what convolutions give."""
    x, weight = torch.randn(2, 4, 4, 4, requires_grad=True), torch.randn(4, 4, 4, 4)
    weight = weight.contiguous(memory_format=torch.channels_last)
    for function in (conv2d, conv_transpose2d):
        F.relu_(function(x, weight, stride=2, padding=1)).sum().backward()


def test_contiguous_weights_are_left_to_torch(monkeypatch: pytest.MonkeyPatch, always: None) -> None:
    """Their rows would have to be copied, as torch has to; and nets that have them keep their bits."""
    calls = []
    for name in ("convolve", "by_input", "by_weight", "convolve_transposed"):
        monkeypatch.setattr(patches, name, lambda *arguments: calls.append(arguments))
    x, weight = torch.randn(2, 4, 4, 4, requires_grad=True), torch.randn(4, 4, 4, 4, requires_grad=True)
    for function in (conv2d, conv_transpose2d):
        function(x, weight, stride=2, padding=1).sum().backward()
    assert not calls


def test_the_table_knows_large_weights_and_few_pixels() -> None:
    wide, narrow = torch.Size((512, 512, 4, 4)), torch.Size((128, 64, 4, 4))
    assert patches_pay(4 * 2 * 2, wide, by_weight=False) and not patches_pay(4 * 16 * 16, narrow, by_weight=False)
    assert patches_pay(4 * 16 * 16, wide, by_weight=True) and not patches_pay(4 * 16 * 16, narrow, by_weight=True)
