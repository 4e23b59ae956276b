"""residual_merge and leaky_relu_down2 against eager torch, torch.compile and their references."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from conftest import CACHE_BYTES, DEVICE, ImageCase, once_for_all
from torch import Tensor

from m2o_fast.ops import leaky_relu_down2, residual_merge

Function = Callable[..., Tensor]


# Shapes of the output of residual_merge and of the input of leaky_relu_down2: 32 px with width 128, and 256 px with
# StarGAN v2's widths
QUICK = [ImageCase((32, 128, 32, 32)), ImageCase((32, 128, 16, 16), in_cache=True)]
FULL = [
    ImageCase((8, 512, 16, 16), in_cache=True),
    ImageCase((8, 64, 256, 256)),
    ImageCase((32, 128, 8, 8), in_cache=True),
    ImageCase((32, 128, 32, 32), channels_last=True),
    ImageCase((32, 128, 32, 32), torch.bfloat16),
    ImageCase((8, 128, 128, 128), torch.bfloat16),
]
CASES = [*QUICK, *(pytest.param(case, marks=pytest.mark.full) for case in FULL)]


def eager_merge(resample: str | None) -> Function:
    """As StarGAN v2 writes it."""

    def function(a: Tensor, b: Tensor) -> Tensor:
        if resample == "up2":
            b = F.interpolate(b, scale_factor=2, mode="nearest")
        elif resample == "down2":
            b = F.avg_pool2d(b, 2)
        return (a + b) / math.sqrt(2)

    return function


def eager_leaky(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.leaky_relu(x, 0.2), 2)


def by_torch(function: Function) -> Function:
    torch.compiler.reset()
    return torch.compile(function, fullgraph=True, dynamic=False)


def implementations(eager: Function, ours: Callable[[str], Function]) -> dict[str, Callable[[], Function]]:
    backends = ["reference", "compiled", *(["triton"] if DEVICE.type == "cuda" else [])]
    named = {backend: lambda backend=backend: ours(backend) for backend in backends}
    return {"eager": lambda: eager, "compile": lambda: by_torch(ours("reference")), **named}


NAMES = ["eager", "compile", "reference", "compiled", *(["triton"] if DEVICE.type == "cuda" else [])]


class Inputs(NamedTuple):
    tensors: tuple[Tensor, ...]  # arguments of the function
    grad: Tensor  # of its result


def make_inputs(case: ImageCase, *scales: float) -> list[Inputs]:
    """As many as take turns. ``scales``: height of every argument, then that of the result, as parts of the case's."""
    n, c, h, w = case.shape
    memory_format = torch.channels_last if case.channels_last else torch.contiguous_format
    generator = torch.Generator(DEVICE).manual_seed(0)

    def images(scale: float) -> Tensor:
        x = torch.randn((n, c, int(h * scale), int(w * scale)), generator=generator, device=DEVICE)
        return x.to(case.dtype).to(memory_format=memory_format)

    size = n * c * h * w * case.dtype.itemsize
    count = 1 if case.in_cache else 1 + max(1, CACHE_BYTES // size)
    return [Inputs(tuple(images(scale) for scale in scales[:-1]), images(scales[-1])) for _ in range(count)]


def gradients(function: Function, inputs: Inputs) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs.tensors]
    return torch.autograd.grad(function(*leaves), leaves, inputs.grad)


def penalty_gradients(function: Function, inputs: Inputs) -> tuple[Tensor, ...]:
    """What R1 adds: the gradient of the gradient, by the incoming gradient, through which it reaches the weights."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs.tensors]
    grad = inputs.grad.detach().requires_grad_()
    first = torch.autograd.grad(function(*leaves), leaves, grad, create_graph=True)
    return torch.autograd.grad(first, grad, inputs.tensors)


MODES: dict[str, Callable[[Function, Inputs], object]] = {
    "forward": lambda function, inputs: function(*inputs.tensors),
    "forward+backward": gradients,
    "R1": penalty_gradients,
}


def assert_right(function: Function, definition: Function, mode: str, inputs: Inputs) -> None:
    """The first sample against float64, by root mean square."""
    results, truths = (
        MODES[mode](call, Inputs(tuple(convert(tensor) for tensor in inputs.tensors), convert(inputs.grad)))
        for call, convert in ((function, lambda x: x), (definition, lambda x: x[:1].double()))
    )
    if isinstance(results, Tensor):
        results, truths = (results,), (truths,)
    for result, truth in zip(results, truths, strict=True):
        tolerance = 2e-2 if result.dtype == torch.bfloat16 else 1e-5
        assert (result[:1] - truth).square().mean().sqrt() <= tolerance * truth.square().mean().sqrt()


def time_it(measure, mode: str, implementation: str, functions, inputs: list[Inputs], passes: float, case: ImageCase):
    function = functions[implementation]()
    assert_right(function, functions["reference"](), mode, inputs[0])

    def call(turn: int) -> object:
        with torch.set_grad_enabled(mode != "forward"):
            return MODES[mode](function, inputs[turn % len(inputs)])

    n, c, h, w = case.shape
    measure(call, implementation, None if case.in_cache else int(passes * n * c * h * w * case.dtype.itemsize))


@pytest.mark.parametrize("implementation", NAMES)
@pytest.mark.parametrize("mode", ["forward", "forward+backward"])
@pytest.mark.parametrize("resample", [None, "up2", "down2"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_residual_merge(
    benchmark, measure, case: ImageCase, resample: str | None, mode: str, implementation: str
) -> None:
    benchmark.group = f"residual_merge {resample} {case}, {mode}"
    if resample == "down2":  # the fine images are b here: keep the sizes comparable
        case = case._replace(shape=(*case.shape[:2], case.shape[2] // 2, case.shape[3] // 2))
    b_scale = {None: 1, "up2": 0.5, "down2": 2}[resample]
    functions = implementations(
        eager_merge(resample), lambda backend: lambda a, b: residual_merge(a, b, resample_b=resample, backend=backend)
    )
    # forward reads a and b and writes y; backward reads the gradient and writes that of a, and of b where it is another
    passes = 2 + b_scale**2
    if mode != "forward":
        passes += 2 + (0 if resample is None else b_scale**2)
    time_it(measure, mode, implementation, functions, once_for_all(make_inputs, case, 1, b_scale, 1), passes, case)


# torch.compile does not differentiate twice
@pytest.mark.parametrize("mode, implementation", [pair for pair in product(MODES, NAMES) if pair != ("R1", "compile")])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_leaky_relu_down2(benchmark, measure, case: ImageCase, mode: str, implementation: str) -> None:
    benchmark.group = f"leaky_relu_down2 {case}, {mode}"
    functions = implementations(eager_leaky, lambda backend: lambda x: leaky_relu_down2(x, backend=backend))
    # forward reads x and writes y; backward reads the gradient and x and writes the gradient of x; R1 then reads a
    # gradient of that and x and writes one of the first gradient
    passes = {"forward": 1.25, "forward+backward": 3.5, "R1": 5.75}[mode]
    time_it(measure, mode, implementation, functions, once_for_all(make_inputs, case, 1, 0.5), passes, case)
