"""scale_bias_act and scale_channels against eager torch; modulated_conv2d against one group per sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from conftest import CACHE_BYTES, DEVICE, ImageCase, once_for_all
from torch import Tensor

from m2o_fast.ops import modulated_conv2d, scale_bias_act, scale_channels

# 32 px with width 128, and 256 px with StarGAN v2's widths
QUICK = [ImageCase((32, 128, 32, 32)), ImageCase((32, 128, 16, 16), in_cache=True)]
FULL = [
    ImageCase((32, 128, 16, 16)),
    ImageCase((8, 512, 16, 16)),
    ImageCase((8, 64, 256, 256)),
    ImageCase((8, 512, 16, 16), in_cache=True),
    ImageCase((32, 128, 32, 32), channels_last=True),
    ImageCase((8, 64, 256, 256), channels_last=True),
    ImageCase((32, 128, 32, 32), torch.bfloat16),
    ImageCase((8, 64, 256, 256), torch.bfloat16),
]
CASES = [*QUICK, *(pytest.param(case, marks=pytest.mark.full) for case in FULL)]


def eager(x: Tensor, scale: Tensor, bias: Tensor, next_scale: Tensor) -> Tensor:
    """As one writes it. Under autocast the vectors would be in the dtype of x."""
    scale, bias, next_scale = (vector.to(x.dtype) for vector in (scale, bias, next_scale))
    y = F.leaky_relu(x * scale[:, :, None, None] + bias[:, None, None], 0.2)
    return y * next_scale[:, :, None, None]


def eager_scale(x: Tensor, scale: Tensor, bias: Tensor, next_scale: Tensor) -> Tensor:
    return x * scale.to(x.dtype)[:, :, None, None]


def chain(backend: str) -> Callable[..., Tensor]:
    return lambda x, scale, bias, next_scale: scale_bias_act(x, scale, bias, next_scale, backend=backend)


def scaling(backend: str) -> Callable[..., Tensor]:
    return lambda x, scale, bias, next_scale: scale_channels(x, scale, backend=backend)


def compiled_by_torch(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    torch.compiler.reset()
    return torch.compile(function, fullgraph=True, dynamic=False)


OPERATIONS = {"scale_bias_act": (eager, chain), "scale_channels": (eager_scale, scaling)}
IMPLEMENTATIONS = ["eager", "compile", "reference", "compiled", *["triton"] * (DEVICE.type == "cuda")]


def implement(operation: str, implementation: str) -> Callable[..., Tensor]:
    plain, ours = OPERATIONS[operation]
    if implementation == "eager":
        return plain
    return compiled_by_torch(ours("reference")) if implementation == "compile" else ours(implementation)


class Inputs(NamedTuple):
    x: Tensor
    scale: Tensor
    bias: Tensor
    next_scale: Tensor
    grad: Tensor


def make_inputs(case: ImageCase) -> list[Inputs]:
    """As many as take turns. Values as features have them: no zeros, no special numbers."""
    n, c, *_ = case.shape
    memory_format = torch.channels_last if case.channels_last else torch.contiguous_format
    generator = torch.Generator(DEVICE).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=DEVICE)

    def features() -> Tensor:
        return normal(*case.shape).to(case.dtype).to(memory_format=memory_format)

    count = 1 if case.in_cache else 1 + max(1, CACHE_BYTES // features().nbytes)
    # the vectors stay float32, as under autocast
    return [
        Inputs(features(), 1 + 0.3 * normal(n, c), 0.3 * normal(c), 1 + 0.3 * normal(n, c), features())
        for _ in range(count)
    ]


def gradients(function: Callable[..., Tensor], tensors: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    results = torch.autograd.grad(function(*leaves), leaves, grad, allow_unused=True)
    return tuple(result for result in results if result is not None)


def assert_right(function: Callable[..., Tensor], plain: Callable[..., Tensor], inputs: Inputs) -> None:
    """The first sample against float64, by root mean square: near 0, rounding decides the side of the activation."""
    first = Inputs(*(tensor if tensor.dim() == 1 else tensor[:1] for tensor in inputs))
    tensors, exact = first[:4], tuple(tensor.double() for tensor in first)
    results = [function(*tensors), *gradients(function, tensors, first.grad)]
    truths = [plain(*exact[:4]), *gradients(plain, exact[:4], exact[4])]
    for result, truth in zip(results, truths, strict=True):
        tolerance = 0.1 if inputs.x.dtype == torch.bfloat16 else 2e-3
        assert (result - truth).square().mean().sqrt() <= tolerance * truth.square().mean().sqrt()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("mode", ["forward", "forward+backward"])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_chain(benchmark, measure, operation: str, case: ImageCase, mode: str, implementation: str) -> None:
    benchmark.group = f"{operation} {case}, {mode}"
    inputs = once_for_all(make_inputs, case)
    function = implement(operation, implementation)
    assert_right(function, OPERATIONS[operation][0], inputs[0])
    if mode == "forward":

        def call(turn: int) -> object:
            with torch.no_grad():
                return function(*inputs[turn % len(inputs)][:4])
    else:

        def call(turn: int) -> object:
            tensors = inputs[turn % len(inputs)]
            return gradients(function, tensors[:4], tensors.grad)

    # forward reads x and writes y; backward reads the gradient and x and writes the gradient of x
    moved = (2 if mode == "forward" else 5) * inputs[0].x.nbytes
    measure(call, implementation, None if case.in_cache else moved)


# --- the convolution --------------------------------------------------------------------------------------------------


def grouped(x: Tensor, weight: Tensor, style: Tensor) -> Tensor:
    """The usual formulation: weights per sample, and every sample a group of one convolution."""
    n, c, height, width = x.shape
    own = weight[None] * style[:, None, :, None, None]
    own = own * (own.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    y = F.conv2d(x.reshape(1, n * c, height, width), own.flatten(0, 1), padding=1, groups=n)
    return y.reshape(n, len(weight), height, width)


CONVOLUTIONS: dict[str, Callable[..., Tensor]] = {
    "grouped": grouped,
    "reference": lambda *tensors: modulated_conv2d(*tensors, backend="reference"),
    "compiled": lambda *tensors: modulated_conv2d(*tensors, backend="compiled"),
}
SHAPES = [(32, 128, 16, 16), *(pytest.param(s, marks=pytest.mark.full) for s in ((32, 128, 32, 32), (8, 512, 16, 16)))]


@pytest.mark.parametrize("implementation", CONVOLUTIONS)
@pytest.mark.parametrize("mode", ["forward", "forward+backward"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_modulated_conv2d(benchmark, measure, shape: tuple[int, ...], mode: str, implementation: str) -> None:
    n, c, *_ = shape
    benchmark.group = f"modulated_conv2d {'x'.join(map(str, shape))}, {c} to {c}, 3x3, {mode}"
    generator = torch.Generator(DEVICE).manual_seed(0)
    sizes = (shape, (c, c, 3, 3), (n, c), shape)
    x, weight, style, grad = (torch.randn(size, generator=generator, device=DEVICE) for size in sizes)
    tensors = (x, 0.1 * weight, 1 + 0.3 * style)
    function = CONVOLUTIONS[implementation]
    expected = grouped(*(tensor[:1] if tensor is not tensors[1] else tensor for tensor in tensors))
    torch.testing.assert_close(function(*tensors)[:1], expected, rtol=1e-2, atol=1e-3)
    if mode == "forward":

        def call(turn: int) -> object:
            with torch.no_grad():
                return function(*tensors)
    else:

        def call(turn: int) -> object:
            return gradients(function, tensors, grad)

    measure(call, implementation)
