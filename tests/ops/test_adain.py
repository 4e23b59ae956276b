"""adain_act and instance_norm_act: every backend that runs here against float64, and everything around the kernels."""

from __future__ import annotations

import itertools
import os

import pytest
import torch
import torch.nn.functional as F
from adain_cases import DTYPES, check, normal, run
from cases import (
    CONTENTS,
    EMPTY_SHAPES,
    FEW_LAYOUTS,
    INTERPRETER,
    LAYOUTS,
    SHAPES,
    TARGETS,
    THOROUGH,
    Target,
    assert_compiled_is_the_same,
    available,
    is_reduced,
    needs_native,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from m2o_fast.ops import adain_act, instance_norm_act


@pytest.fixture(params=TARGETS, ids="-".join)
def target(request: pytest.FixtureRequest) -> Target:
    return available("adain_act", *request.param)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forward_and_gradients(target, dtype, shape) -> None:
    check(target, normal(*shape).to(dtype), normal(*shape[:2], seed=1).float(), normal(*shape[:2], seed=2).float())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 9, 6, 7), (3, 32, 1, 1), (2, 1, 5, 4)], ids=str)
def test_memory_layouts(target, layout, shape) -> None:
    gamma, beta = normal(*shape[:2], seed=1).float(), normal(*shape[:2], seed=2).float()
    x = LAYOUTS[layout](normal(*shape).float())
    for grad_layout in ("contiguous", "channels_last", "expanded"):
        grad = LAYOUTS[grad_layout](normal(*shape, seed=3).float())
        y, grad_x, _, _ = check(target, x, gamma, beta, grad)
        if shape[2] > 1 and shape[1] > 1:
            memory_format = torch.channels_last if "channels_last" in layout else torch.contiguous_format
            assert y.is_contiguous(memory_format=memory_format), y.stride()
            assert target[0] == "reference" or grad_x.is_contiguous(memory_format=memory_format), grad_x.stride()


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_contents(target, content, layout) -> None:
    x = CONTENTS[content]((2, 8, 17, 40), torch.Generator().manual_seed(0)).float()
    check(target, LAYOUTS[layout](x), 0.3 * normal(2, 8, seed=1).float(), normal(2, 8, seed=2).float())


def test_large_offset_costs_no_digits(target) -> None:
    """E[x^2] - E[x]^2 would have nothing left here, and a mean rounded to float32 would be off by 5e-4."""
    x = (1e4 + normal(2, 3, 32, 32)).float()
    exact = adain_act(x.double(), torch.zeros(3), torch.zeros(3), backend="reference")
    y = adain_act(x.to(target[1]), *(torch.zeros(3, device=target[1]),) * 2, backend=target[0])
    assert (y.cpu() - exact).abs().max() < 1e-5


@THOROUGH
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("mean", [1e2, 1e4])
@pytest.mark.parametrize("size", [8, 72], ids=str)
def test_large_offset_costs_gradients_no_digits(target, layout, mean, size, thorough) -> None:
    """Here half a unit in the last place of the mean is up to a twentieth of the deviation."""
    if is_reduced(target, thorough) and size == 72 and mean == 1e2:
        pytest.skip("slow in the interpreter")
    x = LAYOUTS[layout]((mean + 0.01 * normal(2, 8, size, size)).float())
    gamma, beta = normal(8, seed=1).float(), normal(8, seed=2).float()
    grad = torch.linspace(0, 1, size * size).reshape(size, size).expand(x.shape)
    exact = run(x.double(), gamma.double(), beta.double(), grad.double(), slope=1.0, backend="reference")
    backend, device = target
    results = run(*(tensor.to(device) for tensor in (x, gamma, beta, grad)), slope=1.0, backend=backend)
    for result, truth in zip(results, exact, strict=True):
        error = (result.cpu() - truth).abs().max() / truth.abs().max()
        assert error < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("per_channel", [False, True])
