"""scale_bias_act: every backend that runs here against float64, and everything around the kernels."""

from __future__ import annotations

import itertools
import os

import pytest
import torch
import torch.nn.functional as F
from cases import (
    EMPTY_SHAPES,
    FEW_LAYOUTS,
    INTERPRETER,
    LAYOUTS,
    SHAPES,
    TARGETS,
    assert_compiled_is_the_same,
    available,
    needs_native,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from modulate_cases import DTYPES, GIVEN, check, mapped, normal, run, vectors_for
from torch import Tensor

from m2o_fast.ops import scale_bias_act, scale_channels


@pytest.fixture(params=TARGETS, ids=lambda target: "-".join(target))
def target(request: pytest.FixtureRequest) -> tuple[str, torch.device]:
    """A backend and the device to run it on."""
    return available("scale_bias_act", *request.param)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forward_and_gradients(target, dtype, shape) -> None:
    x = normal(*shape).to(dtype)
    check(target, x, vectors_for(shape))
    check(target, x, vectors_for(shape, GIVEN["scale"]), slope=1.0)  # its own path in the CPU kernel


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 9, 6, 7), (3, 32, 1, 1), (2, 1, 5, 4)], ids=str)
def test_memory_layouts(target, layout, shape) -> None:
    x = LAYOUTS[layout](normal(*shape).float())
    for grad_layout, plain in (
        ("contiguous", False),
        ("channels_last", True),
        ("channels_last", False),
        ("expanded", False),
    ):
        grad = LAYOUTS[grad_layout](normal(*shape, seed=3).float())
        vectors = vectors_for(shape, GIVEN["scale" if plain else "all"])
        y, grad_x, *_ = check(target, x, vectors, grad, slope=1.0 if plain else 0.2)
        if shape[2] > 1 and shape[1] > 1:
            memory_format = torch.channels_last if "channels_last" in layout else torch.contiguous_format
            assert y.is_contiguous(memory_format=memory_format), y.stride()
            assert target[0] == "reference" or grad_x.is_contiguous(memory_format=memory_format), grad_x.stride()


@pytest.mark.parametrize("given_ones", GIVEN.values(), ids=GIVEN)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("slope", [0.2, 0.0, 1.0, -0.5])
def test_vectors_that_are_not_given(target, layout, given_ones, slope) -> None:
    shape = (2, 11, 5, 7)
    check(target, LAYOUTS[layout](normal(*shape).float()), vectors_for(shape, given_ones), slope=slope)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("per_channel", list(itertools.product((False, True), repeat=3)), ids=str)
def test_vectors_of_any_shape_stride_and_dtype(target, dtype, per_channel) -> None:
    x = normal(4, 6, 5, 5).to(dtype)
    together = normal(4, 36, seed=1).float()
    # views of one tensor, as a linear layer hands them over, the last one with gaps
    vectors = [together[:, :6], together[:, 6:12], together[:, 12:24:2]]
    vectors = [vector[0] if single else vector for vector, single in zip(vectors, per_channel, strict=True)]
    for vector_dtype in (torch.float32, torch.bfloat16, torch.float64):
        results = check(target, x, [vector.to(vector_dtype) for vector in vectors])
        for result, vector in zip(results[2:], vectors, strict=True):
            assert result.dtype == vector_dtype and result.shape == vector.shape


@needs_native
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("given_ones", ["all", "scale"])
@pytest.mark.parametrize("shape", [(4, 16, 256, 260), (4, 3, 601, 603)], ids=str)
def test_outputs_larger_than_the_caches(layout, given_ones, shape) -> None:
    """They are written by streaming stores, with demands on alignment; one sample alone is not large."""
    x, grad = (LAYOUTS[layout](normal(*shape, seed=seed).float()) for seed in (0, 3))
    vectors = vectors_for(shape, GIVEN[given_ones])
    slope = 0.2 if given_ones == "all" else 1.0
    together = run(x, vectors, grad, slope=slope, backend="compiled")
    for at in range(len(x)):
        one = slice(at, at + 1)
        alone = run(x[one], mapped(lambda v: v[one], vectors), grad[one], slope=slope, backend="compiled")  # noqa: B023
        assert all(torch.equal(result[one], part) for result, part in zip(together, alone, strict=True))


def test_long_sums_keep_their_digits(target) -> None:
    """A sum of 262144 numbers one after the other in float32 would be off by far more."""
    side = 128 if target == INTERPRETER else 512
    x = (1 + 0.1 * normal(1, 2, side, side)).float()
    for layout in ("contiguous", "channels_last"):
        check(target, LAYOUTS[layout](x), vectors_for(x.shape), LAYOUTS[layout](torch.ones_like(x)))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", EMPTY_SHAPES, ids=str)
