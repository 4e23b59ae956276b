"""conv2d called in unusual ways: with wrong arguments, and with second derivatives by the batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from cases import needs_native
from torch import Tensor

from m2o_fast.ops import _choices, conv2d, convolution
from m2o_fast.ops.convolution import conv_transpose2d


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("channels", [16, 3])
def test_batched_second_derivatives(
    channels: int, memory_format: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient is in the format of x, what it is differentiated along is in none that vmap knows."""
    monkeypatch.setattr(convolution, "is_worth_a_call", lambda *shapes: True)
    monkeypatch.setattr(convolution, "winograd_pays", lambda shape, channels: shape[1] % 16 == channels % 16 == 0)
    x, weight = torch.randn(2, channels, 5, 6).contiguous(memory_format=memory_format), torch.randn(16, channels, 3, 3)
    found: list[list[Tensor]] = [[], []]
    for function, gradients in zip((conv2d, F.conv2d), found, strict=True):
        for which in range(2):
            inputs = [tensor.clone().requires_grad_() for tensor in (x, weight)]
            y = function(*inputs, padding=1)
            along = torch.cos(y.detach()).contiguous(memory_format=memory_format).requires_grad_()
            (first,) = torch.autograd.grad(y, inputs[which], along, create_graph=True)
            twice = torch.stack([torch.cos(first.detach()), first.detach()])
            gradients += torch.autograd.grad(first, [inputs[1 - which], along], twice, is_grads_batched=True)
    for mine, right in zip(*found, strict=True):
        torch.testing.assert_close(mine, right, rtol=0, atol=1e-4 * float(right.abs().max()))


def test_wrong_arguments_are_worded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As arguments of conv2d, whichever kernel would take them."""
    monkeypatch.setattr(_choices, "WITHOUT_BFLOAT16", (torch.backends.cpu.get_cpu_capability(),))
    x, weight = torch.randn(4, 16, 16, 16), torch.randn(32, 16, 3, 3)
    for dtype in (torch.float32, torch.bfloat16):
        for wrong in (weight[:, :8], weight[..., 0], weight[0, 0, 0], weight.expand(2, -1, -1, -1, -1)):
            message = (
                r"^conv2d: weight must be \[Co, Ci, k, k\] with Ci = 16 for x of shape \[4, 16, 16, 16\], got shape"
            )
            with pytest.raises(ValueError, match=message):
                conv2d(x.to(dtype), wrong.to(dtype), padding=1)
        for wrong in (torch.randn(16), torch.randn(32, 1)):
            with pytest.raises(ValueError, match=r"^conv2d: bias must be \[Co\] = \[32\] for weight of shape .*, got"):
                conv2d(x.to(dtype), weight.to(dtype), wrong.to(dtype), padding=1)
    for dtype in (torch.bfloat16, torch.float64):
        with pytest.raises(RuntimeError, match="bias type"):
            conv2d(x, weight, torch.randn(32).to(dtype), padding=1)


def test_small_convolutions_are_not_asked_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of others would take longer than what is gained; wrong arguments are worded all the same."""

    def never(*arguments: object) -> bool:
        raise AssertionError("asked")

    x, weight, bias = torch.randn(1, 16, 8, 8), torch.randn(16, 16, 3, 3), torch.randn(16)
    for wrong in ({"weight": weight[:, :8]}, {"bias": torch.randn(16, 1)}, {"bias": torch.tensor(1.0)}):
        with pytest.raises(ValueError, match=r"^conv2d: (weight|bias) must be"):
            conv2d(x, **{"weight": weight, "bias": bias} | wrong, padding=1)
    monkeypatch.setattr(convolution, "_needs_torchs", never)
    assert torch.equal(conv2d(x, weight, bias, padding=1), F.conv2d(x, weight, bias, padding=1))
    for other in (torch.randn(32, 16, 16, 16), x.double()):
        with pytest.raises(AssertionError, match="asked"):
            conv2d(other, weight.to(other.dtype), bias.to(other.dtype), padding=1)
    with pytest.raises(AssertionError, match="asked"), torch.autocast("cpu", torch.bfloat16):
        conv2d(x, weight, bias, padding=1)  # which a processor may have to widen


@pytest.mark.parametrize("geometry", [{"stride": (2, 2)}, {"padding": (1, 1)}, {"padding": "same"}], ids=str)
def test_stride_and_padding_are_numbers(geometry: dict) -> None:
    """Where torch would take more, the derivatives here would not."""
    for function in (conv2d, conv_transpose2d):
        with pytest.raises(TypeError, match=rf"^{function.__name__}: (stride|padding) must be one int for both dir"):
            function(torch.randn(2, 3, 8, 8), torch.randn(3, 3, 3, 3), **geometry)