def test_affine_of_any_shape_stride_and_dtype(target, dtype, per_channel) -> None:
    x = normal(4, 6, 5, 5).to(dtype)
    gamma, beta = normal(4, 12, seed=1).float().chunk(2, dim=1)  # as the style's linear layer hands them over
    if per_channel:
        gamma, beta = gamma[0], beta[0]
    for affine_dtype in (torch.float32, torch.bfloat16, torch.float64):
        results = check(target, x, gamma.to(affine_dtype), beta.to(affine_dtype))
        assert results[2].dtype == results[3].dtype == affine_dtype
        assert results[2].shape == gamma.shape
    check(target, x, gamma, beta.to(dtype))


@pytest.mark.parametrize("options", [{"one_plus": False}, {"slope": 0.0}, {"slope": 1.0}, {"eps": 0.1}], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_options(target, options, layout) -> None:
    check(target, LAYOUTS[layout](normal(2, 5, 6, 7).float()), normal(2, 5, seed=1), normal(2, 5, seed=2), **options)


@needs_native
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bit_numbers_are_converted_exactly(dtype) -> None:
    """In a plane of one pixel the mean is the pixel, widened, and the result is beta, rounded: at ties, too."""
    bits = torch.arange(-(2**15), 2**15).to(torch.int16)
    pixels = bits.view(dtype)
    pixels = pixels[pixels.isfinite()].reshape(1, -1, 1, 1)
    neighbours = pixels.flatten().float().sort().values.unique()
    beta = torch.cat([neighbours, (neighbours[1:].double() + neighbours[:-1].double()).div(2).float()])
    full_of_ones = torch.tensor([2**31 - 1, -1], dtype=torch.int32).view(torch.float32)  # NaN that rounding would carry
    special = torch.cat([full_of_ones, torch.tensor([float("inf"), -float("inf"), float("nan")])])
    beta = torch.cat([beta, beta.nextafter(torch.tensor(0.0)), beta * 1.1, special])
    for x in (pixels, pixels.reshape(1, 1, -1, 1).transpose(1, 2)):
        zero = torch.zeros(x.shape[1])
        _, mean, _ = torch.ops.m2o_fast.adain_act(x, zero, zero, 1e-5, 1.0, True)
        assert torch.equal(mean[0].flatten(), x.flatten().float()) and mean[1].eq(0).all()
    flat = torch.zeros(1, beta.numel(), 1, 1, dtype=dtype)
    for x in (flat, flat.expand(1, -1, 2, 17), flat.expand(1, -1, 2, 2).to(memory_format=torch.channels_last)):
        y = adain_act(x, torch.zeros_like(beta), beta, slope=1.0, backend="compiled")
        torch.testing.assert_close(y, beta.to(dtype)[None, :, None, None].expand_as(y), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", EMPTY_SHAPES, ids=str)
def test_empty(target, layout, shape) -> None:
    backend, device = target
    x = LAYOUTS[layout](torch.ones(shape, device=device))
    affine = torch.ones(shape[:2], device=device)
    y, grad_x, grad_gamma, grad_beta = run(x, affine, affine, torch.ones_like(x), backend=backend)
    assert y.shape == grad_x.shape == shape
    assert torch.equal(grad_gamma, torch.zeros_like(affine)) and torch.equal(grad_beta, torch.zeros_like(affine))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_derivative_at_zero_is_the_slope(target, layout) -> None:
    backend, device = target
    x = LAYOUTS[layout](torch.full((1, 2, 4, 4), 3.0, device=device))
    zero, ones = torch.zeros(1, 2, device=device), torch.ones_like(x)
    y, _, _, grad_beta = run(x, zero, zero, ones, slope=0.25, backend=backend)
    assert torch.equal(y, torch.zeros_like(y))
    assert torch.equal(grad_beta, torch.full_like(grad_beta, 4.0))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_stay_in_their_plane(target, bad, layout) -> None:
    backend, device = target
    x = normal(2, 9, 5, 5).float()
    x[1, 4, 2, 2] = bad
    x = LAYOUTS[layout](x).to(device)
    affine = torch.zeros(2, 9, device=device)
    y, grad_x, grad_gamma, _ = run(x, affine, affine, torch.ones_like(x), backend=backend)
    for result in (y, grad_x, grad_gamma):
        spoilt = result.isnan().reshape(2, 9, -1).any(2).cpu()
        assert spoilt.nonzero().tolist() == [[1, 4]]
    assert y[1, 4].isnan().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_gradients_show(target, bad) -> None:
    backend, device = target
    grad = torch.ones(1, 2, 4, 4, device=device)
    grad[0, 1, 3, 3] = bad
    x, affine = normal(1, 2, 4, 4).float().to(device), torch.zeros(1, 2, device=device)
    results = run(x, affine, affine, grad, backend=backend)
    assert not results[1][0, 1].isfinite().any() and results[1][0, 0].isfinite().all()
    assert [gradient.isfinite().tolist() for gradient in results[2:]] == [[[True, False]]] * 2


@THOROUGH
@pytest.mark.parametrize("shapes", [((1, 2, 2, 3), (1, 2), (1, 2)), ((2, 2, 1, 2), (2,), (2, 2))], ids=str)
@pytest.mark.parametrize("one_plus", [True, False])
def test_first_and_second_derivatives(target, shapes, one_plus, thorough) -> None:
    backend, device = target
    inputs = [normal(*shape, seed=at).to(device).requires_grad_() for at, shape in enumerate(shapes)]

    def function(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return adain_act(x, gamma, beta, one_plus=one_plus, backend=backend)

    fast = is_reduced(target, thorough)
    assert torch.autograd.gradcheck(function, inputs, fast_mode=fast)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=fast)


def test_second_derivative_of_a_shared_argument(target) -> None:
    backend, device = target
    x = normal(1, 2, 2, 3).to(device)
    shared = normal(1, 2, seed=1).to(device).requires_grad_()
    once, again = (
        torch.autograd.grad(adain_act(x, shared, shared, backend=backend).sum(), shared, create_graph=differentiable)[0]
        for differentiable in (False, True)
    )
    torch.testing.assert_close(again.detach(), once)
    assert torch.autograd.gradgradcheck(lambda both: adain_act(x, both, both, backend=backend), (shared,))


def test_gradient_of_some_arguments_only(target) -> None:
    backend, device = target
    tensors = [normal(2, 3, 4, 4).to(device), normal(2, 3, seed=1).to(device), normal(2, 3, seed=2).to(device)]
    everything = run(*tensors, torch.ones_like(tensors[0]), backend=backend)
    for at, create_graph in itertools.product(range(3), (False, True)):
        inputs = [tensor.detach().requires_grad_(at == which) for which, tensor in enumerate(tensors)]
        y = adain_act(*inputs, backend=backend)
        (gradient,) = torch.autograd.grad(y.sum(), inputs[at], create_graph=create_graph)
        torch.testing.assert_close(gradient, everything[1 + at])


@pytest.mark.parametrize("layout", FEW_LAYOUTS)
@pytest.mark.parametrize("op", ["adain_act", "adain_act_triton"])
def test_opcheck(op, layout) -> None:
    if op == "adain_act_triton" and not os.environ.get("TRITON_INTERPRET"):
        pytest.skip("Triton kernels run on CPU tensors only under TRITON_INTERPRET=1")
    x = LAYOUTS[layout](normal(2, 5, 4, 6).float())
    gamma, beta = normal(2, 5, seed=1).float(), normal(5, seed=2).float()
    forward = getattr(torch.ops.m2o_fast, op).default
    differentiable = [tensor.clone().requires_grad_() for tensor in (gamma, beta)]
    torch.library.opcheck(forward, (x.detach().requires_grad_(), *differentiable, 1e-5, 0.2, True))
    _, mean, rstd = forward(x, gamma, beta, 1e-5, 0.2, True)
    backward = getattr(torch.ops.m2o_fast, f"{op}_backward").default
    torch.library.opcheck(backward, (torch.ones_like(x), x, gamma, beta, mean, rstd, 0.2, True))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced_channels_last"])
def test_compile(target, layout) -> None:
    backend, device = target
    if backend == "reference" and layout != "contiguous" or target == INTERPRETER:
        pytest.skip("the other backends and layouts cover it")

    def function(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return adain_act(F.relu(x), gamma, beta, backend=backend).sin()

    cases = []
    for shape in ((2, 5, 4, 6), (3, 7, 5, 5)):
        inputs = [normal(*size, seed=at).float().to(device) for at, size in enumerate((shape, shape[:2], shape[1:2]))]
        inputs[0] = LAYOUTS[layout](inputs[0])
        cases.append(inputs)
    assert_compiled_is_the_same(function, cases)


def test_autocast(target) -> None:
    backend, device = target
    convolution = torch.nn.Conv2d(3, 8, 3, padding=1).to(device)
    images, style = normal(2, 3, 8, 8).float().to(device), normal(2, 16, seed=1).float().to(device)
    style.requires_grad_()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        features = convolution(images)
        y = adain_act(features, *style.chunk(2, dim=1), backend=backend)
        plain = instance_norm_act(features, backend=backend)
    assert features.dtype == y.dtype == plain.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert style.grad.dtype == torch.float32 and convolution.weight.grad.isfinite().all()


@needs_native
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 9), st.integers(0, 70)),
    layout=st.sampled_from(sorted(set(LAYOUTS) - {"expanded"})),
    dtype=st.sampled_from(DTYPES),
    one_plus=st.booleans(),
)
def test_any_shape(shape, layout, dtype, one_plus) -> None:
    x = LAYOUTS[layout](normal(*shape).to(dtype))
    gamma, beta = normal(*shape[:2], seed=1).float(), normal(*shape[:2], seed=2).float()
    if x.numel() == 0:
        assert adain_act(x, gamma, beta, backend="compiled").shape == shape
    else:
        check(("compiled", torch.device("cpu")), x, gamma, beta, one_plus=one_plus)


