"""``scale_bias_act`` and its backward by Triton: division of the work, launch, cases for ahead-of-time compilation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from m2o_fast.ops._checks import wide
from m2o_fast.ops._formats import in_format, is_channels_last, output_format
from m2o_fast.ops.triton import CompileCase
from m2o_fast.ops.triton._types import ELEMENT_TYPES, wide_in_kernel
from m2o_fast.ops.triton.modulate_kernels import backward_kernel, forward_kernel

TILE = 2048  # numbers of a tensor that a program works on at a time
MOST_PARTS = 64
ENOUGH_PROGRAMS = 1024
OPTIONS = {"num_warps": 4}


class _Plan(NamedTuple):
    """How a call is divided among programs."""

    planes: int  # of a tile
    pixels: int
    parts: int  # of a plane
    part_pixels: int
    tiles: int
    channels_last: bool

    @property
    def constants(self) -> dict[str, Any]:
        shape = {"CHANNELS_LAST": self.channels_last, "PLANES": self.planes, "PIXELS": self.pixels}
        return {**shape, "PART_PIXELS": self.part_pixels}


def _plan(batch: int, channels: int, plane: int, channels_last: bool, element_bytes: int) -> _Plan:
    if channels_last:
        planes = min(128 // element_bytes, triton.next_power_of_2(channels))  # a cache line
        pixels = min(TILE // planes, triton.next_power_of_2(plane))
        tiles = batch * triton.cdiv(channels, planes)
    else:
        pixels = min(TILE, triton.next_power_of_2(plane))
        planes = min(TILE // pixels, triton.next_power_of_2(batch * channels))
        tiles = triton.cdiv(batch * channels, planes)
    parts = max(1, min(MOST_PARTS, ENOUGH_PROGRAMS // tiles, triton.cdiv(plane, pixels)))
    part_pixels = triton.cdiv(triton.cdiv(plane, parts), pixels) * pixels
    return _Plan(planes, pixels, triton.cdiv(plane, part_pixels), part_pixels, tiles, channels_last)


def _plan_for(x: Tensor) -> _Plan:
    batch, channels, height, width = x.shape
    return _plan(batch, channels, height * width, is_channels_last(x), x.element_size())


def _sizes_and_strides(x: Tensor, *vectors: Tensor | None) -> tuple[int, ...]:
    """N, C, H * W, then the strides of each vector over samples and channels."""
    numbers = [x.shape[0], x.shape[1], x.shape[2] * x.shape[3]]
    for vector in vectors:
        if vector is None:
            numbers += [0, 0]
        else:
            numbers += vector.stride() if vector.dim() == 2 else (0, vector.stride(0))
    return tuple(numbers)


def scale_bias_act_forward(
    x: Tensor, scale: Tensor | None, bias: Tensor | None, next_scale: Tensor | None, slope: float
) -> Tensor:
    """y of ``scale_bias_act``; shapes and dtypes as in :mod:`m2o_fast.ops.modulate`."""
    x = in_format(x, output_format(x))
    y = torch.empty_like(x)
    if x.numel() == 0:
        return y
    plan = _plan_for(x)
    constants = {"SLOPE": slope, "WIDE": wide_in_kernel(x.dtype), **plan.constants}
    numbers = _sizes_and_strides(x, scale, bias, next_scale)
    with torch.cuda.device_of(x):
        forward_kernel[plan.tiles, plan.parts](x, scale, bias, next_scale, y, *numbers, **constants, **OPTIONS)
    return y


def scale_bias_act_backward(
    grad: Tensor, x: Tensor, scale: Tensor | None, bias: Tensor | None, next_scale: Tensor | None, slope: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x and, per sample, ``[N, C]``, of the vectors; ``[0]`` for a vector that is not given."""
    x, grad = in_format(x, output_format(x)), in_format(grad, output_format(x))
    vectors = (scale, bias, next_scale)
    grad_x, dtype = torch.empty_like(x), wide(x.dtype)
    if x.numel() == 0:
        none = [x.new_zeros((0,) if vector is None else x.shape[:2], dtype=dtype) for vector in vectors]
        return grad_x, none[0], none[1], none[2]
    plan = _plan_for(x)
    constants = {"SLOPE": slope, "WIDE": wide_in_kernel(x.dtype), **plan.constants}
    numbers = _sizes_and_strides(x, *vectors)
    sums = [None if vector is None else x.new_empty((plan.parts, *x.shape[:2]), dtype=dtype) for vector in vectors]
    with torch.cuda.device_of(x):
        backward_kernel[plan.tiles, plan.parts](grad, x, *vectors, grad_x, *sums, *numbers, **constants, **OPTIONS)
    totals = [x.new_empty(0, dtype=dtype) if part is None else _over_parts(part) for part in sums]
    return grad_x, totals[0], totals[1], totals[2]


def _over_parts(sums: Tensor) -> Tensor:
    return sums[0] if len(sums) == 1 else sums.sum(0)


# --- ahead of time ----------------------------------------------------------------------------------------------------


def compile_cases() -> Iterator[CompileCase]:
    """Every kernel by dtype (float16 is like bfloat16) and memory format, as the launchers above have it compiled."""
    for element, dtype in ELEMENT_TYPES.items():
        for channels_last, plane in itertools.product((False, True), (49, 1024, 65536)):
            plan = _plan(8, 64, plane, channels_last, dtype.itemsize)
            layout = "channels_last" if channels_last else "nchw"
            for vectors in ("all", "scale"):
                what = f"{element}, {layout}, {plane} pixels, {vectors}"
                for kernel in (forward_kernel, backward_kernel):
                    yield _case(
                        f"modulate.{kernel.fn.__name__}[{what}]", kernel, element, dtype, plan, vectors == "all"
                    )


def _case(name: str, kernel: Any, element: str, dtype: torch.dtype, plan: _Plan, with_all: bool) -> CompileCase:
    statistics = "*fp64" if dtype == torch.float64 else "*fp32"
    types = {tensor: f"*{element}" for tensor in ("x", "y", "grad", "grad_x")}
    types |= {vector: statistics for vector in ("scale", "bias", "next_scale", "grad_scale", "grad_bias", "grad_next")}
    constants = {"SLOPE": 0.2, "WIDE": wide_in_kernel(dtype), **plan.constants}
    constants |= {"s_channel": 1, "b_channel": 1, "n_channel": 1}  # as Triton specialises 1
    if not with_all:
        constants |= dict.fromkeys(("bias", "next_scale", "grad_bias", "grad_next"))
    fixed = {name: constants[name] for name in kernel.arg_names if name in constants}
    signature = {name: "constexpr" if name in fixed else types.get(name, "i32") for name in kernel.arg_names}
    return CompileCase(name, kernel, signature, fixed, OPTIONS)
