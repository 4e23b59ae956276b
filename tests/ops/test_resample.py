"""Resampling folded into convolutions equals the two operations in a row: values and derivatives of both orders."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from m2o_fast.ops import _choices, build_info, conv3x3_down2, up2_conv3x3, use_backend


def down(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.avg_pool2d(F.conv2d(x, weight, bias, padding=1), 2)


def up(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1)


CASES = [(conv3x3_down2, down), (up2_conv3x3, up)]


@pytest.mark.parametrize(("folded", "plain"), CASES)
@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(0, 3), inputs=st.integers(1, 5), outputs=st.integers(1, 5),
    height=st.integers(1, 5), width=st.integers(1, 5), biased=st.booleans(), channels_last=st.booleans(),
)  # fmt: skip
def test_equals_the_two_operations(folded, plain, n, inputs, outputs, height, width, biased, channels_last) -> None:
    x = torch.randn(n, inputs, 2 * height, 2 * width, dtype=torch.float64)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    weight = torch.randn(outputs, inputs, 3, 3, dtype=torch.float64)
    bias = torch.randn(outputs, dtype=torch.float64) if biased else None
    torch.testing.assert_close(folded(x, weight, bias), plain(x, weight, bias), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("op", "plain"), CASES)
def test_fold_or_not(op, plain) -> None:
    x, weight, bias = torch.randn(2, 3, 4, 6), torch.randn(2, 3, 3, 3), torch.randn(2)
    assert torch.equal(op(x, weight, bias, fold=False), plain(x, weight, bias))
    folded = op(x, weight, bias, fold=True)
    assert not torch.equal(folded, plain(x, weight, bias))  # the rounding shows which way was taken
    assert torch.equal(op(x, weight, bias), folded)
    with use_backend("reference"):
        assert torch.equal(op(x, weight, bias), plain(x, weight, bias))
        assert torch.equal(op(x, weight, bias, fold=True), folded)


@pytest.mark.skipif(build_info() is None, reason="needs the native library")
@pytest.mark.parametrize(("op", "size"), [(conv3x3_down2, 8), (up2_conv3x3, 4)])
def test_many_channels_are_not_folded_where_winograds_form_is_taken(op, size, monkeypatch) -> None:
    monkeypatch.setattr(_choices, "WINOGRAD_UNFOLDED", 32)
    monkeypatch.setattr(_choices, "WINOGRAD_TILES", 16)

    def is_folded(batch: int = 4, inputs: int = 32, outputs: int = 32, dtype: torch.dtype = torch.float32) -> bool:
        x, weight = torch.randn(batch, inputs, size, size, dtype=dtype), torch.randn(outputs, inputs, 3, 3, dtype=dtype)
        return torch.equal(op(x, weight), op(x, weight, fold=True))

    assert not is_folded() and not is_folded(batch=1)  # or the memory of a batch could not be told from a few images
    assert is_folded(inputs=16) and is_folded(outputs=16)  # too few channels
    monkeypatch.setattr(_choices, "WITHOUT_BFLOAT16", ())
    assert is_folded(dtype=torch.bfloat16)  # torch's own, which is not Winograd's


@pytest.mark.parametrize(("folded", "plain"), CASES)
def test_gradients_of_both_orders(folded, plain) -> None:
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(folded, (x, weight, bias))
    assert torch.autograd.gradgradcheck(folded, (x, weight, bias))

    def penalty(function) -> tuple[Tensor, ...]:
        (gradient,) = torch.autograd.grad(function(x, weight, bias).square().sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), (x, weight, bias))

    for ours, theirs in zip(penalty(folded), penalty(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conv3x3_down2(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 3)), r"must be even, got \[1, 2, 3, 4\]"),
        (lambda: conv3x3_down2(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 5, 5)), r"weight \[Co, Ci, 3, 3\]"),
        (lambda: up2_conv3x3(torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 3, 3)), r"got \[1, 3, 4, 4\] and"),
        (lambda: up2_conv3x3(torch.zeros(2, 4, 4), torch.zeros(1, 2, 3, 3)), "up2_conv3x3: needs x"),
    ],
)
def test_wrong_shapes_are_worded(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
