"""residual_merge, leaky_relu_down2 and their derivatives by the emulated CUDA kernels."""

from __future__ import annotations

import pytest
import torch
from cases import LAYOUTS, judge
from emulated import assert_all_launched, moved_by
from residual_cases import derivatives, doubled, leaky_by, merge_by, merge_shapes, normal

SHAPES = {
    "one pixel": (1, 1, 1, 1),
    "one row": (2, 3, 1, 5),
    "odd": (3, 5, 7, 3),
    "a whole number of vectors": (2, 8, 4, 4),
    "more than one block": (1, 16, 17, 13),
    "vectors in more than one block": (1, 40, 20, 24),
}


@pytest.fixture(params=[0, 1])
def offset(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(params=["contiguous", "channels_last"])
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def shape(request: pytest.FixtureRequest) -> tuple[int, int, int, int]:
    return request.param


def check(function_of, dtype: torch.dtype, layout: str, offset: int, *shapes: tuple[int, ...], out: tuple[int, ...]):
    """Results and derivatives to the second order against plain torch in float64."""

    def given(shape: tuple[int, ...], seed: int) -> torch.Tensor:
        return moved_by(LAYOUTS[layout](normal(*shape, seed=seed).to(dtype)), offset)

    inputs = [given(shape, seed) for seed, shape in enumerate(shapes)]
    grad, along = given(out, 7), [given(shape, 8 + seed) for seed, shape in enumerate(shapes)]
    results = [derivatives(function_of(backend), inputs, grad, along) for backend in ("compiled", "reference")]
    wide = [[tensor.double() for tensor in tensors] for tensors in (inputs, along)]
    exact = derivatives(function_of("reference"), wide[0], grad.double(), wide[1])
    for result, torch_result, truth in zip(*results, exact, strict=True):
        judge(result, torch_result, truth).assert_good("derivative", torch.finfo(dtype).eps)


@pytest.mark.parametrize("resample", [None, "up2", "down2"])
def test_residual_merge(dtype, shape, layout, offset, resample) -> None:
    a, b = merge_shapes(shape, resample)
    check(lambda backend: merge_by(backend, resample), dtype, layout, offset, a, b, out=a)


def test_leaky_relu_down2(dtype, shape, layout, offset) -> None:
    check(leaky_by, dtype, layout, offset, doubled(shape), out=shape)


def test_every_kernel_was_launched(request) -> None:
    assert_all_launched(request.config)
