"""scale_bias_act and scale_channels on wrong arguments, by the functions and by the operators under them."""

from __future__ import annotations

import pytest
import torch
from cases import needs_native

from m2o_fast.ops import scale_bias_act, scale_channels


def test_errors_name_operator_argument_and_need() -> None:
    x, vector = torch.ones(2, 3, 4, 4), torch.ones(2, 3)
    with pytest.raises(TypeError, match=r"scale_bias_act: x must be a tensor, got list"):
        scale_bias_act([1.0], vector)
    with pytest.raises(TypeError, match=r"scale_channels: x must be float32.* got torch.int64"):
        scale_channels(x.long(), vector)
    with pytest.raises(TypeError, match=r"scale_channels: scale must be a tensor, got NoneType"):
        scale_channels(x, None)
    with pytest.raises(TypeError, match=r"scale_bias_act: bias must be float32.* got torch.bool"):
        scale_bias_act(x, vector, vector > 0)
    with pytest.raises(ValueError, match=r"scale_bias_act: x must be \[N, C, H, W\], got shape \[3, 4, 4\]"):
        scale_bias_act(x[0], vector)
    with pytest.raises(ValueError, match=r"scale must be \[N, C\] = \[2, 3\] or \[C\] = \[3\].* got shape \[1, 3\]"):
        scale_channels(x, vector[:1])
    with pytest.raises(ValueError, match=r"scale_bias_act: next_scale must be .* got shape \[4\]"):
        scale_bias_act(x, vector, None, torch.ones(4))
    with pytest.raises(ValueError, match=r"scale_bias_act: scale must be on the device of x, cpu, got meta"):
        scale_bias_act(x, vector.to("meta"))


FORWARD_MISTAKES = {
    r"x must be \[N, C, H, W\]": {"x": torch.ones(3, 4, 4)},
    r"x must be float32": {"x": torch.ones(2, 3, 4, 4, dtype=torch.int32)},
    r"scale must be \[N, C\] or \[C\]": {"scale": torch.ones(3, 2)},
    r"bias must be \[N, C\] or \[C\] .* got \[\]": {"bias": torch.ones(())},
    r"next_scale must be float32": {"next_scale": torch.ones(2, 3, dtype=torch.complex64)},
}
BACKWARD_MISTAKES = {
    r"grad must have the shape of x, \[2, 3, 4, 4\], got \[2, 3, 4, 5\]": {"grad": torch.ones(2, 3, 4, 5)},
    r"grad must have the dtype of x": {"grad": torch.ones(2, 3, 4, 4, dtype=torch.bfloat16)},
}


@needs_native
@pytest.mark.parametrize("words", [*FORWARD_MISTAKES, *BACKWARD_MISTAKES])
def test_direct_calls_of_the_operators_raise_on_bad_input(words) -> None:
    tensors = {"x": torch.ones(2, 3, 4, 4), "scale": None, "bias": None, "next_scale": None}
    if words in FORWARD_MISTAKES:
        tensors |= FORWARD_MISTAKES[words]
        with pytest.raises(RuntimeError, match=f"scale_bias_act: {words}"):
            torch.ops.m2o_fast.scale_bias_act(*tensors.values(), 0.2)
    grad = {"grad": torch.ones(2, 3, 4, 4), **tensors} | BACKWARD_MISTAKES.get(words, {})
    with pytest.raises(RuntimeError, match=f"scale_bias_act_backward: {words}"):
        torch.ops.m2o_fast.scale_bias_act_backward(*grad.values(), 0.2)


def test_backward_operator_refuses_to_be_differentiated() -> None:
    x = torch.ones(1, 2, 3, 3, requires_grad=True)
    result = torch.ops.m2o_fast.scale_bias_act_backward(x, x, torch.ones(2), None, None, 0.2)[0]
    with pytest.raises(RuntimeError, match="no derivative of its own"):
        result.sum().backward()
