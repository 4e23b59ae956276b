"""adain_act and instance_norm_act with ``resample``: y twice as high and wide as x, or half."""

from __future__ import annotations

import itertools
import os

import pytest
import torch
import torch.nn.functional as F
from adain_cases import DTYPES, check, normal, output_shape, run
from cases import (
    CONTENTS,
    EMPTY_SHAPES,
    FEW_LAYOUTS,
    INTERPRETER,
    LAYOUTS,
    TARGETS,
    THOROUGH,
    Target,
    assert_compiled_is_the_same,
    available,
    is_reduced,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from m2o_fast.ops import adain_act, instance_norm_act
from m2o_fast.ops.adain import _backward_fallback, _forward_fallback

WAYS = ["up2", "down2"]
SHAPES = {
    "smallest": (3, 5, 2, 2),
    "fewer numbers than lanes": (2, 3, 2, 6),
    "odd halves": (2, 7, 6, 10),
    "a whole number of tiles": (2, 32, 8, 8),
    "a tile, a vector and a rest": (1, 43, 4, 6),
    "two columns": (2, 4, 34, 2),
    "two rows": (2, 4, 2, 38),
    "several buffers of rows": (1, 2, 70, 66),
    "a row longer than a buffer": (1, 2, 2, 1030),
}


@pytest.fixture(params=TARGETS, ids="-".join)
def target(request: pytest.FixtureRequest) -> Target:
    return available("adain_act", *request.param)


def inputs_of(shape: tuple[int, ...], dtype=torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    return normal(*shape).to(dtype), normal(*shape[:2], seed=1).float(), normal(*shape[:2], seed=2).float()


def dtypes_for(target: Target, thorough: bool, shape: tuple[int, ...]) -> list[torch.dtype]:
    """All, but few where they are slow."""
    if not is_reduced(target, thorough):
        return DTYPES
    return [torch.float32, torch.bfloat16] if shape == SHAPES["odd halves"] else [torch.float32]


@THOROUGH
@pytest.mark.parametrize("resample", WAYS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_forward_and_gradients(target, shape, layout, resample, thorough) -> None:
    for dtype in dtypes_for(target, thorough, shape):
        x, gamma, beta = inputs_of(shape, dtype)
        check(target, LAYOUTS[layout](x), gamma, beta, resample=resample)


@THOROUGH
@pytest.mark.parametrize("shape", [(3, 5, 1, 1), (2, 7, 9, 11), (2, 4, 1, 37), (1, 9, 7, 1)], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_odd_planes_grow(target, layout, shape, thorough) -> None:
    for dtype in dtypes_for(target, thorough, shape):
        x, gamma, beta = inputs_of(shape, dtype)
        check(target, LAYOUTS[layout](x), gamma, beta, resample="up2")


@THOROUGH
@pytest.mark.parametrize("resample", WAYS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("most_parts", [64, 2])
def test_planes_in_parts(monkeypatch, target, layout, resample, most_parts, thorough) -> None:
    """On a GPU, and in Triton's interpreter, they are too large to be read once."""
    if target[0] == "triton":
        monkeypatch.setattr("m2o_fast.ops.triton.adain.MOST_PARTS", most_parts)
        if is_reduced(target, thorough) and (most_parts == 2) != ((layout == "contiguous") == (resample == "down2")):
            pytest.skip("slow in the interpreter, where each of them meets each other once")
    elif most_parts == 2:
        pytest.skip("a number of Triton's")
    x, gamma, beta = inputs_of((1, 2, 152, 150))
    check(target, LAYOUTS[layout](x), gamma, beta, resample=resample)


@pytest.mark.parametrize("resample", WAYS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 9, 6, 4), (2, 1, 2, 4)], ids=str)
def test_memory_layouts(target, layout, shape, resample) -> None:
    x, gamma, beta = inputs_of(shape)
    x = LAYOUTS[layout](x)
    for grad_layout in ("contiguous", "channels_last", "sliced", "expanded"):
        grad = LAYOUTS[grad_layout](normal(*output_shape(shape, resample), seed=3).float())
        y, grad_x, _, _ = check(target, x, gamma, beta, grad, resample=resample)
        if target[0] != "reference" and shape[1] > 1:
            memory_format = torch.channels_last if "channels_last" in layout else torch.contiguous_format
            assert y.is_contiguous(memory_format=memory_format), y.stride()
            assert grad_x.is_contiguous(memory_format=memory_format), grad_x.stride()


@pytest.mark.parametrize("resample", WAYS)
@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_contents(target, content, layout, resample) -> None:
    x = CONTENTS[content]((2, 8, 18, 40), torch.Generator().manual_seed(0)).float()
    gamma, beta = 0.3 * normal(2, 8, seed=1).float(), normal(2, 8, seed=2).float()
    check(target, LAYOUTS[layout](x), gamma, beta, resample=resample)


@pytest.mark.parametrize("options", [{"one_plus": False}, {"slope": 0.0}, {"slope": 1.0}, {"eps": 0.1}], ids=str)
@pytest.mark.parametrize("resample", WAYS)
def test_other_options(target, options, resample) -> None:
    check(target, *inputs_of((2, 5, 6, 8)), resample=resample, **options)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_up2_only_copies(target, layout) -> None:
    """So its numbers are those of the output without it, bit by bit."""
    backend, device = target
    for dtype, shape in itertools.product(DTYPES, ((2, 9, 5, 7), (1, 8, 16, 24))):
        x, gamma, beta = (tensor.to(device) for tensor in inputs_of(shape, dtype))
        x = LAYOUTS[layout](x)
        y = adain_act(x, gamma, beta, backend=backend)
        larger = adain_act(x, gamma, beta, resample="up2", backend=backend)
        assert torch.equal(larger, y.repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_down2_rounds_once(target, dtype, layout) -> None:
    """The mean is taken of what was not yet rounded to the dtype of x."""
    backend, device = target
    if target == INTERPRETER:
        pytest.skip("Triton's interpreter truncates where it should round to bfloat16")
    x, gamma, beta = (tensor.to(device) for tensor in inputs_of((2, 8, 8, 16), dtype))
    y = adain_act(LAYOUTS[layout](x), gamma, beta, resample="down2", backend=backend)
    exact = F.avg_pool2d(adain_act(x.double(), gamma.double(), beta.double(), backend="reference"), 2)
    assert ((y.double() - exact).abs() <= 0.502 * torch.finfo(dtype).eps * exact.abs() + 1e-6).all()


@pytest.mark.parametrize("resample", WAYS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", EMPTY_SHAPES, ids=str)
def test_empty(target, layout, shape, resample) -> None:
    backend, device = target
    x = LAYOUTS[layout](torch.ones(shape, device=device))
    affine = torch.ones(shape[:2], device=device)
    grad = torch.ones(output_shape(shape, resample), device=device)
    y, grad_x, grad_gamma, grad_beta = run(x, affine, affine, grad, resample=resample, backend=backend)
    assert y.shape == grad.shape and grad_x.shape == shape
    assert torch.equal(grad_gamma, torch.zeros_like(affine)) and torch.equal(grad_beta, torch.zeros_like(affine))


@pytest.mark.parametrize("resample", WAYS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_stay_in_their_plane(target, bad, resample) -> None:
    backend, device = target
    x = normal(2, 9, 4, 6).float()
    x[1, 4, 2, 2] = bad
    affine = torch.zeros(2, 9, device=device)
    grad = torch.ones(output_shape(x.shape, resample), device=device)
    for layout in ("contiguous", "channels_last"):
        results = run(LAYOUTS[layout](x).to(device), affine, affine, grad, resample=resample, backend=backend)
        for result in results[:3]:
            assert result.isnan().reshape(2, 9, -1).any(2).nonzero().tolist() == [[1, 4]]


@THOROUGH
@pytest.mark.parametrize("resample", WAYS)
@pytest.mark.parametrize("shapes", [((1, 1, 2, 2), (1, 1), (1, 1)), ((2, 1, 2, 2), (1,), (2, 1))], ids=str)
def test_first_and_second_derivatives(target, shapes, resample, thorough) -> None:
    backend, device = target
    inputs = [normal(*shape, seed=at).to(device).requires_grad_() for at, shape in enumerate(shapes)]

    def function(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return adain_act(x, gamma, beta, resample=resample, backend=backend)

    fast = is_reduced(target, thorough)
    assert torch.autograd.gradcheck(function, inputs, fast_mode=fast)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=fast)


@pytest.mark.parametrize("resample", [None, *WAYS])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_fallback_of_the_operators(layout, resample) -> None:
    """What the operators do on devices without a kernel: the definition, with a backward of its own."""
    code, (x, gamma, beta) = [None, *WAYS].index(resample), inputs_of((2, 5, 4, 6), torch.float64)
    x, grad = LAYOUTS[layout](x), normal(*output_shape(x.shape, resample), seed=3)
    y, mean, rstd = _forward_fallback(x, gamma, beta, 1e-5, 0.2, True, code)
    gradients = _backward_fallback(grad, x, gamma, beta, mean, rstd, 0.2, True, code)
    expected = run(x, gamma, beta, grad, resample=resample, backend="reference")
    for result, truth in zip((y, *gradients), expected, strict=True):
        torch.testing.assert_close(result, truth.double(), rtol=1e-6, atol=1e-6)
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    assert y.is_contiguous(memory_format=memory_format) and gradients[0].is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("resample", WAYS)
def test_saves_no_more_for_backward(target, resample) -> None:
    backend, device = target
    x, gamma, beta = (tensor.to(device).requires_grad_() for tensor in inputs_of((2, 3, 4, 4)))
    if backend == "reference":
        pytest.skip("plain torch saves what it needs")
    y = adain_act(x, gamma, beta, resample=resample, backend=backend)
    shapes = [tuple(saved.shape) for saved in y.grad_fn.saved_tensors]
    assert shapes == [(2, 3, 4, 4), (2, 3), (2, 3), (2, 2, 3), (2, 3)]


@pytest.mark.parametrize("resample", WAYS)
@pytest.mark.parametrize("layout", FEW_LAYOUTS)
@pytest.mark.parametrize("op", ["adain_act", "adain_act_triton"])
def test_opcheck(op, layout, resample) -> None:
    if op == "adain_act_triton" and not os.environ.get("TRITON_INTERPRET"):
        pytest.skip("Triton kernels run on CPU tensors only under TRITON_INTERPRET=1")
    code = {"up2": 1, "down2": 2}[resample]
    x, gamma, beta = inputs_of((2, 5, 4, 6))
    x = LAYOUTS[layout](x)
    forward = getattr(torch.ops.m2o_fast, op).default
    differentiable = [tensor.clone().requires_grad_() for tensor in (gamma, beta)]
    torch.library.opcheck(forward, (x.detach().requires_grad_(), *differentiable, 1e-5, 0.2, True, code))
    y, mean, rstd = forward(x, gamma, beta, 1e-5, 0.2, True, code)
    backward = getattr(torch.ops.m2o_fast, f"{op}_backward").default
    torch.library.opcheck(backward, (torch.ones_like(y), x, gamma, beta, mean, rstd, 0.2, True, code))


@pytest.mark.parametrize("resample", WAYS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_compile(target, layout, resample) -> None:
    backend, device = target
    if backend == "reference" or target == INTERPRETER:
        pytest.skip("the other backends cover it")

    def function(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return adain_act(F.relu(x), gamma, beta, resample=resample, backend=backend).sin()

    cases = []
    for shape in ((2, 5, 4, 6), (3, 7, 6, 8)):
        inputs = [tensor.to(device) for tensor in inputs_of(shape)]
        inputs[0] = LAYOUTS[layout](inputs[0])
        cases.append(inputs)
    assert_compiled_is_the_same(function, cases)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 5), st.integers(0, 36)),
    layout=st.sampled_from(sorted(set(LAYOUTS) - {"expanded"})),
    dtype=st.sampled_from(DTYPES),
    resample=st.sampled_from(WAYS),
)
def test_any_shape(shape, layout, dtype, resample) -> None:
    target = available("adain_act", "compiled", "cpu")
    if resample == "down2":
        shape = (*shape[:2], 2 * shape[2], 2 * shape[3])
    x, gamma, beta = inputs_of(shape, dtype)
    if x.numel() == 0:
        y = adain_act(LAYOUTS[layout](x), gamma, beta, resample=resample, backend=target[0])
        assert y.shape == output_shape(shape, resample)
    else:
        check(target, LAYOUTS[layout](x), gamma, beta, resample=resample)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("resample", WAYS)
def test_instance_norm_act_is_torchs(target, affine, resample) -> None:
    backend, device = target
    x = normal(2, 6, 8, 4).float().to(device)
    weight, bias = (normal(6, seed=seed).float().to(device) if affine else None for seed in (1, 2))
    y = instance_norm_act(x, weight, bias, slope=0.1, resample=resample, backend=backend)
    plain = F.leaky_relu(F.instance_norm(x, weight=weight, bias=bias), 0.1)
    torch.testing.assert_close(y, F.interpolate(plain, scale_factor=2) if resample == "up2" else F.avg_pool2d(plain, 2))


def test_autocast(target) -> None:
    backend, device = target
    x, gamma, beta = (tensor.to(device).requires_grad_() for tensor in inputs_of((2, 4, 6, 6)))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        y = adain_act(x.bfloat16(), gamma, beta, resample="down2", backend=backend)
    y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16 and gamma.grad.dtype == torch.float32 and x.grad.isfinite().all()


def test_errors_name_operator_argument_and_need() -> None:
    x, affine = torch.ones(2, 3, 4, 5), torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"adain_act: height and width of x must be even .* got shape \[2, 3, 4, 5\]"):
        adain_act(x, affine, affine, resample="down2")
    with pytest.raises(ValueError, match=r"instance_norm_act: height and width of x must be even"):
        instance_norm_act(x[:, :, 1:, 1:], resample="down2")
    with pytest.raises(ValueError, match=r"adain_act: resample must be 'up2', 'down2' or None, got \['up2'\]"):
        adain_act(torch.ones(1, 2, 4, 4), torch.ones(2), torch.ones(2), resample=["up2"])
    with pytest.raises(ValueError, match=r"adain_act: resample must be 'up2', 'down2' or None, got 'up'"):
        adain_act(x, affine, affine, resample="up")


@pytest.mark.parametrize("backend", ["compiled", "triton"])
def test_direct_calls_of_the_operators_raise_on_bad_input(backend) -> None:
    available("adain_act", backend, "cpu")
    name = "adain_act" if backend == "compiled" else "adain_act_triton"
    forward, backward = getattr(torch.ops.m2o_fast, name), getattr(torch.ops.m2o_fast, f"{name}_backward")
    x, affine, mean = torch.ones(2, 3, 4, 5), torch.ones(2, 3), torch.ones(2, 2, 3)
    for code, words in ((2, "height and width of x must be even for down2, got 4 x 5"), (3, "resample must be 0")):
        with pytest.raises((RuntimeError, ValueError), match=words):
            forward(x, affine, affine, 1e-5, 0.2, True, code)
        with pytest.raises((RuntimeError, ValueError), match=words):
            backward(x, x, affine, affine, mean, affine, 0.2, True, code)
    with pytest.raises((RuntimeError, ValueError), match=r"grad must have the shape of y, \[2, 3, 8, 10\], got"):
        backward(x, x, affine, affine, mean, affine, 0.2, True, 1)
