"""scale_channels, modulated_conv2d, demodulation and style_affines against per-sample weights, written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import available
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from m2o_fast.nn.blocks import ModulatedResBlock
from m2o_fast.ops import demodulation, modulated_conv2d, scale_channels, style_affines
from m2o_fast.ops._library import use_backend


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(x: Tensor, weight: Tensor, style: Tensor, bias: Tensor | None, demodulate: bool, up: bool) -> Tensor:
    """One convolution per sample, with weights of its own."""
    images = []
    for image, scales in zip(x, style, strict=True):
        own = weight * scales[None, :, None, None]
        if demodulate:
            own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        image = image[None]
        if up:
            image = image.repeat_interleave(2, 2).repeat_interleave(2, 3)
        images.append(F.conv2d(image, own, bias, padding=weight.shape[2] // 2))
    return torch.cat(images)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 3), inputs=st.integers(1, 6), outputs=st.integers(1, 5), height=st.integers(1, 6),
    width=st.integers(1, 6), kernel=st.sampled_from((1, 3)), up=st.booleans(), demodulate=st.booleans(),
    biased=st.booleans(), channels_last=st.booleans(),
)  # fmt: skip
def test_modulated_conv2d_equals_weights_per_sample(
    n, inputs, outputs, height, width, kernel, up, demodulate, biased, channels_last
) -> None:
    x = normal(n, inputs, height, width)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    weight, style = normal(outputs, inputs, kernel, kernel, seed=1), normal(n, inputs, seed=2)
    bias = normal(outputs, seed=3) if biased else None
    y = modulated_conv2d(x, weight, style, bias, demodulate=demodulate, up=up)
    torch.testing.assert_close(y, plain(x, weight, style, bias, demodulate, up), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("up", [False, True])
def test_modulated_conv2d_derivatives_of_both_orders(kernel, up) -> None:
    tensors = [normal(2, 2, 2, 2), normal(2, 2, kernel, kernel, seed=1), 1 + normal(2, 2, seed=2), normal(2, seed=3)]
    tensors = [tensor.requires_grad_() for tensor in tensors]
    assert torch.autograd.gradcheck(lambda *args: modulated_conv2d(*args, up=up), tensors)
    assert torch.autograd.gradgradcheck(lambda *args: modulated_conv2d(*args, up=up), tensors)


def test_statistics_are_taken_in_float32() -> None:
    """In bfloat16 the sum of 4608 squares would stop growing long before its end; in float16 it would be infinite."""
    weight, style = 10 * normal(8, 512, 3, 3).float(), 1 + 0.1 * normal(2, 512, seed=1).float()
    for dtype in (torch.bfloat16, torch.float16):
        low_weight, low_style = weight.to(dtype), style.to(dtype)
        exact = demodulation(low_weight.double(), low_style.double())
        assert exact.dtype == torch.float64
        torch.testing.assert_close(demodulation(low_weight, low_style).double(), exact, rtol=1e-5, atol=0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            under_autocast = demodulation(low_weight, low_style)
        assert under_autocast.dtype == torch.float32
        torch.testing.assert_close(under_autocast.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("up", [False, True])
def test_autocast(up) -> None:
    x, weight, style = normal(2, 8, 6, 6).float(), normal(4, 8, 3, 3, seed=1).float(), normal(2, 8, seed=2).float()
    weight.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = modulated_conv2d(x, weight, style, up=up)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), modulated_conv2d(x, weight, style, up=up), rtol=0, atol=0.05)
    y.float().sum().backward()
    assert weight.grad.dtype == torch.float32 and weight.grad.isfinite().all()


def test_modulated_conv2d_compiles() -> None:
    torch.compiler.reset()
    tensors = [normal(2, 3, 4, 4).float(), normal(5, 3, 3, 3, seed=1).float(), normal(2, 3, seed=2).float()]
    compiled = torch.compile(modulated_conv2d, fullgraph=True, backend="aot_eager")
    for up in (False, True):
        torch.testing.assert_close(compiled(*tensors, up=up), modulated_conv2d(*tensors, up=up))


def test_style_affines_is_one_product_of_all_layers() -> None:
    style = normal(3, 4).requires_grad_()
    weights = [normal(size, 4, seed=size).requires_grad_() for size in (5, 1, 7)]
    biases = [normal(size, seed=10 + size).requires_grad_() for size in (5, 1, 7)]
    results = style_affines(style, weights, biases)
    assert len({result.untyped_storage().data_ptr() for result in results}) == 1
    expected = [F.linear(style, *layer) for layer in zip(weights, biases, strict=True)]
    inputs = [style, *weights, *biases]
    for result, truth in zip(results, expected, strict=True):
        torch.testing.assert_close(result, truth)
    gradients = [torch.autograd.grad(sum(y.square().sum() for y in ys), inputs) for ys in (results, expected)]
    for result, truth in zip(*gradients, strict=True):
        torch.testing.assert_close(result, truth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["reference", "compiled"])
def test_scale_channels_is_the_product(backend, dtype) -> None:
    available("scale_channels", backend, "cpu")
    x = normal(2, 6, 7, 5).to(dtype)
    for scale in (normal(2, 6, seed=1).float(), normal(6, seed=2).float()):
        y = scale_channels(x, scale, backend=backend)
        assert torch.equal(y, (x.float() * scale[..., None, None]).to(dtype)) and y.dtype == dtype


@pytest.mark.parametrize("upsample", [False, True])
def test_residual_block_is_its_layers_in_a_row(upsample) -> None:
    block = ModulatedResBlock(6, 4, 5, upsample=upsample).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    x, style = normal(3, 6, 4, 4), normal(3, 5, seed=1)
    residual = block.conv2(F.leaky_relu(block.conv1(F.leaky_relu(x, 0.2), style), 0.2), style)
    torch.testing.assert_close(block(x, style), block._merge(x, residual))
    with use_backend("reference"):
        torch.testing.assert_close(block(x, style), block._merge(x, residual))


@pytest.mark.parametrize("autocast", [False, True])
def test_large_styles_do_not_overflow_before_they_are_demodulated(autocast) -> None:
    x, weight = normal(1, 64, 8, 8), normal(16, 64, 3, 3, seed=1)
    style = (3000 * normal(1, 64, seed=2)).requires_grad_()
    exact = modulated_conv2d(x, weight, style)
    exact_gradient = torch.autograd.grad(exact.square().sum(), style)[0]
    dtype = torch.float32 if autocast else torch.float16
    rounded = style.detach().float().requires_grad_()
    with torch.autocast("cpu", torch.float16, enabled=autocast):
        y = modulated_conv2d(x.to(dtype), weight.to(dtype), rounded)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.double(), exact, atol=0.05, rtol=0.05)
    gradient = torch.autograd.grad(y.double().square().sum(), rounded)[0]
    error = (gradient.double() - exact_gradient).norm() / exact_gradient.norm()
    assert error < 0.05


@pytest.mark.parametrize("backend", ["reference", "compiled"])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(
    ("x_size", "weight_size", "style_size", "demodulate"),
    [
        (1.0, 1e4, 1.0, True),
        (1e4, 1.0, 1e-6, True),  # eps is what is left of the sum of squares
        (1.0, 1e4, 1e3, True),
        (1.0, 3e4, 1e-5, False),
        (1e4, 1e-3, 10.0, False),
        (1e3, 1e4, 1e-9, False),
    ],
)
def test_float16_gives_every_number_that_it_has(
    x_size, weight_size, style_size, demodulate, kernel, autocast, backend
) -> None:
    available("scale_channels", backend, "cpu")
    store = torch.float32 if autocast else torch.float16
    tensors = [
        (x_size * normal(2, 32, 6, 6).clamp(-3, 3)).to(store),
        (weight_size * normal(8, 32, kernel, kernel, seed=1).clamp(-2, 2)).to(store),
        style_size * normal(2, 32, seed=2).float(),
    ]
    exact_inputs = [tensor.double().requires_grad_() for tensor in tensors]
    exact = plain(*exact_inputs, None, demodulate, False)
    assert 1e-3 < exact.abs().max() < 60000
    inputs = [tensor.requires_grad_() for tensor in tensors]
    with torch.autocast("cpu", torch.float16, enabled=autocast):
        y = modulated_conv2d(*inputs, demodulate=demodulate, backend=backend)
    assert y.dtype == torch.float16
    assert (y.double() - exact).norm() < 0.01 * exact.norm()
    upstream = normal(*exact.shape, seed=4) * 1e-2
    for got, right in zip(
        torch.autograd.grad((y.double() * upstream).sum(), inputs),
        torch.autograd.grad((exact * upstream).sum(), exact_inputs),
        strict=True,
    ):
        shown = right.to(got.dtype).double() if got.dtype == torch.float16 else right
        floor = 1e-6 if got.dtype == torch.float16 else 0  # float16 has nothing smaller
        assert (got.double() - shown).abs().mean() < 0.02 * shown.abs().mean() + floor


X, WEIGHT, STYLE = torch.ones(2, 3, 4, 4), torch.ones(5, 3, 3, 3), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: modulated_conv2d(X[0], WEIGHT, STYLE), ValueError, r"x must be \[N, C, H, W\]"),
        (lambda: modulated_conv2d(X, WEIGHT.long(), STYLE), TypeError, "weight must be float32"),
        (lambda: modulated_conv2d(X, WEIGHT.double(), STYLE), TypeError, "weight must have the dtype of x"),
        (lambda: modulated_conv2d(X, WEIGHT[0], STYLE), ValueError, r"weight must be \[Co, Ci, k, k\]"),
        (lambda: modulated_conv2d(X, torch.ones(5, 3, 5, 5), STYLE), ValueError, r"\[Co, Ci, 1, 1\] or "),
        (lambda: modulated_conv2d(X, WEIGHT, torch.ones(2, 4)), ValueError, r"style must be \[N, Ci\] with the Ci = 3"),
        (lambda: modulated_conv2d(X, WEIGHT, torch.ones(3, 3)), ValueError, r"x must be .* \[3, 3\] of style"),
        (lambda: modulated_conv2d(X, WEIGHT, STYLE, STYLE), ValueError, r"bias must be \[Co\] = \[5\]"),
        (lambda: modulated_conv2d(X, WEIGHT, STYLE, eps=-1), ValueError, "eps must be at least 0, got -1"),
        (lambda: modulated_conv2d(X[:, :, :0], WEIGHT, STYLE), ValueError, "needs at least one channel on either side"),
        (lambda: modulated_conv2d(X, WEIGHT[:0], STYLE), ValueError, "needs at least one channel on either side"),
        (lambda: modulated_conv2d(X, WEIGHT.to("meta"), STYLE), ValueError, "must be on the device of"),
        (lambda: demodulation(WEIGHT, STYLE[0]), ValueError, r"demodulation: style must be \[N, Ci\]"),
        (lambda: style_affines(STYLE, [], []), ValueError, "at least one layer"),
        (lambda: style_affines(STYLE, [STYLE], []), ValueError, "1 weights and 0 biases"),
        (lambda: style_affines(STYLE, [STYLE], [torch.ones(3)]), ValueError, r"layer 0 must have a weight \[O, 3\]"),
        (lambda: style_affines(STYLE[0], [STYLE], [STYLE[:, 0]]), ValueError, r"style must be \[N, S\]"),
        (lambda: style_affines(STYLE, [STYLE], [STYLE[:, 0].double()]), TypeError, r"biases\[0\] must have the dtype"),
        (lambda: style_affines(STYLE, [STYLE], [[1, 2]]), TypeError, r"biases\[0\] must be a tensor, got list"),
    ],
)  # fmt: skip
def test_errors_name_operator_argument_and_need(call, error, words) -> None:
    with pytest.raises(error, match=words):
        call()
