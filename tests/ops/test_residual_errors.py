"""What residual_merge and leaky_relu_down2, and their operators called directly, say about bad arguments."""

from __future__ import annotations

import pytest
import torch
from cases import needs_native

from m2o_fast.ops import leaky_relu_down2, residual_merge

X = torch.ones(2, 3, 4, 6)
COARSE = torch.ones(2, 3, 2, 3)


def test_errors_name_operator_argument_and_need() -> None:
    with pytest.raises(TypeError, match=r"residual_merge: a must be a tensor, got list"):
        residual_merge([1.0], X)
    with pytest.raises(TypeError, match=r"residual_merge: b must be float32.* got torch.int64"):
        residual_merge(X, X.long())
    with pytest.raises(ValueError, match=r"residual_merge: b must be \[N, C, H, W\], got shape \[3, 4, 6\]"):
        residual_merge(X, X[0])
    with pytest.raises(ValueError, match=r"resample_b must be 'up2', 'down2' or None, got 'up4'"):
        residual_merge(X, X, resample_b="up4")
    with pytest.raises(ValueError, match=r"b must be \[N, C, H, W\] = \[2, 3, 4, 6\] .* got shape \[2, 3, 2, 3\]"):
        residual_merge(X, COARSE)
    with pytest.raises(ValueError, match=r"b must be \[N, C, H/2, W/2\] = \[2, 3, 2, 3\] .* got shape \[2, 3, 4, 6\]"):
        residual_merge(X, X, resample_b="up2")
    with pytest.raises(ValueError, match=r"b must be \[N, C, 2H, 2W\] = \[2, 3, 8, 12\] .* got shape \[2, 3, 4, 6\]"):
        residual_merge(X, X, resample_b="down2")
    with pytest.raises(ValueError, match=r"residual_merge: height and width of a must be even .*\[2, 3, 4, 5\]"):
        residual_merge(X[..., :5], COARSE, resample_b="up2")
    with pytest.raises(ValueError, match=r"residual_merge: b must be on the device of a, cpu, got meta"):
        residual_merge(X, X.to("meta"))
    with pytest.raises(TypeError, match=r"leaky_relu_down2: x must be float32.* got torch.uint8"):
        leaky_relu_down2(X.byte())
    with pytest.raises(ValueError, match=r"leaky_relu_down2: x must be \[N, C, H, W\], got shape \[3, 4, 6\]"):
        leaky_relu_down2(X[0])
    for odd in (X[..., :5], X[:, :, :3]):
        with pytest.raises(ValueError, match=r"leaky_relu_down2: height and width of x must be even, got shape"):
            leaky_relu_down2(odd)
    with pytest.raises(ValueError, match=r"leaky_relu_down2: backend must be one of"):
        leaky_relu_down2(X, backend="fast")


MISTAKES = [
    ("residual_merge", (X[0], X, 1.0, 0), r"x must be \[N, C, H, W\]"),
    ("residual_merge", (X.int(), X, 1.0, 0), r"x must be float32"),
    ("residual_merge", (X, COARSE, 1.0, 0), r"b must be \[2, 3, 4, 6\], got \[2, 3, 2, 3\]"),
    ("residual_merge", (X, X, 1.0, 1), r"b must be \[2, 3, 2, 3\]"),
    ("residual_merge", (X, X[0], 1.0, 2), r"b must be \[2, 3, 8, 12\], got \[3, 4, 6\]"),
    ("residual_merge", (X, X.double(), 1.0, 0), r"b must be Float as its partner, got Double"),
    ("residual_merge", (X, X, 1.0, 3), r"resample must be 0 \(none\), 1 \(up2\) or 2 \(down2\), got 3"),
    ("residual_merge", (X[..., :5], COARSE, 1.0, 1), r"a must have even height and width, got \[2, 3, 4, 5\]"),
    ("residual_merge_backward", (X[..., :5], 1.0, 1, True), r"grad must have even height and width"),
    ("residual_merge_backward", (X, 1.0, -1, True), r"resample must be 0"),
    ("leaky_relu_down2", (X[:, :, :3], 0.2), r"x must have even height and width"),
    ("leaky_relu_down2_backward", (X, X, 0.2), r"grad must be \[2, 3, 2, 3\], got \[2, 3, 4, 6\]"),
    ("leaky_relu_down2_backward", (COARSE.half(), X, 0.2), r"grad must be Float"),
    ("leaky_relu_down2_backward", (COARSE, X[..., 1:], 0.2), r"x must have even height and width"),
    ("leaky_relu_down2_tangent", (COARSE, X, 0.2), r"along must be \[2, 3, 4, 6\]"),
    ("leaky_relu_down2_tangent", (X[..., 1:], X[..., 1:], 0.2), r"x must have even height and width"),
]


@needs_native
@pytest.mark.parametrize(("op", "arguments", "words"), MISTAKES)
def test_direct_calls_of_the_operators_raise_on_bad_input(op, arguments, words) -> None:
    with pytest.raises(RuntimeError, match=f"{op}: {words}"):
        getattr(torch.ops.m2o_fast, op)(*arguments)
