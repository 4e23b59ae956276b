"""The convolution over reflected borders against torch's padding and convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import needs_native
from torch import Tensor

from m2o_fast.ops import _choices, convolution, use_backend, winograd
from m2o_fast.ops.reflected import reflected_conv3x3

FORMATS = (torch.channels_last, torch.contiguous_format)
#: N, Ci, H, W: the smallest, both borders in a tile, odd, whole tiles, many of them, mirrored lines that are the last
#: of a tile, many channels, few, and none that torch's would not be taken for
SHAPES = [(2, 16, 2, 2), (2, 16, 3, 3), (3, 32, 9, 13), (2, 16, 16, 16), (2, 16, 12, 76), (2, 48, 5, 6)]
SHAPES += [(1, 272, 6, 7), (2, 3, 8, 8)]


def torchs(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    mode = "reflect" if min(x.shape[2:]) > 1 else "replicate"
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode=mode), weight, bias)


@pytest.fixture
def any_tile_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Winograd's form also where it does not pay, and our derivatives where they do not."""
    monkeypatch.setattr(convolution, "is_worth_a_call", lambda *shapes: True)
    monkeypatch.setattr(convolution, "winograd_pays", lambda shape, channels: shape[1] % 16 == channels % 16 == 0)


def drawn(
    shape: tuple[int, ...], memory_format: torch.memory_format, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """x, weight, bias."""
    x = torch.randn(shape, dtype=dtype).contiguous(memory_format=memory_format)
    parameters = torch.randn(16, shape[1], 3, 3, dtype=dtype), torch.randn(16, dtype=dtype)
    return [tensor.requires_grad_() for tensor in (x, *parameters)]


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(
    shape: tuple[int, ...], biased: bool, memory_format: torch.memory_format, any_tile_count: None
) -> None:
    inputs = drawn(shape, memory_format)[: 3 if biased else 2]
    y, expected = reflected_conv3x3(*inputs), torchs(*inputs)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-11)
    along = torch.randn_like(y)
    gradients = torch.autograd.grad(y, inputs, along)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, inputs, along), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    for image in (y, gradients[0]):
        assert image.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("shape", [(2, 16, 2, 3), (1, 16, 5, 6), (2, 3, 3, 2)], ids=str)
def test_derivatives_by_differences(shape: tuple[int, ...], any_tile_count: None) -> None:
    x, weight, bias = drawn(shape, torch.channels_last)
    few = (weight[:, :, :1, :1] / 4).detach().requires_grad_()

    def function(x: Tensor, few: Tensor) -> Tensor:
        return reflected_conv3x3(x, weight.detach() + few, bias.detach())[:, :3]

    torch.autograd.gradcheck(function, (x, few), fast_mode=True)
    torch.autograd.gradgradcheck(function, (x, few), fast_mode=True)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("channels", [16, 3])
def test_derivatives_of_third_order(channels: int, memory_format: torch.memory_format, any_tile_count: None) -> None:
    inputs = drawn((2, channels, 5, 6), memory_format)
    found = []
    for function in (reflected_conv3x3, torchs):
        y = function(*inputs)
        first = torch.autograd.grad(y.pow(3).sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs, create_graph=True)
        found.append([*first, *second, *torch.autograd.grad(sum(g.square().sum() for g in second), inputs)])
    for mine, right in zip(*found, strict=True):
        torch.testing.assert_close(mine, right, rtol=0, atol=1e-10 * float(right.detach().abs().max()))


@needs_native
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_bits_do_not_depend_on_the_number_of_threads(memory_format: torch.memory_format) -> None:
    """Tiles enough for several parts, which overlap in the gradient by input."""
    x, weight = torch.randn(5, 48, 33, 30).contiguous(memory_format=memory_format), torch.randn(48, 48, 3, 3)
    grad, threads, runs = torch.randn_like(x), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            runs.append(
                [
                    winograd.convolve(x, weight, None, reflected=True),
                    winograd.by_input(grad, weight, reflected=True),
                    winograd.by_weight(grad, x, reflected=True),
                ]
            )
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        assert all(torch.equal(mine, first) for mine, first in zip(run, runs[0], strict=True))


@needs_native
def test_nothing_is_padded_where_winograds_form_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> Tensor:
        raise AssertionError("padded")

    monkeypatch.setattr(convolution, "_reflect", never)
    inputs = drawn((4, 16, 16, 16), torch.channels_last)
    torch.autograd.grad(reflected_conv3x3(*inputs).sum(), inputs)
    with pytest.raises(AssertionError, match="padded"):
        reflected_conv3x3(*drawn((4, 12, 16, 16), torch.channels_last))


