"""conv2d and Winograd's form of it against torch's, in values, gradients and second derivatives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from m2o_fast.ops import build_info, conv2d, convolution, use_backend, winograd

compiled = pytest.mark.skipif(build_info() is None, reason="needs the native library")
#: height, width, input and output channels: full tiles, cut ones, less than one
WINOGRAD_SIZES = [(8, 8, 16, 32), (6, 9, 48, 16), (1, 1, 16, 16), (3, 17, 32, 48)]
#: channels, out channels, kernel, stride, padding
GEOMETRIES = [(16, 32, 3, 1, 1), (3, 5, 3, 1, 1), (4, 6, 4, 2, 1), (6, 4, 4, 1, 0), (5, 3, 1, 1, 0)]


@pytest.fixture
def any_tile_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Winograd's form also where it does not pay, and our derivatives where they do not."""
    monkeypatch.setattr(convolution, "is_worth_a_call", lambda *shapes: True)
    monkeypatch.setattr(convolution, "winograd_pays", lambda shape, channels: shape[1] % 16 == channels % 16 == 0)


def drawn(height: int, width: int, channels: int, out_channels: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """x, weight, bias and a gradient of the output."""
    x = torch.randn(2, channels, height, width, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(out_channels, channels, 3, 3, dtype=dtype)
    return x, weight, torch.randn(out_channels, dtype=dtype), torch.randn(2, out_channels, height, width, dtype=dtype)


def both_ways(x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Output and gradients by input and weight, in Winograd's form and by torch."""
    ours = [winograd.convolve(x, weight, bias), winograd.by_input(grad, weight), winograd.by_weight(grad, x)]
    inputs = [tensor.clone().requires_grad_() for tensor in (x, weight)]
    y = F.conv2d(*inputs, bias, padding=1)
    return ours, [y.detach(), *torch.autograd.grad(y, inputs, grad)]


@pytest.mark.parametrize("size", WINOGRAD_SIZES, ids=str)
def test_winograd_is_the_convolution(size: tuple[int, ...]) -> None:
    for ours, theirs in zip(*both_ways(*drawn(*size, torch.float64)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@compiled
@pytest.mark.parametrize("size", WINOGRAD_SIZES, ids=str)
def test_kernels_are_their_references(size: tuple[int, ...]) -> None:
    x, weight, bias, grad = drawn(*size, torch.float64)
    kernel = winograd._kernel_frequencies(weight.transpose(0, 1), flipped=False)
    operators = torch.ops.m2o_fast
    for operator, reference, arguments in (
        (operators.winograd_convolve.default, winograd._convolve_reference, (x, kernel, bias)),
        (operators.winograd_by_weight.default, winograd._by_weight_reference, (grad, x)),
    ):
        torch.testing.assert_close(operator(*arguments), reference(*arguments), rtol=0, atol=1e-11)
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


def test_rounding_errors_stay_close_to_those_of_torch() -> None:
    """In float32, root mean square over the output: the points of interpolation decide; 0, +-1, +-2 fail this."""
    exact = drawn(16, 16, 64, 64, torch.float64)
    rounded = tuple(tensor.float() for tensor in exact)
    _, right = both_ways(*(tensor.double() for tensor in rounded))
    errors = [
        [(value.double() - truth).square().mean().sqrt() for value, truth in zip(values, right, strict=True)]
        for values in both_ways(*rounded)
    ]
    for ours, theirs in zip(*errors, strict=True):
        assert ours < 3 * theirs


@compiled
def test_runs_repeat_bit_by_bit() -> None:
    x, weight, bias, grad = drawn(16, 16, 32, 32, torch.float32)
    runs = [
        (winograd.convolve(x, weight, bias), winograd.by_input(grad, weight), winograd.by_weight(grad, x))
        for _ in range(2)
    ]
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


def penalised(convolution, x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> list[Tensor]:
    """Gradients of an output and of the squared norm of its gradient by x, as in R1, and once more."""
    x, weight, bias = (tensor.clone().requires_grad_() for tensor in (x, weight, bias))
    y = convolution(x, weight, bias, stride=stride, padding=padding)
    (by_x,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
    by_weight, by_bias = torch.autograd.grad(y.square().sum() + by_x.square().sum(), (weight, bias), create_graph=True)
    third = torch.autograd.grad(by_weight.square().sum() + by_bias.square().sum(), (x, weight, bias))
    return [y, by_x, by_weight, by_bias, *third]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_derivatives_of_any_order(geometry: tuple[int, ...], any_tile_count: None) -> None:
    channels, out_channels, kernel, stride, padding = geometry
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, channels, 6, 8, dtype=torch.float64).contiguous(memory_format=memory_format)
        weight = torch.randn(out_channels, channels, kernel, kernel, dtype=torch.float64) / 10
        bias = torch.randn(out_channels, dtype=torch.float64)
        ours, theirs = (penalised(f, x, weight, bias, stride, padding) for f in (conv2d, F.conv2d))
        for mine, right in zip(ours, theirs, strict=True):
            # rounding is relative to the sums that cancel, so to the largest number and not to each
            torch.testing.assert_close(mine, right, rtol=0, atol=1e-10 * float(right.abs().max()))


def test_only_what_is_asked_for_gets_a_gradient(any_tile_count: None) -> None:
    for channels in (3, 16):
        x, weight = torch.randn(2, channels, 8, 8), torch.randn(16, channels, 3, 3, requires_grad=True)
        conv2d(x, weight, torch.randn(16), padding=1).sum().backward()
        assert weight.grad is not None and x.grad is None
        x.requires_grad_()
        (by_x,) = torch.autograd.grad(conv2d(x, weight.detach(), padding=1).sum(), x)
        torch.testing.assert_close(by_x, torch.autograd.grad(F.conv2d(x, weight, padding=1).sum(), x)[0])


def test_winograd_runs_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> Tensor:
        raise AssertionError("Winograd's form")

    monkeypatch.setattr(winograd, "convolve", never)
    weight = torch.randn(16, 16, 3, 3)
    conv2d(torch.randn(1, 16, 8, 8), weight, padding=1)  # 4 tiles
    conv2d(torch.randn(32, 16, 16, 16), weight)  # another geometry
    with use_backend("reference"):
        conv2d(torch.randn(32, 16, 16, 16), weight, padding=1)
    if build_info() is not None:
        with pytest.raises(AssertionError, match="Winograd's form"):
            conv2d(torch.randn(32, 16, 16, 16), weight, padding=1)


@compiled
@pytest.mark.parametrize(("batch", "ours"), [(1, False), (32, True)])
def test_small_convolutions_are_torchs(batch: int, ours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(convolution._Convolution, "apply", lambda *arguments: calls.append(arguments))
    conv2d(torch.randn(batch, 24, 16, 16), torch.randn(24, 24, 4, 4), padding=1)  # 2.4 million multiplications each
    assert bool(calls) == ours


def test_torchs_own_where_nothing_else_fits() -> None:
    x, weight = torch.randn(32, 16, 16, 16), torch.randn(16, 16, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv2d(x, weight, padding=1).dtype == torch.bfloat16
    _, tangent = torch.func.jvp(lambda x: conv2d(x, weight, padding=1), (x,), (x,))
    torch.testing.assert_close(tangent, F.conv2d(x, weight, padding=1))
    assert conv2d(x[:0], weight, padding=1).shape == (0, 16, 16, 16)


def inside_autocast(y: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    with torch.autocast("cpu", torch.bfloat16):
        gradients = torch.autograd.grad(y, inputs, torch.cos(y.detach()), create_graph=True)
        return *gradients, *torch.autograd.grad(gradients[0].square().sum() + gradients[1].square().sum(), inputs)


def batched(y: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    along = torch.stack([torch.cos(y.detach()), y.detach()])
    return torch.autograd.grad(y, inputs, along, is_grads_batched=True)


def along_a_direction(y: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.cos(y.detach()), y.detach())
        gradients = torch.autograd.grad(y, inputs, dual, create_graph=True)
        return tuple(forward_ad.unpack_dual(gradient).tangent for gradient in gradients)


@pytest.mark.parametrize("differentiate", [inside_autocast, batched, along_a_direction])
@pytest.mark.parametrize("channels", [16, 3])
def test_graphs_are_differentiated_as_torchs_are(differentiate, channels: int, any_tile_count: None) -> None:
    """The forward pass knows nothing of what surrounds the backward pass."""
    x, weight = torch.randn(2, channels, 5, 6), torch.randn(16, channels, 3, 3) / 10
    found = []
    for function in (conv2d, F.conv2d):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, weight)]
        found.append(differentiate(function(*inputs, padding=1), inputs))
    for mine, right in zip(*found, strict=True):
        tolerance = 2e-2 if differentiate is inside_autocast else 1e-4  # torch's own are rounded to bfloat16
        torch.testing.assert_close(mine, right, rtol=0, atol=tolerance * float(right.detach().abs().max()))


def test_negative_views(any_tile_count: None) -> None:
    x, weight = torch._neg_view(torch.randn(2, 16, 8, 8)), torch.randn(16, 16, 3, 3, requires_grad=True)
    ours, theirs = (torch.autograd.grad(f(x, weight, padding=1).pow(2).sum(), weight)[0] for f in (conv2d, F.conv2d))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))


@compiled
def test_wrong_input_is_worded() -> None:
    operators, x = torch.ops.m2o_fast, torch.randn(1, 16, 4, 4)
    with pytest.raises(RuntimeError, match="channels must be a multiple of 16, got 8"):
        operators.winograd_convolve(torch.randn(1, 8, 4, 4), torch.randn(36, 8, 16), None)
    with pytest.raises(RuntimeError, match=r"kernel must be \[36, C, multiple of 16\].* got \[36, 16, 8\]"):
        operators.winograd_convolve(x, torch.randn(36, 16, 8), None)
    with pytest.raises(RuntimeError, match="bias must be"):
        operators.winograd_convolve(x, torch.randn(36, 16, 16), torch.randn(8))
    with pytest.raises(RuntimeError, match=r"grad must be .* got \[2, 16, 4, 4\]"):
        operators.winograd_by_weight(torch.randn(2, 16, 4, 4), x)
    with pytest.raises(RuntimeError, match="float32 or float64"):
        operators.winograd_by_weight(x.half(), x.half())