@pytest.mark.parametrize("affine", [False, True])
def test_instance_norm_act_is_torchs(target, affine) -> None:
    backend, device = target
    x = normal(2, 6, 7, 5).float().to(device)
    weight, bias = (normal(6, seed=seed).float().to(device) if affine else None for seed in (1, 2))
    y = instance_norm_act(x, weight, bias, slope=0.1, backend=backend)
    torch.testing.assert_close(y, F.leaky_relu(F.instance_norm(x, weight=weight, bias=bias), 0.1))


def test_errors_name_operator_argument_and_need() -> None:
    x, affine = torch.ones(2, 3, 4, 4), torch.ones(2, 3)
    with pytest.raises(TypeError, match=r"adain_act: x must be a tensor, got list"):
        adain_act([1.0], affine, affine)
    with pytest.raises(TypeError, match=r"adain_act: x must be float32.* got torch.int64"):
        adain_act(x.long(), affine, affine)
    with pytest.raises(TypeError, match=r"adain_act: beta must be float32.* got torch.bool"):
        adain_act(x, affine, affine > 0)
    with pytest.raises(ValueError, match=r"adain_act: x must be \[N, C, H, W\], got shape \[3, 4, 4\]"):
        adain_act(x[0], affine, affine)
    with pytest.raises(ValueError, match=r"gamma must be \[N, C\] = \[2, 3\] or \[C\] = \[3\].* got shape \[1, 3\]"):
        adain_act(x, affine[:1], affine)
    with pytest.raises(ValueError, match=r"instance_norm_act: bias must be .* got shape \[4\]"):
        instance_norm_act(x, torch.ones(3), torch.ones(4))
    with pytest.raises(TypeError, match=r"adain_act: eps must be a number, got NoneType"):
        adain_act(x, affine, affine, eps=None)
    with pytest.raises(TypeError, match=r"instance_norm_act: slope must be a number, got str"):
        instance_norm_act(x, slope="0.2")
    with pytest.raises(TypeError, match=r"instance_norm_act: slope must be a number, got Tensor"):
        instance_norm_act(x, slope=torch.tensor([0.2, 0.1]))
    with pytest.raises(ValueError, match=r"instance_norm_act: x must be \[N, C, H, W\]"):
        instance_norm_act(x[0])
    with pytest.raises(ValueError, match=r"adain_act: gamma must be on the device of x, cpu, got meta"):
        adain_act(x, affine.to("meta"), affine)
    with pytest.raises(ValueError, match=r"adain_act: eps must be at least 0, got -1"):
        adain_act(x, affine, affine, eps=-1)
    with pytest.raises(ValueError, match=r"adain_act: eps must be at least 0, got nan"):
        adain_act(x, affine, affine, eps=float("nan"))