def test_empty(target, layout, shape) -> None:
    backend, device = target
    x = LAYOUTS[layout](torch.ones(shape, device=device))
    vectors = [torch.ones(shape[:2], device=device)] * 3
    y, grad_x, *sums = run(x, vectors, torch.ones_like(x), backend=backend)
    assert y.shape == grad_x.shape == shape
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in sums)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_derivative_at_zero_is_the_slope(target, layout) -> None:
    backend, device = target
    x = LAYOUTS[layout](torch.full((1, 2, 4, 4), 3.0, device=device))
    scale, bias = torch.ones(1, 2, device=device), torch.full((2,), -3.0, device=device)
    y, grad_x, _, grad_bias = run(x, [scale, bias, None], torch.ones_like(x), slope=0.25, backend=backend)
    assert torch.equal(y, torch.zeros_like(y))
    assert torch.equal(grad_x, torch.full_like(grad_x, 0.25)) and torch.equal(grad_bias, torch.full_like(bias, 4.0))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["x", "scale", "bias", "next", "grad"])
def test_nan_and_infinity_are_those_of_the_reference(target, where, bad, layout) -> None:
    backend, device = target
    shape = (2, 9, 5, 5)
    x, grad = normal(*shape).float(), normal(*shape, seed=3).float().abs()  # one sign: infinity stays infinity
    vectors = vectors_for(shape)
    named = {
        "x": x[1, 4, 2],
        "grad": grad[1, 4, 2],
        "scale": vectors[0][1],
        "bias": vectors[1][1],
        "next": vectors[2][1],
    }
    named[where][4] = bad
    tensors = [tensor.to(device) for tensor in (LAYOUTS[layout](x), *vectors, grad)]
    results = run(tensors[0], tensors[1:4], tensors[4], backend=backend)
    expected = run(tensors[0], tensors[1:4], tensors[4], backend="reference")
    for result, truth in zip(results, expected, strict=True):
        # An infinite next_scale is multiplied with the sum, not with every number in it: infinite instead of NaN.
        same = torch.where(result.isfinite(), result, 0) if where == "next" else result
        wanted = torch.where(truth.isfinite(), truth, 0) if where == "next" else truth
        torch.testing.assert_close(same, wanted, equal_nan=True)
    assert not torch.cat([truth.flatten() for truth in expected]).isfinite().all()


@pytest.mark.parametrize("given_ones", GIVEN.values(), ids=GIVEN)
@pytest.mark.parametrize("per_channel", [False, True])
def test_derivatives_of_both_orders(target, given_ones, per_channel) -> None:
    backend, device = target
    if target == INTERPRETER and (per_channel or not all(given_ones)):
        pytest.skip("slow in Triton's interpreter; test_vectors_that_are_not_given covers it")
    vectors = mapped(Tensor.double, vectors_for((2, 2), given_ones))
    vectors = mapped(lambda vector: vector[0] if per_channel else vector, vectors)
    tensors = [normal(2, 2, 1, 2), *(vector for vector in vectors if vector is not None)]
    tensors = [tensor.clone().to(device).requires_grad_() for tensor in tensors]

    def function(x: Tensor, *present: Tensor) -> Tensor:
        left = iter(present)
        return scale_bias_act(x, *(next(left) if there else None for there in given_ones), backend=backend)

    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors)


def test_second_derivative_of_a_shared_argument(target) -> None:
    backend, device = target
    x, shared = normal(1, 2, 2, 3).to(device), (2 + normal(1, 2, seed=1)).to(device).requires_grad_()

    def function(both: Tensor) -> Tensor:
        return scale_bias_act(x, both, None, both, backend=backend)

    (once,) = torch.autograd.grad(function(shared).sum(), shared)
    (again,) = torch.autograd.grad(function(shared).sum(), shared, create_graph=True)
    torch.testing.assert_close(again.detach(), once)


def test_gradient_of_some_arguments_only(target) -> None:
    backend, device = target
    x = normal(2, 3, 4, 4).float().to(device)
    vectors = [vector.to(device) for vector in vectors_for(x.shape)]
    everything = run(x, vectors, torch.ones_like(x), backend=backend)
    for at, create_graph in itertools.product(range(4), (False, True)):
        inputs = [tensor.detach().requires_grad_(at == which) for which, tensor in enumerate((x, *vectors))]
        y = scale_bias_act(*inputs, backend=backend)
        (gradient,) = torch.autograd.grad(y.sum(), inputs[at], create_graph=create_graph)
        torch.testing.assert_close(gradient, everything[1 + at])


