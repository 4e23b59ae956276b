"""Colour histograms, foreground colours and counts of distinct colours by the emulated CUDA kernels."""

from __future__ import annotations

import pytest
import torch
from cases import LAYOUTS, judge
from emulated import assert_all_launched, moved_by
from torch import Tensor

from m2o_fast.ops import color_histogram, foreground_color, soft_color_histogram, unique_color_count

#: (count, height, width)
IMAGES = {
    "one pixel": (1, 1, 1),
    "odd": (3, 5, 7),
    "a whole number of vectors": (2, 16, 16),
    "a row is no whole number of vectors": (5, 33, 16),
    "a hash": (1, 48, 64),
    "parts": (2, 96, 96),
}
#: layouts and elements by which they are moved from the start of their memory
STORED = [(layout, offset) for layout in ("contiguous", "channels_last") for offset in (0, 1)]
STORED += [("sliced", 0), ("transposed", 0)]
#: cells that fit shared memory, and cells that do not
CELLS = {"4 bins": (4, 1), "groups": (4, 3), "23 bins": (23, 1), "24 bins and groups": (24, 2)}
COUNTS = [0, 1, 31, 257, 1201]


def images(shape: tuple[int, int, int], pixel: torch.dtype, layout: str, offset: int) -> Tensor:
    count, height, width = shape
    x = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (x * 255).round().to(pixel) if pixel == torch.uint8 else x.to(pixel)
    if layout == "sliced":
        return torch.cat([x, x, x], 3)[..., 1 : width + 1]
    return moved_by(LAYOUTS[layout](x), offset)


def colors(count: int, dtype: torch.dtype, num_groups: int) -> tuple[Tensor, dict]:
    generator = torch.Generator().manual_seed(count)
    values = torch.rand(count, 3, generator=generator, dtype=torch.float64).to(dtype)
    groups = torch.randint(num_groups, (count,), generator=generator)
    return values, {"groups": groups, "num_groups": num_groups} if num_groups > 1 else {}


def assert_as_good_as_torch(function, *inputs: Tensor, condition: float = 1) -> None:
    """Judged as all kernels are; results are in [0, 1] or counts, in float32 at least."""
    exact = function(*(x.double() / 255 if x.dtype == torch.uint8 else x.double() for x in inputs), backend="reference")
    result, torch_result = (function(*inputs, backend=backend) for backend in ("compiled", "reference"))
    judge(result, torch_result, exact).assert_good(function.__name__, torch.finfo(result.dtype).eps, condition)


def assert_counts_colors(x: Tensor, bits: int) -> None:
    counts = [unique_color_count(x, bits, per_image=True, backend=backend) for backend in ("compiled", "reference")]
    assert torch.equal(*counts)


@pytest.mark.parametrize(("layout", "offset"), STORED)
@pytest.mark.parametrize("shape", IMAGES.values(), ids=IMAGES)
def test_images(pixel, shape, layout, offset) -> None:
    x = images(shape, pixel, layout, offset)
    assert_as_good_as_torch(foreground_color, x)
    assert_as_good_as_torch(foreground_color, x, x[:, 1:2] if layout == "sliced" else x[:, 1:2].contiguous())
    for bits in (1, 5, 8):
        assert_counts_colors(x, bits)


def test_more_sets_of_colors_than_the_workspace_holds() -> None:
    assert_counts_colors(images((33, 65, 64), torch.uint8, "contiguous", 0), bits=8)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("cells", CELLS.values(), ids=CELLS)
def test_colors(dtype, cells, count) -> None:
    bins, num_groups = cells
    values, options = colors(count, dtype, num_groups)
    expected = color_histogram(values, bins=bins, backend="reference", **options)
    assert torch.equal(color_histogram(values, bins=bins, backend="compiled", **options), expected)

    def soft(values: Tensor, *, backend: str) -> Tensor:
        return soft_color_histogram(values, bins=bins, backend=backend, **options)

    def gradient(values: Tensor, *, backend: str) -> Tensor:
        leaf = values.detach().requires_grad_()
        y = soft(leaf, backend=backend)
        weights = torch.rand(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
        return torch.autograd.grad(y, leaf, weights)[0]

    assert_as_good_as_torch(soft, values)
    assert_as_good_as_torch(gradient, values, condition=bins)


def test_what_is_not_finite_is_noticed(dtype) -> None:
    values, _ = colors(50, dtype, 1)
    values[7, 1] = float("nan")
    with pytest.raises(ValueError, match="must be finite"):
        color_histogram(values, bins=5, backend="compiled")
    with pytest.raises(ValueError, match="must be finite"):
        unique_color_count(values.t()[None, :, None], per_image=True, backend="compiled")
    assert soft_color_histogram(values, bins=5, backend="compiled").isnan().all()


def test_every_kernel_was_launched(request) -> None:
    def routes(kernel: str) -> set[str]:
        if "unique_kernel" in kernel:
            return {"kind 0", "kind 1", "kind 2"}
        return {"parts", "one part"} if "fit_kernel" in kernel else set()

    assert_all_launched(request.config, routes)