FORWARD_MISTAKES = {
    r"x must be \[N, C, H, W\]": {"x": torch.ones(3, 4, 4)},
    r"x must be float32": {"x": torch.ones(2, 3, 4, 4, dtype=torch.int32)},
    r"gamma must be \[N, C\] or \[C\]": {"gamma": torch.ones(3, 2)},
    r"beta must be \[N, C\] or \[C\] .* got \[\]": {"beta": torch.ones(())},
    r"beta must be float32": {"beta": torch.ones(2, 3, dtype=torch.complex64)},
}
BACKWARD_MISTAKES = {
    r"grad must have the shape of y, \[2, 3, 4, 4\], got \[2, 3, 4, 5\]": {"grad": torch.ones(2, 3, 4, 5)},
    r"grad must have the dtype of x": {"grad": torch.ones(2, 3, 4, 4, dtype=torch.bfloat16)},
    r"mean must be \[2, N, C\]": {"mean": torch.ones(2, 3)},
    r"rstd must be float32": {"rstd": torch.ones(2, 3, dtype=torch.float64)},
}


TRITON_MISTAKES = {
    r"gamma must be \[N, C\] = \[2, 3\] or": {"gamma": torch.ones(3, 2)},
    r"beta must be float32": {"beta": torch.ones(2, 3, dtype=torch.int32)},
    r"mean must have shape \[2, 2, 3\] .* got \[2, 3\]": {"mean": torch.ones(2, 3)},
    r"grad must have the shape of y, \[2, 3, 4, 4\], got": {"grad": torch.ones(2, 3, 4, 5)},
}