@needs_native
def test_only_x_and_the_vectors_are_kept() -> None:
    kept = []
    tensors = [tensor.requires_grad_() for tensor in (normal(2, 3, 8, 8).float(), *vectors_for((2, 3)))]
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        scale_bias_act(*tensors, backend="compiled")
    assert sorted(tensor.data_ptr() for tensor in kept) == sorted(tensor.data_ptr() for tensor in tensors)


@pytest.mark.parametrize("layout", FEW_LAYOUTS)
@pytest.mark.parametrize("op", ["scale_bias_act", "scale_bias_act_triton"])
@pytest.mark.parametrize("given_ones", ["all", "scale", "next scale"])
def test_opcheck(op, layout, given_ones) -> None:
    if op == "scale_bias_act_triton" and not os.environ.get("TRITON_INTERPRET"):
        pytest.skip("Triton kernels run on CPU tensors only under TRITON_INTERPRET=1")
    x = LAYOUTS[layout](normal(2, 5, 4, 6).float())
    vectors = vectors_for(x.shape, GIVEN[given_ones])
    leaves = mapped(lambda tensor: tensor.detach().requires_grad_(), [x, *vectors])
    torch.library.opcheck(getattr(torch.ops.m2o_fast, op).default, (*leaves, 0.2))
    backward = getattr(torch.ops.m2o_fast, f"{op}_backward").default
    torch.library.opcheck(backward, (torch.ones_like(x), x, *vectors, 0.2))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced_channels_last"])
def test_compile(target, layout) -> None:
    backend, device = target
    if backend == "reference" and layout != "contiguous" or target == INTERPRETER:
        pytest.skip("the other backends and layouts cover it")

    def function(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return scale_channels(scale_bias_act(F.relu(x), scale, bias, backend=backend), scale, backend=backend).sin()

    cases = []
    for shape in ((2, 5, 4, 6), (3, 7, 5, 5)):
        inputs = [normal(*size, seed=at).float().to(device) for at, size in enumerate((shape, shape[:2], shape[1:2]))]
        inputs[0] = LAYOUTS[layout](inputs[0])
        cases.append(inputs)
    assert_compiled_is_the_same(function, cases)


def test_autocast_takes_features_and_vectors_of_two_dtypes(target) -> None:
    backend, device = target
    convolution = torch.nn.Conv2d(3, 8, 3, padding=1).to(device)
    images = normal(2, 3, 8, 8).float().to(device)
    vectors = [vector.to(device).requires_grad_() for vector in vectors_for((2, 8))]
    with torch.autocast(device.type, dtype=torch.bfloat16):
        features = convolution(images)
        y = scale_bias_act(features, *vectors, backend=backend)
    assert features.dtype == y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert all(vector.grad.dtype == torch.float32 for vector in vectors) and convolution.weight.grad.isfinite().all()


@needs_native
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 9), st.integers(0, 70)),
    layout=st.sampled_from(sorted(set(LAYOUTS) - {"expanded"})),
    dtype=st.sampled_from(DTYPES),
    given_ones=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    slope=st.sampled_from((0.2, 1.0)),
)
def test_any_shape(shape, layout, dtype, given_ones, slope) -> None:
    x = LAYOUTS[layout](normal(*shape).to(dtype))
    vectors = vectors_for(shape, given_ones)
    if x.numel() == 0:
        assert scale_bias_act(x, *vectors, backend="compiled").shape == shape
    else:
        check(("compiled", torch.device("cpu")), x, vectors, slope=slope)


@needs_native
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(1, 40, 64, 65), (4, 24, 16, 16)], ids=str)
def test_runs_and_thread_counts_give_the_same_bits(layout, shape) -> None:
    x, grad = LAYOUTS[layout](normal(*shape).float()), normal(*shape, seed=3).float()
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            results.append(run(x, vectors_for(shape), grad, backend="compiled"))
    finally:
        torch.set_num_threads(threads)
    for others in results[1:]:
        assert all(torch.equal(first, other) for first, other in zip(results[0], others, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["compiled", "triton"])
@pytest.mark.parametrize("shape", [(4, 64, 64, 64), (1, 3, 512, 512)], ids=str)
def test_gpu_runs_give_the_same_bits(backend, shape) -> None:
    x, grad = normal(*shape).float().cuda(), normal(*shape, seed=3).float().cuda()
    results = [run(x, mapped(Tensor.cuda, vectors_for(shape)), grad, backend=backend) for _ in range(3)]
    for others in results[1:]:
        assert all(torch.equal(first, other) for first, other in zip(results[0], others, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(8, 16, 256, 256), (1, 2, 1024, 1022), (2, 600, 12, 12), (3, 7, 33, 31)], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gpu_shapes_of_every_route(shape, layout, dtype) -> None:
    for backend in ("compiled", "triton"):
        check((backend, torch.device("cuda")), LAYOUTS[layout](normal(*shape).to(dtype)), vectors_for(shape))
