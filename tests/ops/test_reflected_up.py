"""The folded 5x5 convolution of an upsampled image against torch's upsampling, padding and convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from recording import CpuRecorder
from torch import Tensor

from m2o_fast.ops import _choices, use_backend
from m2o_fast.ops._choices import folding_5x5_pays
from m2o_fast.ops.reflected_up import up2_reflected_conv5x5

#: N, Ci, H, W: squares that touch both borders, odd, with Winograd's form, and a line, which nothing mirrors
SHAPES = [(2, 3, 2, 2), (1, 2, 3, 5), (2, 16, 8, 8), (2, 3, 1, 4)]


def torchs(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    mode = "reflect" if min(x.shape[2:]) > 1 else "replicate"
    return F.conv2d(F.pad(F.interpolate(x, scale_factor=2), (2,) * 4, mode=mode), weight, bias)


def drawn(shape: tuple[int, ...], memory_format: torch.memory_format, dtype: torch.dtype) -> list[Tensor]:
    """x, weight, bias."""
    x = torch.randn(shape, dtype=dtype).contiguous(memory_format=memory_format)
    parameters = torch.randn(16, shape[1], 5, 5, dtype=dtype), torch.randn(16, dtype=dtype)
    return [tensor.requires_grad_() for tensor in (x, *parameters)]


@pytest.mark.parametrize("memory_format", (torch.channels_last, torch.contiguous_format), ids=str)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(shape: tuple[int, ...], biased: bool, memory_format: torch.memory_format) -> None:
    inputs = drawn(shape, memory_format, torch.float64)[: 3 if biased else 2]
    y, expected = up2_reflected_conv5x5(*inputs, fold=True), torchs(*inputs)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-11)
    assert y.is_contiguous(memory_format=memory_format)
    along = torch.randn_like(y)
    gradients = torch.autograd.grad(y, inputs, along)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, inputs, along), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_second_derivatives() -> None:
    found = []
    inputs = drawn((2, 2, 3, 4), torch.channels_last, torch.float64)
    for function in (lambda *given: up2_reflected_conv5x5(*given, fold=True), torchs):
        first = torch.autograd.grad(function(*inputs).pow(3).sum(), inputs, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), inputs))
    for mine, right in zip(*found, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-9, atol=1e-9)


def test_transforms_of_torch_func() -> None:
    """Nothing is folded in them."""
    x, weight, _ = (tensor.detach() for tensor in drawn((2, 2, 3, 4), torch.contiguous_format, torch.float64))
    ours = torch.func.grad(lambda given: up2_reflected_conv5x5(given, weight, fold=True).square().sum())(x)
    theirs = torch.func.grad(lambda given: torchs(given, weight).square().sum())(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_rounding() -> None:
    """Twice torch's own error at most."""
    inputs = [tensor.detach() for tensor in drawn((2, 16, 8, 8), torch.channels_last, torch.float32)]
    exact = torchs(*(tensor.double() for tensor in inputs))
    ours, theirs = (
        (y.double() - exact).abs().max() for y in (up2_reflected_conv5x5(*inputs, fold=True), torchs(*inputs))
    )
    assert ours <= 2 * theirs + 1e-6


def test_autocast_takes_bfloat16() -> None:
    inputs = drawn((2, 16, 8, 8), torch.channels_last, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = up2_reflected_conv5x5(*inputs, fold=True)
    y.sum().backward()
    assert y.dtype == torch.bfloat16 and all(tensor.grad.dtype == torch.float32 for tensor in inputs)
    torch.testing.assert_close(y.float(), torchs(*inputs), rtol=0.1, atol=0.5)


def test_it_folds_where_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folded and unfolded differ by rounding, so the bits tell which it was."""
    x, weight, _ = drawn((2, 16, 8, 8), torch.channels_last, torch.float32)
    folded, unfolded = (up2_reflected_conv5x5(x, weight, fold=fold) for fold in (True, False))
    assert not torch.equal(folded, unfolded)
    assert torch.equal(up2_reflected_conv5x5(x, weight), unfolded)
    monkeypatch.setattr(_choices, "WORTH_FOLDING_5X5", 1)
    assert torch.equal(up2_reflected_conv5x5(x, weight), folded)
    with use_backend("reference"):
        assert torch.equal(up2_reflected_conv5x5(x, weight), unfolded)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_are_not_folded(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folded weights would be rounded once more."""
    monkeypatch.setattr(_choices, "WORTH_FOLDING_5X5", 1)
    x, weight, bias = (tensor.detach() for tensor in drawn((2, 16, 8, 8), torch.channels_last, dtype))
    assert torch.equal(up2_reflected_conv5x5(x, weight, bias), up2_reflected_conv5x5(x, weight, bias, fold=False))


def test_the_batch_has_no_say() -> None:
    """A few images tell how much memory many will take, and an image has the same bits in any batch."""
    for batch in (1, 64):
        assert folding_5x5_pays(torch.Size((batch, 256, 16, 16)), 128)
        assert not folding_5x5_pays(torch.Size((batch, 64, 8, 8)), 32)


def test_a_graph_can_hold_it() -> None:
    """Nothing in it comes from the host, forward or backward."""
    inputs = drawn((2, 16, 8, 8), torch.channels_last, torch.float32)

    def gradients() -> tuple[Tensor, ...]:
        y = up2_reflected_conv5x5(*inputs, fold=True)
        return torch.autograd.grad(y, inputs, torch.ones_like(y))

    expected = gradients()
    recorded, replay = CpuRecorder().record(gradients)
    for tensor in recorded:
        tensor.fill_(9)
    replay()
    assert all(map(torch.equal, recorded, expected))


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs x \[N, Ci, H, W\] and weight \[Co, Ci, 5, 5\], got \[1, 2, 4, 4\]"):
        up2_reflected_conv5x5(torch.zeros(1, 2, 4, 4), torch.zeros(2, 2, 3, 3))