@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_only_the_gradients_that_are_asked_for(needed: tuple[bool, bool]) -> None:
    for channels in (16, 3):
        x = torch.randn(4, channels, 8, 8, dtype=torch.float64, requires_grad=needed[0])
        weight = torch.randn(16, channels, 3, 3, dtype=torch.float64, requires_grad=needed[1])
        reflected_conv3x3(x, weight).sum().backward()
        assert (x.grad is not None, weight.grad is not None) == needed


def test_float32_is_as_exact_as_winograd() -> None:
    """At most about the error of the same convolution with borders of zeros."""
    x, weight = torch.randn(4, 64, 16, 16), torch.randn(64, 64, 3, 3) / 24
    grad = torch.randn(4, 64, 16, 16)
    exact = [tensor.double().requires_grad_() for tensor in (x, weight)]
    right = torchs(*exact)
    truths = (right.detach(), *torch.autograd.grad(right, exact, grad.double()))
    found = []
    for reflected in (True, False):
        if not reflected:
            right = F.conv2d(*exact, padding=1)
            truths = (right.detach(), *torch.autograd.grad(right, exact, grad.double()))
        ours = (
            winograd.convolve(x, weight, None, reflected=reflected),
            winograd.by_input(grad, weight, reflected=reflected),
            winograd.by_weight(grad, x, reflected=reflected),
        )
        found.append([(mine.double() - truth).square().mean().sqrt() for mine, truth in zip(ours, truths, strict=True)])
    for reflected_error, error in zip(*found, strict=True):
        assert reflected_error <= 1.5 * error


def test_sides_of_one_pixel_repeat_it() -> None:
    for size in ((32, 16, 1, 8), (32, 16, 8, 1), (2, 16, 1, 1)):
        x, weight, bias = drawn(size, torch.contiguous_format)
        torch.testing.assert_close(reflected_conv3x3(x, weight, bias), torchs(x, weight, bias))


def test_no_images() -> None:
    x, weight, bias = drawn((0, 16, 8, 8), torch.contiguous_format)
    y = reflected_conv3x3(x, weight, bias)
    assert y.shape == (0, 16, 8, 8)
    by_weight, by_bias = torch.autograd.grad(y.sum(), (weight, bias))
    assert not by_weight.any() and not by_bias.any()


def test_wrong_arguments_are_worded() -> None:
    x = torch.randn(2, 16, 8, 8)
    for wrong in (torch.randn(16, 16, 5, 5), torch.randn(16, 16, 3)):
        with pytest.raises(ValueError, match=r"^reflected_conv3x3: needs x .* and weight \[Co, Ci, 3, 3\], got shapes"):
            reflected_conv3x3(x, wrong)
    with pytest.raises(ValueError, match=r"^reflected_conv3x3: weight must be \[Co, Ci, k, k\] with Ci = 16"):
        reflected_conv3x3(x, torch.randn(16, 8, 3, 3))
    with pytest.raises(ValueError, match=r"^reflected_conv3x3: bias must be \[Co\] = \[16\]"):
        reflected_conv3x3(x, torch.randn(16, 16, 3, 3), torch.randn(8))


def test_transforms_and_compiled_code_take_torchs() -> None:
    x, weight = torch.randn(4, 16, 8, 8), torch.randn(16, 16, 3, 3)
    _, tangent = torch.func.jvp(lambda x: reflected_conv3x3(x, weight), (x,), (x,))
    torch.testing.assert_close(tangent, torchs(x, weight))


def test_bfloat16_and_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(2, 16, 16, 16), torch.randn(16, 16, 3, 3)
    with use_backend("reference"):
        assert torch.equal(reflected_conv3x3(x, weight), torchs(x, weight))
    for emulated in ((), (torch.backends.cpu.get_cpu_capability(),)):
        monkeypatch.setattr(_choices, "WITHOUT_BFLOAT16", emulated)
        inputs = [tensor.clone().requires_grad_() for tensor in (x, weight)]
        with torch.autocast("cpu", torch.bfloat16):
            y = reflected_conv3x3(*inputs)
        assert y.dtype == torch.bfloat16
        exact = torchs(*inputs)
        for mine, right in zip(
            (y, *torch.autograd.grad(y.float().sum(), inputs)),
            (exact, *torch.autograd.grad(exact.sum(), inputs)),
            strict=True,
        ):
            torch.testing.assert_close(mine.float(), right, rtol=0, atol=2e-2 * float(right.detach().abs().max()))
