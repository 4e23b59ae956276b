"""adain_act against eager torch, torch.compile and its own reference: forward, and forward with backward."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from conftest import CACHE_BYTES, DEVICE, ImageCase, once_for_all
from torch import Tensor

from m2o_fast.ops import Backend, adain_act
from m2o_fast.ops.adain import Resample

# 32 px with width 128, and 256 px with StarGAN v2's widths
QUICK = [
    ImageCase((32, 128, 32, 32)),
    ImageCase((32, 128, 16, 16), in_cache=True),
    ImageCase((32, 128, 16, 16), resample="up2"),
    ImageCase((32, 128, 32, 32), resample="down2"),
]
FULL = [
    ImageCase((32, 128, 16, 16)),
    ImageCase((32, 64, 32, 32)),
    ImageCase((8, 64, 256, 256)),
    ImageCase((8, 512, 16, 16)),
    ImageCase((8, 128, 128, 128)),
    ImageCase((8, 64, 128, 128)),
    ImageCase((8, 64, 32, 32), in_cache=True),
    ImageCase((8, 512, 16, 16), in_cache=True),
    ImageCase((32, 128, 32, 32), channels_last=True),
    ImageCase((8, 128, 128, 128), channels_last=True),
    ImageCase((32, 128, 32, 32), torch.bfloat16),
    ImageCase((8, 128, 128, 128), torch.bfloat16),
    ImageCase((32, 128, 16, 16), resample="up2", in_cache=True),
    ImageCase((32, 128, 16, 16), resample="up2", channels_last=True),
    ImageCase((8, 128, 128, 128), torch.bfloat16, resample="up2"),
    ImageCase((32, 128, 16, 16), resample="down2", in_cache=True),
    ImageCase((32, 128, 32, 32), resample="down2", channels_last=True),
    ImageCase((8, 128, 128, 128), torch.bfloat16, resample="down2"),
]
CASES = [*QUICK, *(pytest.param(case, marks=pytest.mark.full) for case in FULL)]


def eager(x: Tensor, gamma: Tensor, beta: Tensor, resample: Resample | None) -> Tensor:
    """As StarGAN v2 writes it. Float32 gamma and beta make y float32; the next convolution would take it back."""
    y = (1 + gamma[:, :, None, None]) * F.instance_norm(x) + beta[:, :, None, None]
    y = F.leaky_relu(y, 0.2).to(x.dtype)
    if resample == "up2":
        return F.interpolate(y, scale_factor=2, mode="nearest")
    return F.avg_pool2d(y, 2) if resample == "down2" else y


def reference(x: Tensor, gamma: Tensor, beta: Tensor, resample: Resample | None) -> Tensor:
    return adain_act(x, gamma, beta, resample=resample, backend="reference")


def compiled_by_torch() -> Callable[..., Tensor]:
    torch.compiler.reset()
    return torch.compile(reference, fullgraph=True, dynamic=False)


def by_backend(backend: Backend) -> Callable[..., Tensor]:
    return lambda *tensors, resample: adain_act(*tensors, resample=resample, backend=backend)


IMPLEMENTATIONS: dict[str, Callable[[], Callable[..., Tensor]]] = {
    "eager": lambda: eager,
    "compile": compiled_by_torch,
    "reference": lambda: reference,
    "compiled": lambda: by_backend("compiled"),
}
if DEVICE.type == "cuda":
    IMPLEMENTATIONS["triton"] = lambda: by_backend("triton")


class Inputs(NamedTuple):
    x: Tensor
    gamma: Tensor
    beta: Tensor
    grad: Tensor


def make_inputs(case: ImageCase) -> list[Inputs]:
    """As many as take turns. Values as features have them: no zeros, no special numbers."""
    n, c, height, width = case.shape
    memory_format = torch.channels_last if case.channels_last else torch.contiguous_format
    generator = torch.Generator(DEVICE).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=DEVICE)

    def features(factor: float = 1) -> Tensor:
        shape = n, c, int(factor * height), int(factor * width)
        return normal(*shape).to(case.dtype).to(memory_format=memory_format)

    size = features().nbytes
    count = 1 if case.in_cache else 1 + max(1, CACHE_BYTES // size)
    # gamma and beta stay float32, as under autocast
    factor = {None: 1, "up2": 2, "down2": 0.5}[case.resample]
    return [Inputs(features(), 0.3 * normal(n, c), 0.3 * normal(n, c), features(factor)) for _ in range(count)]


def gradients(function: Callable[..., Tensor], inputs: Inputs) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs[:3]]
    return torch.autograd.grad(function(*leaves), leaves, inputs.grad.to(inputs.x.dtype))


def assert_right(function: Callable[..., Tensor], reference: Callable[..., Tensor], inputs: Inputs) -> None:
    """The first sample against float64, by root mean square: near 0, rounding decides the side of the activation."""
    results = [function(*inputs[:3]), *gradients(function, inputs)]
    first = Inputs(*(tensor[:1].double() for tensor in inputs))
    truths = [reference(*first[:3]), *gradients(reference, first)]
    for result, truth in zip(results, truths, strict=True):
        tolerance = 0.1 if inputs.x.dtype == torch.bfloat16 else 2e-3
        assert (result[:1] - truth).square().mean().sqrt() <= tolerance * truth.square().mean().sqrt()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("mode", ["forward", "forward+backward"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_adain_act(benchmark, measure, case: ImageCase, mode: str, implementation: str) -> None:
    benchmark.group = f"adain_act {case}, {mode}"
    inputs = once_for_all(make_inputs, case)
    function = partial(IMPLEMENTATIONS[implementation](), resample=case.resample)
    assert_right(function, partial(reference, resample=case.resample), inputs[0])
    if mode == "forward":

        def call(turn: int) -> object:
            with torch.no_grad():
                return function(*inputs[turn % len(inputs)][:3])
    else:

        def call(turn: int) -> object:
            return gradients(function, inputs[turn % len(inputs)])

    # forward reads x and writes y; backward reads the gradient of y and x and writes the gradient of x
    x, y = inputs[0].x.nbytes, inputs[0].grad.nbytes
    moved = x + y if mode == "forward" else 3 * x + 2 * y
    measure(call, implementation, None if case.in_cache else moved)
