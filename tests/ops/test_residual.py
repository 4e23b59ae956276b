"""residual_merge and leaky_relu_down2: every backend that runs here against float64, and everything around them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from cases import (
    EMPTY_SHAPES,
    INTERPRETER,
    LAYOUTS,
    SHAPES,
    TARGETS,
    THOROUGH,
    assert_compiled_is_the_same,
    available,
    is_reduced,
    judge,
    needs_native,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from residual_cases import (
    SLOPE,
    derivatives,
    doubled,
    leaky_by,
    merge_by,
    merge_shapes,
    normal,
    plain_leaky,
    plain_merge,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from m2o_fast.ops import leaky_relu_down2, residual_merge, use_backend

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# of a and b
MIXES = [
    (torch.bfloat16, torch.float32),
    (torch.float32, torch.bfloat16),
    (torch.float16, torch.bfloat16),
    (torch.float32, torch.float64),
    (torch.float64, torch.float16),
]
RESAMPLE = [None, "up2", "down2"]


@pytest.fixture(params=TARGETS, ids=lambda target: "-".join(target))
def target(request: pytest.FixtureRequest) -> tuple[str, torch.device]:
    """A backend and the device to run it on."""
    return available("residual_merge", *request.param)


def check(target, function: Callable[..., Tensor], plain: Callable, inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    """Runs a backend, and torch in float64; judges every derivative beside the rounded truth, so beside any torch."""
    along = [torch.sin(3 * tensor) for tensor in inputs]
    on_device = [tensor.to(target[1]) if target[1].type != "cpu" else tensor for tensor in (*inputs, grad, *along)]
    count = len(inputs)
    results = derivatives(function, on_device[:count], on_device[count], on_device[count + 1 :])
    wide = [[tensor.double().contiguous() for tensor in tensors] for tensors in (inputs, along)]
    truths = derivatives(plain, wide[0], grad.double().contiguous(), wide[1])
    dtypes = [inputs[0].dtype, *(tensor.dtype for tensor in inputs), grad.dtype]
    for at, (result, truth, dtype) in enumerate(zip(results, truths, dtypes, strict=True)):
        assert result.shape == truth.shape and result.dtype == dtype, at
        eps = torch.finfo(torch.promote_types(inputs[0].dtype, torch.float32)).eps
        # Where a and b have one gradient, autograd itself adds what comes back to it, in its dtype. The interpreter
        # cuts bfloat16 off.
        if at == 3 or target == INTERPRETER:
            eps = max(eps, torch.finfo(dtype).eps)
        judge(result, truth.to(dtype), truth).assert_good(f"result {at}", eps)
    return results


def check_merge(target, resample, a: Tensor, b: Tensor, grad: Tensor | None = None) -> list[Tensor]:
    grad = normal(*a.shape, seed=9).to(a.dtype) if grad is None else grad
    return check(target, merge_by(target[0], resample), lambda a, b: plain_merge(a, b, resample), [a, b], grad)


def check_leaky(target, x: Tensor, grad: Tensor | None = None, slope: float = SLOPE) -> list[Tensor]:
    if grad is None:
        grad = normal(*x.shape[:2], x.shape[2] // 2, x.shape[3] // 2, seed=9).to(x.dtype)
    return check(target, leaky_by(target[0], slope), lambda x: plain_leaky(x, slope), [x], grad)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_results_and_derivatives(target, dtype, shape, memory_format) -> None:
    if target == INTERPRETER and (math.prod(shape) > 5000 or dtype != torch.float32 and shape != SHAPES["odd"]):
        pytest.skip("slow in the interpreter")

    def images(shape: tuple[int, ...], seed: int) -> Tensor:
        return normal(*shape, seed=seed).to(dtype).to(memory_format=memory_format)

    for resample in RESAMPLE:
        a, b = (images(size, seed) for seed, size in enumerate(merge_shapes(shape, resample)))
        check_merge(target, resample, a, b)
    check_leaky(target, images(doubled(shape), 3))


@THOROUGH
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 9, 3, 4), (3, 32, 1, 1), (2, 1, 5, 4)], ids=str)
def test_memory_layouts(target, layout, shape, thorough) -> None:
    """The result is laid out like a or x; b and gradients may lie in any way."""
    memory_format = torch.channels_last if "channels_last" in layout else torch.contiguous_format

    def check_format(y: Tensor, *gradients: Tensor) -> None:
        for result in (y, *(gradients if target[0] != "reference" else ())):
            if min(result.shape[1:]) > 1:
                assert result.is_contiguous(memory_format=memory_format), result.stride()

    others = ("contiguous", "channels_last", "sliced", "expanded")
    for other in others[2:] if is_reduced(target, thorough) else others:
        for resample in RESAMPLE:
            sizes = merge_shapes(shape, resample)
            a, b = LAYOUTS[layout](normal(*sizes[0]).float()), LAYOUTS[other](normal(*sizes[1], seed=1).float())
            check_format(check_merge(target, resample, a, b, LAYOUTS[other](normal(*sizes[0], seed=2).float()))[0])
        x, grad = LAYOUTS[layout](normal(*doubled(shape)).float()), LAYOUTS[other](normal(*shape, seed=1).float())
        check_format(*check_leaky(target, x, grad)[:2])


@pytest.mark.parametrize("resample", RESAMPLE)
@pytest.mark.parametrize("dtypes", MIXES, ids=str)
def test_b_of_another_dtype(target, resample, dtypes) -> None:
    sizes = merge_shapes((2, 3, 4, 5), resample)
    a, b = normal(*sizes[0]).to(dtypes[0]), normal(*sizes[1], seed=1).to(dtypes[1])
    y, grad_a, grad_b, _ = check_merge(target, resample, a, b)
    assert (y.dtype, grad_a.dtype, grad_b.dtype) == (dtypes[0], *dtypes)


@pytest.mark.parametrize("slope", [0.0, 1.0, -0.5])
def test_slopes(target, slope) -> None:
    check_leaky(target, normal(2, 5, 6, 8).float(), slope=slope)


def test_default_scale_keeps_the_variance(target) -> None:
    a, b = normal(2, 3, 4, 4).float().to(target[1]), normal(2, 3, 4, 4, seed=1).float().to(target[1])
    torch.testing.assert_close(residual_merge(a, b, backend=target[0]), (a + b) / 2**0.5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("shape", EMPTY_SHAPES, ids=str)
def test_empty(target, memory_format, shape) -> None:
    backend, device = target

    def ones(shape: tuple[int, ...]) -> Tensor:
        return torch.ones(shape, device=device).to(memory_format=memory_format).requires_grad_()

    for resample in RESAMPLE:
        a, b = map(ones, merge_shapes(shape, resample))
        y = residual_merge(a, b, resample_b=resample, backend=backend)
        grad_a, grad_b = torch.autograd.grad(y.sum(), (a, b))
        assert y.shape == grad_a.shape == a.shape and grad_b.shape == b.shape
    x = ones(doubled(shape))
    y = leaky_relu_down2(x, backend=backend)
    (grad_x,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert y.shape == shape and grad_x.shape == x.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_nan_and_infinity_as_in_the_reference(target, dtype) -> None:
    backend, device = target
    x = normal(1, 3, 8, 40).to(dtype)
    for at, bad in enumerate([float("nan"), float("inf"), -float("inf"), torch.finfo(dtype).max, -0.0]):
        x[0, at % 3, at, 7 * at] = bad
    x, coarse = x.to(device), x[:, :, 2:6, ::2].to(device)
    for slope in (0.0, SLOPE):
        results, expected = ([] for _ in range(2))
        for name, into in ((backend, results), ("reference", expected)):
            into += derivatives(leaky_by(name, slope), [x], coarse, [x])
            into += derivatives(merge_by(name, "up2"), [x, coarse], x, [x, coarse])
            into += derivatives(merge_by(name, "down2"), [coarse, x], coarse, [coarse, x])
        for result, truth in zip(results, expected, strict=True):
            torch.testing.assert_close(result, truth, equal_nan=True)


def test_derivative_at_zero_is_the_slope(target) -> None:
    x = torch.zeros(1, 2, 2, 6, device=target[1])
    y, grad_x, second = derivatives(leaky_by(target[0]), [x], torch.ones(1, 2, 1, 3, device=target[1]), [x + 1])
    assert y.eq(0).all()
    torch.testing.assert_close(grad_x, torch.full_like(x, SLOPE / 4))
    torch.testing.assert_close(second, torch.full_like(second, SLOPE))


def check_derivatives(target, function: Callable[..., Tensor], *inputs: Tensor) -> None:
    """First and second ones."""
    fast = target == INTERPRETER
    assert torch.autograd.gradcheck(function, inputs, fast_mode=fast)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=fast)


@pytest.mark.parametrize("resample", RESAMPLE)
def test_first_and_second_derivatives_of_merge(target, resample) -> None:
    shapes = merge_shapes((1, 2, 1, 2), resample)
    inputs = [normal(*shape, seed=at).to(target[1]).requires_grad_() for at, shape in enumerate(shapes)]
    function = merge_by(target[0], resample)
    check_derivatives(target, function, *inputs)
    for at in range(2):
        inputs[1 - at].requires_grad_(False)
        check_derivatives(target, function, *inputs)
        inputs[1 - at].requires_grad_()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_derivatives_of_leaky_to_any_order(target, memory_format) -> None:
    x = normal(1, 3, 2, 4).to(target[1]).contiguous(memory_format=memory_format).requires_grad_()
    function = leaky_by(target[0])
    check_derivatives(target, function, x)

    def cubed_gradient(x: Tensor) -> Tensor:
        return torch.autograd.grad(function(x).pow(3).sum(), x, create_graph=True)[0]

    check_derivatives(target, cubed_gradient, x)


class Recorder(TorchDispatchMode):
    """Operators of this package that run, with their last two arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "m2o_fast":
            self.calls.append((func._schema.name.removeprefix("m2o_fast::"), args[-2:]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("resample", RESAMPLE)
def test_gradient_of_some_arguments_only(target, resample, create_graph) -> None:
    backend, device = target
    tensors = [normal(*shape, seed=at).to(device) for at, shape in enumerate(merge_shapes((2, 3, 4, 4), resample))]
    grad = normal(*tensors[0].shape, seed=5).to(device)
    both = derivatives(merge_by(backend, resample), tensors, grad, tensors)[1:3]
    for at in range(2):
        inputs = [tensor.detach().requires_grad_(at == which) for which, tensor in enumerate(tensors)]
        with Recorder() as recorder:
            y = merge_by(backend, resample)(*inputs)
            (gradient,) = torch.autograd.grad(y, inputs[at], grad, create_graph=create_graph)
        torch.testing.assert_close(gradient, both[at])
        if backend != "reference":
            code = 0 if at == 0 else RESAMPLE.index(resample)  # without b's gradient there is nothing to resample
            assert [last for name, last in recorder.calls if name.endswith("_backward")] == [(code, at == 0)]


def penalty_of_network(leaky: Callable[[Tensor], Tensor], weights: list[Tensor], x: Tensor) -> tuple[Tensor, ...]:
    """Gradients of R1 of a small discriminator by its weights."""
    score = F.conv2d(leaky(F.conv2d(leaky(F.conv2d(x, weights[0], padding=1)), weights[1], padding=1)), weights[2])
    (gradient,) = torch.autograd.grad(score.square().sum(), x, create_graph=True)
    return torch.autograd.grad(gradient.square().sum(), weights)


def test_gradient_penalty_of_a_network_runs_fused(target) -> None:
    backend, device = target
    shapes = [(8, 3, 3, 3), (5, 8, 3, 3), (1, 5, 2, 2)]
    weights = [normal(*shape, seed=at).to(device).requires_grad_() for at, shape in enumerate(shapes)]
    x = normal(2, 3, 8, 8, seed=7).to(device).requires_grad_()
    with Recorder() as recorder:
        results = penalty_of_network(leaky_by(backend), weights, x)
    for result, expected in zip(results, penalty_of_network(plain_leaky, weights, x), strict=True):
        torch.testing.assert_close(result, expected)
    if backend != "reference":
        assert sum(name.endswith("_tangent") for name, _ in recorder.calls) == 2
        y = leaky_by(backend)(x)
        (grad_x,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        (zero,) = torch.autograd.grad(grad_x.sum(), x, materialize_grads=True)
        assert zero.eq(0).all()


@pytest.mark.parametrize("layout", ["contiguous", "sliced_channels_last"])
def test_compile(target, layout) -> None:
    backend, device = target
    if backend == "reference" or target == INTERPRETER:
        pytest.skip("the other backends cover it")

    def function(coarse: Tensor, fine: Tensor) -> Tensor:
        y = merge_by(backend, "up2")(fine.sin(), coarse)
        y = merge_by(backend, "down2")(leaky_by(backend)(y), fine)
        return merge_by(backend, None)(y, coarse).cos()

    cases = []
    for shape in ((2, 5, 2, 3), (3, 7, 1, 4)):
        sizes = (shape, doubled(shape))
        inputs = [LAYOUTS[layout](normal(*size, seed=at).float().to(device)) for at, size in enumerate(sizes)]
        cases.append(inputs)
    assert_compiled_is_the_same(function, cases)


def test_autocast(target) -> None:
    backend, device = target
    convolution = torch.nn.Conv2d(3, 3, 3, padding=1).to(device)
    images = normal(2, 3, 8, 8).float().to(device).requires_grad_()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        merged = residual_merge(convolution(images), images, backend=backend)
        y = leaky_relu_down2(merged, backend=backend)
    assert merged.dtype == y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert images.grad.dtype == torch.float32 and convolution.weight.grad.isfinite().all()


@needs_native
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 5), st.integers(0, 40)),
    layout=st.sampled_from(sorted(set(LAYOUTS) - {"expanded"})),
    dtype=st.sampled_from(DTYPES),
    resample=st.sampled_from(RESAMPLE),
)
def test_any_shape(shape, layout, dtype, resample) -> None:
    sizes = merge_shapes(shape, resample)
    a, b = LAYOUTS[layout](normal(*sizes[0]).to(dtype)), LAYOUTS[layout](normal(*sizes[1], seed=1).to(dtype))
    x = LAYOUTS[layout](normal(*doubled(shape)).to(dtype))
    if a.numel() == 0:
        assert residual_merge(a, b, resample_b=resample, backend="compiled").shape == a.shape
        assert leaky_relu_down2(x, backend="compiled").shape == shape
    else:
        check_merge(("compiled", torch.device("cpu")), resample, a, b)
        check_leaky(("compiled", torch.device("cpu")), x)


@pytest.mark.parametrize("numbers", [2**17, 2**18])
@pytest.mark.parametrize("differentiated", [False, True])
@needs_native
def test_small_merges_that_are_differentiated_are_torchs_with_the_same_bits(numbers, differentiated) -> None:
    a, b = torch.randn(2, 4, numbers // 64, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    a.requires_grad_(differentiated)
    free = residual_merge(a, b)
    kernel = residual_merge(a, b, backend="compiled")
    assert torch.equal(free, kernel) and free.stride() == kernel.stride()
    if differentiated:
        plain = numbers < 2**18
        assert (free.grad_fn.name() == residual_merge(a, b, backend="reference").grad_fn.name()) == plain
        assert torch.equal(*(torch.autograd.grad(y, a, b)[0] for y in (free, kernel)))
    with use_backend("compiled"):
        assert type(residual_merge(a, b).grad_fn) is type(kernel.grad_fn)
