"""Convolutions to a few channels, row by row of the kernel, against torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from m2o_fast.ops import conv2d, convolution, rows
from m2o_fast.ops._choices import rows_pay

#: few channels, kernel, height, width
CASES = [(3, 7, 9, 12), (1, 5, 5, 8), (4, 3, 6, 3), (2, 1, 3, 4)]
FORMATS = [torch.channels_last, torch.contiguous_format]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """By rows also where that does not pay."""
    monkeypatch.setattr(convolution, "rows_pay", lambda shape, few, kernel: few <= 4)
    monkeypatch.setattr(convolution, "is_worth_a_call", lambda *shapes: True)


def torchs(x: Tensor, weight: Tensor, bias: Tensor | None, grad: Tensor) -> list[Tensor]:
    inputs = [tensor.detach().clone().requires_grad_() for tensor in (x, weight)]
    y = F.conv2d(*inputs, bias)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad)]


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_the_convolution(case: tuple[int, ...], memory_format: torch.memory_format, biased: bool) -> None:
    few, kernel, height, width = case
    x = torch.randn(2, 8, height, width, dtype=torch.float64).contiguous(memory_format=memory_format)
    weight = torch.randn(few, 8, kernel, kernel, dtype=torch.float64).contiguous(memory_format=memory_format)
    bias = torch.randn(few, dtype=torch.float64) if biased else None
    grad = torch.randn(2, few, height - kernel + 1, width - kernel + 1, dtype=torch.float64)
    y, _, by_weight = torchs(x, weight, bias, grad)
    torch.testing.assert_close(rows.convolve(x, weight, bias), y, rtol=0, atol=1e-12)
    torch.testing.assert_close(rows.by_weight(grad, x, kernel), by_weight, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_the_gradient_by_an_input_of_few_channels(case: tuple[int, ...]) -> None:
    few, kernel, height, width = case
    x, weight = torch.randn(2, few, height, width).double(), torch.randn(8, few, kernel, kernel).double()
    grad = torch.randn(2, 8, height - kernel + 1, width - kernel + 1, dtype=torch.float64)
    torch.testing.assert_close(rows.by_input(grad, weight), torchs(x, weight, None, grad)[1], rtol=0, atol=1e-12)


def test_float32_is_as_exact_as_torchs() -> None:
    x, weight, grad = torch.randn(2, 64, 14, 14), torch.randn(3, 64, 7, 7), torch.randn(2, 3, 8, 8)
    y, _, by_weight = torchs(x, weight, None, grad)
    right, _, right_by_weight = torchs(x.double(), weight.double(), None, grad.double())
    pairs = [(rows.convolve(x, weight, None), y, right), (rows.by_weight(grad, x, 7), by_weight, right_by_weight)]
    for ours, theirs, truth in pairs:
        assert (ours.double() - truth).abs().max() <= 2 * (theirs.double() - truth).abs().max() + 1e-5


@pytest.mark.parametrize("channels", [(5, 2), (2, 5)], ids=["to few", "from few"])
def test_derivatives_of_any_order(channels: tuple[int, int], always: None) -> None:
    x = torch.randn(2, channels[0], 4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(channels[1], channels[0], 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(channels[1], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(conv2d(x, weight, bias), F.conv2d(x, weight, bias), rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(conv2d, (x, weight, bias), fast_mode=True)
    assert torch.autograd.gradgradcheck(conv2d, (x, weight, bias), fast_mode=True)


def test_without_gradients_it_gives_the_same_bits(always: None, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = torch.randn(2, 8, 9, 12), torch.randn(3, 8, 7, 7, requires_grad=True), torch.randn(3)
    y = conv2d(x, weight, bias)
    monkeypatch.delattr(F, "conv2d")
    with torch.no_grad():
        assert torch.equal(conv2d(x, weight, bias), y)


def test_the_table_knows_heads_of_images() -> None:
    assert rows_pay(torch.Size((4, 64, 70, 70)), 3, 7)
    assert not rows_pay(torch.Size((4, 64, 70, 70)), 64, 7) and not rows_pay(torch.Size((4, 3, 70, 70)), 3, 7)
    assert not rows_pay(torch.Size((4, 64, 20, 20)), 3, 7) and not rows_pay(torch.Size((4, 64, 70, 70)), 3, 3)
