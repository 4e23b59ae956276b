"""The convolution over reflected borders against torch's padding and convolution, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from m2o_fast.ops import use_backend
from m2o_fast.ops._choices import winograd_pays
from m2o_fast.ops.reflected import reflected_conv3x3

FORMATS = (torch.channels_last, torch.contiguous_format)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(
    "shape",
    [(16, 16, 4, 4), (3, 32, 9, 13), (2, 16, 16, 16), (2, 3, 8, 8), (1, 16, 2, 2), (16, 16, 3, 40)],
    ids=["smallest", "odd", "whole tiles", "few channels", "mirrored only", "low"],
)
def test_values_and_gradients(shape: tuple[int, ...], biased: bool, memory_format: torch.memory_format) -> None:
    """Where Winograd's form is taken and where not."""
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=memory_format).requires_grad_()
    weight = torch.randn(16, shape[1], 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(16, dtype=torch.float64, requires_grad=True) if biased else None
    inputs = [tensor for tensor in (x, weight, bias) if tensor is not None]
    y = reflected_conv3x3(x, weight, bias)
    expected = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), weight, bias)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-11)
    along = torch.randn_like(y)
    for ours, theirs in zip(
        torch.autograd.grad(y, inputs, along), torch.autograd.grad(expected, inputs, along), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    assert y.is_contiguous(memory_format=memory_format)


def test_the_cases_are_both() -> None:
    assert winograd_pays(torch.Size((16, 16, 4, 4)), 16) and winograd_pays(torch.Size((3, 32, 9, 13)), 16)
    assert not winograd_pays(torch.Size((2, 3, 8, 8)), 16)


@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_only_the_gradients_that_are_asked_for(needed: tuple[bool, bool]) -> None:
    x = torch.randn(4, 16, 8, 8, dtype=torch.float64, requires_grad=needed[0])
    weight = torch.randn(16, 16, 3, 3, dtype=torch.float64, requires_grad=needed[1])
    reflected_conv3x3(x, weight).sum().backward()
    assert (x.grad is not None, weight.grad is not None) == needed


def test_float32_is_as_exact_as_winograd() -> None:
    """At most the error of the same convolution with borders of zeros, but for the sums at the border."""
    torch.manual_seed(0)
    x, weight = torch.randn(4, 64, 16, 16), torch.randn(64, 64, 3, 3) / 24
    exact = F.conv2d(F.pad(x.double(), (1, 1, 1, 1), mode="reflect"), weight.double())
    error = (reflected_conv3x3(x, weight).double() - exact).abs().max()
    torchs = (F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), weight).double() - exact).abs().max()
    assert error <= 8 * torchs + 1e-6


def test_autocast_and_the_reference_take_torchs() -> None:
    x, weight = torch.randn(2, 16, 16, 16), torch.randn(16, 16, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert reflected_conv3x3(x, weight).dtype == torch.bfloat16
    with use_backend("reference"):
        y = reflected_conv3x3(x, weight)
    assert torch.equal(y, F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), weight))
