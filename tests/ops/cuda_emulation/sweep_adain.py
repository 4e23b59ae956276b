"""adain_act, with and without a change of size, by its emulated CUDA kernels."""

from __future__ import annotations

import pytest
import torch
from adain_cases import check, normal, output_shape
from cases import LAYOUTS
from emulated import DEVICES, TARGET, assert_all_launched, moved_by, number_of
from torch import Tensor

SMALL = {
    "one pixel": (3, 5, 1, 1),
    "fewer numbers than lanes": (2, 3, 1, 5),
    "odd": (2, 7, 5, 3),
    "a whole number of vectors": (2, 16, 8, 8),
    "a rest of channel vectors": (1, 24, 10, 8),
    "odd and longer than lanes": (1, 3, 40, 42),
    "parts": (1, 2, 70, 66),
}
#: device -> vectors in the only plane, or in the only plane of channel vectors. The more, the more blocks share them:
#: the forward pass takes clusters of 1, 2, 4 and 8, the backward pass, which holds fewer, of 2, 4, 8 and 8.
LARGE = [("h100", size) for size in (2048, 4096, 8192, 16384)]
LARGE += [(device, 4096) for device in DEVICES[1:]] + [("one multiprocessor", 12288)]


@pytest.fixture(params=[None, "up2", "down2"], ids=str)
def resample(request: pytest.FixtureRequest) -> str | None:
    return request.param


@pytest.fixture(params=["contiguous", "channels_last"])
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


def check_planes(x: Tensor, resample: str | None, alternative: bool = False) -> None:
    n, c = x.shape[:2]
    gamma, beta = normal(n, c, seed=1), normal(c, seed=2).to(x.dtype)
    gamma = gamma if x.dtype == torch.float64 else gamma.float()
    if alternative:  # other shapes, strides and dtypes
        gamma, beta = normal(2 * c, n, seed=1).to(x.dtype).t()[:, ::2], normal(n, 2 * c, seed=2).to(gamma.dtype)[:, c:]
    # Gradients of one sign: their sums are not small beside what is summed.
    grad = normal(*output_shape(x.shape, resample), seed=9).abs()
    check(TARGET, x, gamma, beta, grad, resample, one_plus=not alternative)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("shape", SMALL.values(), ids=SMALL)
def test_small_planes(request, dtype, shape, layout, offset, resample) -> None:
    if resample == "down2":
        shape = (*shape[:2], shape[2] + shape[2] % 2, shape[3] + shape[3] % 2)
    x = moved_by(LAYOUTS[layout](normal(*shape).to(dtype)), offset)
    check_planes(x, resample, alternative=number_of(request) % 2 == 1)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize(("device", "vectors"), LARGE)
def test_large_planes(dtype, device, vectors, layout, offset, resample) -> None:
    vector = 1 if offset or dtype == torch.float64 else 16 // dtype.itemsize
    across = vector if layout == "channels_last" else 1
    x = LAYOUTS[layout](normal(1, across, 64, vectors // 64 * vector // across).to(dtype))
    check_planes(moved_by(x, offset), resample)


def test_every_kernel_was_launched(request) -> None:
    def routes(kernel: str) -> set[str]:
        if "Route::kOnChip" in kernel:
            return {f"cluster of {size}" for size in (1, 2, 4, 8)} | {"chunks", "one chunk"}
        return {"parts"} if "Route::kPartial" in kernel else set()

    assert_all_launched(request.config, routes)
