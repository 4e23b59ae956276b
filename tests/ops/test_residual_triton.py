"""The Triton kernels of the residual family by themselves; without a GPU in Triton's interpreter."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # has to be set before the kernels are imported
pytest.importorskip("triton")

from m2o_fast.ops import residual  # noqa: E402
from m2o_fast.ops.triton import residual as kernels  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPES = [(3, 5, 1, 1), (2, 7, 3, 5), (1, 70, 3, 2), (2, 4, 16, 16), (0, 3, 2, 2), (2, 3, 0, 4)]  # coarse
SCALE, SLOPE = 0.7, 0.2


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def calls(fine: Tensor, other: Tensor, coarse: Tensor, dtype: torch.dtype, memory_format):
    """Operator by operator: what the kernel gives, and what the fallback in plain torch gives in float64."""
    arguments = {
        "residual_merge": [(fine, other, SCALE, 0), (fine, coarse, SCALE, 1), (coarse, fine, SCALE, 2)],
        "residual_merge_backward": [
            (grad, SCALE, how, need) for grad, how in ((fine, 0), (fine, 1), (coarse, 2)) for need in (True, False)
        ],
        "leaky_relu_down2": [(fine, SLOPE)],
        "leaky_relu_down2_backward": [(coarse, fine, SLOPE)],
        "leaky_relu_down2_tangent": [(other, fine, SLOPE)],
    }
    definitions = {
        "residual_merge": residual._merge_fallback,
        "residual_merge_backward": residual._merge_backward_fallback,
        "leaky_relu_down2": residual._leaky_fallback,
        "leaky_relu_down2_backward": residual._leaky_backward_fallback,
        "leaky_relu_down2_tangent": residual._leaky_tangent_fallback,
    }
    for name, definition in definitions.items():
        for given in arguments[name]:
            here = [x.to(DEVICE, dtype, memory_format=memory_format) if isinstance(x, Tensor) else x for x in given]
            wide = [x.double().cpu() if isinstance(x, Tensor) else x for x in here]
            results, truths = getattr(kernels, name)(*here), definition(*wide)
            if isinstance(results, Tensor):
                results, truths = (results,), (truths,)
            yield from ((name, result, truth) for result, truth in zip(results, truths, strict=True))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_kernels(shape, dtype, memory_format) -> None:
    size = (*shape[:2], 2 * shape[2], 2 * shape[3])
    fine, other, coarse = normal(*size), normal(*size, seed=1), normal(*shape, seed=2)
    for name, result, truth in calls(fine, other, coarse, dtype, memory_format):
        assert result.dtype == dtype and result.shape == truth.shape, name
        if min(shape) > 1 and truth.dim() == 4:  # else some are in both formats, and results in either
            assert result.is_contiguous(memory_format=memory_format), name
        if truth.numel():
            error, scale = (result.double().cpu() - truth).abs().max(), truth.abs().max()
            assert error <= 2 * torch.finfo(dtype).eps * scale, f"{name}: {error:.3g}"


def test_long_rows_are_counted_in_64_bits(monkeypatch) -> None:
    """A row of 2^30 numbers does not fit here: the launcher is made to believe that it met one."""
    x = normal(2, 3, 4, 6).float().to(DEVICE)
    seen = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **constants: seen.append((grid, constants["INDEX"]))

    for width in (2**29, 2**30):
        coarse = torch.empty(1, 2, 1, width, device="meta")
        kernels._launch(Kernel(), (), coarse, torch.contiguous_format)
    assert [str(index) for _, index in seen] == ["int32", "int64"]
    expected = kernels.leaky_relu_down2(x, SLOPE)
    monkeypatch.setattr(kernels.tl, "int32", kernels.tl.int64)
    assert torch.equal(kernels.leaky_relu_down2(x, SLOPE), expected)
