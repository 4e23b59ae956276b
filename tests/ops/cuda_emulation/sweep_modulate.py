"""scale_bias_act by its emulated CUDA kernels."""

from __future__ import annotations

import pytest
from cases import LAYOUTS
from emulated import DEVICES, TARGET, assert_all_launched, moved_by, number_of
from modulate_cases import GIVEN, check, normal, vectors_for
from torch import Tensor

SHAPES = {
    "one pixel": (3, 5, 1, 1),
    "fewer numbers than lanes": (2, 3, 1, 5),
    "odd": (2, 7, 5, 3),
    "a whole number of vectors": (2, 16, 8, 8),
    "a rest of channel vectors": (3, 24, 9, 8),
    "odd and longer than lanes": (1, 3, 40, 41),
    "parts": (1, 2, 96, 96),
    "parts of channel vectors": (1, 24, 33, 35),
}


def coarse(x: Tensor) -> Tensor:
    """Numbers of few bits, whose products float64 adds up exactly, in any order."""
    return x.bfloat16().to(x.dtype)


def check_coarse(x: Tensor, given: tuple[bool, ...] = (True, True, True), alternative: bool = False) -> None:
    scale, bias, following = (v if v is None else coarse(v) for v in vectors_for(x.shape, given))
    if alternative:  # other shapes, strides and dtypes
        bias, following = bias[0].to(x.dtype), following.repeat_interleave(2, 1)[:, ::2]
    check(TARGET, x, [scale, bias, following], coarse(normal(*x.shape, seed=9)), slope=0.25)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_forward_and_gradients(request, dtype, shape, layout, offset) -> None:
    x = moved_by(LAYOUTS[layout](coarse(normal(*shape)).to(dtype)), offset)
    check_coarse(x, alternative=number_of(request) % 2 == 1)


@pytest.mark.parametrize("given", GIVEN)
def test_vectors_that_are_not_given(dtype, given) -> None:
    check_coarse(coarse(normal(2, 11, 5, 7)).to(dtype), GIVEN[given])


@pytest.mark.parametrize("device", DEVICES)
def test_devices(dtype, device) -> None:
    for height in (63, 64):
        check_coarse(coarse(normal(1, 8, height, 31)).to(dtype))


def test_every_kernel_was_launched(request) -> None:
    def routes(kernel: str) -> set[str]:
        return {"parts", "one part"} if "kLanes = false" in kernel else set()

    assert_all_launched(request.config, routes)