@pytest.mark.parametrize("function", [conv2d, conv_transpose2d])
def test_strides_and_paddings_that_there_are_not(function: Callable[..., Tensor]) -> None:
    x, weight = torch.randn(2, 64, 32, 32, requires_grad=True), torch.randn(64, 64, 4, 4)
    for wrong, words in (({"stride": 0}, "stride must be at least 1, got 0"), ({"padding": -1}, "padding must be at")):
        with pytest.raises(ValueError, match=f"^{function.__name__}: {words}"):
            function(x, weight, **wrong)


def test_shapes_of_a_transposed_convolution() -> None:
    x, weight = torch.randn(1, 8, 2, 2), torch.randn(8, 5, 4, 4)
    for wrong in (weight[:4], weight[..., 0]):
        with pytest.raises(ValueError, match=r"^conv_transpose2d: weight must be \[Ci, Co, k, k\] with Ci = 8 for x"):
            conv_transpose2d(x, wrong, stride=2)
    for wrong in (torch.randn(1), torch.randn(8), torch.randn(5, 1)):
        with pytest.raises(ValueError, match=r"^conv_transpose2d: bias must be \[Co\] = \[5\] for weight"):
            conv_transpose2d(x, weight, wrong, stride=2)


@needs_native
@pytest.mark.parametrize(("images", "inputs", "outputs"), [(4, 16, 0), (4, 0, 16), (4, 0, 0), (0, 16, 16)])
def test_images_or_channels_that_are_not_there(images: int, inputs: int, outputs: int) -> None:
    torch.ops.m2o_fast.winograd_convolve(
        torch.ones(4, 16, 16, 16), torch.ones(16, 16, 3, 3), None, False, False
    )  # dirty memory
    x, weight, bias = torch.ones(images, inputs, 16, 16), torch.ones(outputs, inputs, 3, 3), torch.arange(outputs * 1.0)
    y = torch.ops.m2o_fast.winograd_convolve(x, weight, bias, False, False)
    assert torch.equal(y, bias[:, None, None].expand(images, outputs, 16, 16))
    gradient = torch.ops.m2o_fast.winograd_by_weight(torch.ones(images, outputs, 16, 16), x, False)
    assert torch.equal(gradient, torch.zeros(outputs, inputs, 3, 3))
    if inputs:  # torch's own, which is the definition, wants some
        assert conv2d(x, weight, bias, padding=1).shape == (images, outputs, 16, 16)


@needs_native
def test_wrong_input_is_worded() -> None:
    operators, x = torch.ops.m2o_fast, torch.randn(1, 16, 4, 4)
    weight = torch.randn(32, 16, 3, 3)
    with pytest.raises(RuntimeError, match="channels must be a multiple of 16, got 8"):
        operators.winograd_convolve(torch.randn(1, 8, 4, 4), torch.randn(16, 8, 3, 3), None, False, False)
    for wrong, transposed in ((weight[:8], False), (weight[:, :8], False), (weight, True), (weight[..., :1], False)):
        with pytest.raises(RuntimeError, match="weight must be"):
            operators.winograd_convolve(x, wrong, None, transposed, False)
    with pytest.raises(RuntimeError, match=r"weight must be .* got \[32, 16, 3, 3\]"):
        operators.winograd_convolve(x, weight.double(), None, False, False)
    with pytest.raises(RuntimeError, match="bias must be"):
        operators.winograd_convolve(x, weight, torch.randn(8), False, False)
    with pytest.raises(RuntimeError, match=r"grad must be .* got \[2, 16, 4, 4\]"):
        operators.winograd_by_weight(torch.randn(2, 16, 4, 4), x, False)
    with pytest.raises(RuntimeError, match=r"height and width are at least 2, got \[1, 16, 1, 4\]"):
        operators.winograd_convolve(x[:, :, :1], weight, None, False, True)
    with pytest.raises(RuntimeError, match="height and width are at least 2"):
        operators.winograd_by_weight(x[..., :1], x[..., :1], True)
    with pytest.raises(RuntimeError, match="a bias has no place"):
        operators.winograd_convolve(x, weight.transpose(0, 1), torch.randn(32), True, True)
    with pytest.raises(RuntimeError, match="float32 or float64"):
        operators.winograd_by_weight(x.half(), x.half(), False)