@pytest.mark.parametrize("words", TRITON_MISTAKES)
def test_direct_calls_of_the_triton_operators_raise_on_bad_input(words) -> None:
    available("adain_act", "triton", "cpu")
    x, affine = torch.ones(2, 3, 4, 4), torch.ones(2, 3)
    tensors = {"grad": x, "x": x, "gamma": affine, "beta": affine, "mean": affine.expand(2, 2, 3), "rstd": affine}
    tensors |= TRITON_MISTAKES[words]
    with pytest.raises((TypeError, ValueError), match=f"adain_act.*: {words}"):
        torch.ops.m2o_fast.adain_act_triton_backward(*tensors.values(), 0.2, True)


def test_direct_call_with_a_negative_eps_raises() -> None:
    available("adain_act", "compiled", "cpu")
    affine = torch.ones(2, 3)
    with pytest.raises(RuntimeError, match="adain_act: eps must be at least 0, got -1"):
        torch.ops.m2o_fast.adain_act(torch.ones(2, 3, 4, 4), affine, affine, -1.0, 0.2, True)


@pytest.mark.parametrize("words", [*FORWARD_MISTAKES, *BACKWARD_MISTAKES])
def test_direct_calls_of_the_operators_raise_on_bad_input(words) -> None:
    available("adain_act", "compiled", "cpu")
    affine = torch.ones(2, 3)
    given_tensors = {"x": torch.ones(2, 3, 4, 4), "gamma": affine, "beta": affine}
    if words in FORWARD_MISTAKES:
        given_tensors |= FORWARD_MISTAKES[words]
        with pytest.raises(RuntimeError, match=f"adain_act: {words}"):
            torch.ops.m2o_fast.adain_act(*given_tensors.values(), 1e-5, 0.2, True)
    else:
        given_tensors = {"grad": given_tensors["x"], **given_tensors, "mean": affine.expand(2, 2, 3), "rstd": affine}
        given_tensors |= BACKWARD_MISTAKES[words]
        with pytest.raises(RuntimeError, match=f"adain_act_backward: {words}"):
            torch.ops.m2o_fast.adain_act_backward(*given_tensors.values(), 0.2, True)


def test_backward_operator_refuses_to_be_differentiated() -> None:
    x, affine, mean = torch.ones(1, 2, 3, 3, requires_grad=True), torch.ones(1, 2), torch.ones(2, 1, 2)
    result = torch.ops.m2o_fast.adain_act_backward(x, x, affine, affine, mean, affine, 0.2, True)[0]
    with pytest.raises(RuntimeError, match="no derivative of its own"):
        result.sum().backward()
