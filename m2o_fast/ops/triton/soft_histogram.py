"""Soft colour histograms by Triton: kernels, launch, and cases for ahead-of-time compilation.

Weights are added up as integers (see ``csrc/histogram/soft_histogram.h``), so the order of the atomics does not show.
"""
# In a kernel, annotations mean something else to Triton:
# mypy: disallow-untyped-defs=False

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from m2o_fast.ops._color_checks import color_dtype, require_floating
from m2o_fast.ops.triton import CompileCase
from m2o_fast.ops.triton.histogram import Status, case
from m2o_fast.ops.triton.histogram_kernels import group_of, note

BLOCK = 128
CELLS_PER_PROGRAM = 512


@triton.jit
def _place(at, inside, BINS: tl.constexpr):
    """The bins beside each value, the share of the upper one (NaN for NaN), and whether a change of the value shows."""
    place = tl.load(at, mask=inside, other=0).to(tl.float64) * BINS - 0.5
    position = tl.where(place < 0, 0.0, tl.where(place > BINS - 1, BINS - 1.0, place))
    lower = tl.where(position == position, position, 0.0).to(tl.int64)
    upper = tl.where(lower + 1 < BINS, lower + 1, lower)
    return lower, upper, position - lower.to(tl.float64), (place >= 0) & (place <= BINS - 1)


@triton.jit
def _side(lower, upper, share, IS_UPPER: tl.constexpr):
    """Bin and weight of one side."""
    if IS_UPPER:
        return upper, share
    else:
        return lower, 1 - share


@triton.jit
def share_out(
    colors, groups, units, status, count, color_stride, channel_stride, group_stride, num_groups, in_one,
    HAS_GROUPS: tl.constexpr, BINS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adds colours to ``units``: the units of every cell, then for every group whether it has met a NaN."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    group, right = group_of(groups, i, inside, group_stride, num_groups, HAS_GROUPS)
    if HAS_GROUPS:
        note(status, inside, right == 0, 2)
    at = colors + i * color_stride
    red_lower, red_upper, red_share, _ = _place(at, inside, BINS)
    green_lower, green_upper, green_share, _ = _place(at + channel_stride, inside, BINS)
    blue_lower, blue_upper, blue_share, _ = _place(at + 2 * channel_stride, inside, BINS)
    total = red_share + green_share + blue_share
    counted = inside & right & (total == total)
    for corner in tl.static_range(8):
        red, red_weight = _side(red_lower, red_upper, red_share, corner & 4)
        green, green_weight = _side(green_lower, green_upper, green_share, corner & 2)
        blue, blue_weight = _side(blue_lower, blue_upper, blue_share, corner & 1)
        weight = tl.where(counted, red_weight * green_weight * blue_weight, 0.0)
        part = (weight * in_one + 0.5).to(tl.int64)
        cell = ((group * BINS + red) * BINS + green) * BINS + blue
        tl.atomic_add(units + cell, part, mask=counted & (part != 0), sem="relaxed")
    spoilt = inside & right & (total != total)
    flags = units + num_groups * tl.full((), BINS * BINS * BINS, tl.int64)
    tl.atomic_or(flags + group, tl.full((BLOCK,), 1, tl.int64), mask=spoilt, sem="relaxed")


@triton.jit
def convert(units, soft_counts, num_groups, in_one, CELLS: tl.constexpr, BLOCK: tl.constexpr):
    """Counts from the units of all cells."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    size = num_groups * tl.full((), CELLS, tl.int64)
    inside = i < size
    spoilt = tl.load(units + size + i // CELLS, mask=inside, other=0) != 0
    value = tl.load(units + i, mask=inside, other=0).to(tl.float64) / in_one
    result = tl.where(spoilt, float("nan"), value)
    tl.store(soft_counts + i, result.to(soft_counts.dtype.element_ty), mask=inside)


@triton.jit
def gradient(
    grad, colors, groups, grad_colors, count, color_stride, channel_stride, group_stride, num_groups,
    HAS_GROUPS: tl.constexpr, BINS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient of colours; NaN for a wrong group."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    group, right = group_of(groups, i, inside, group_stride, num_groups, HAS_GROUPS)
    at = colors + i * color_stride
    red_lower, red_upper, red_share, red_moves = _place(at, inside, BINS)
    green_lower, green_upper, green_share, green_moves = _place(at + channel_stride, inside, BINS)
    blue_lower, blue_upper, blue_share, blue_moves = _place(at + 2 * channel_stride, inside, BINS)
    red_slope = tl.zeros((BLOCK,), tl.float64)
    green_slope = tl.zeros((BLOCK,), tl.float64)
    blue_slope = tl.zeros((BLOCK,), tl.float64)
    # Along each channel, over the four edges of the cube of cells that run that way.
    for edge in tl.static_range(4):
        green, green_weight = _side(green_lower, green_upper, green_share, edge & 2)
        blue, blue_weight = _side(blue_lower, blue_upper, blue_share, edge & 1)
        from_cell = grad + ((group * BINS + red_lower) * BINS + green) * BINS + blue
        step = (red_upper - red_lower) * (BINS * BINS)
        red_slope += _rise(from_cell, step, inside) * green_weight * blue_weight

        red, red_weight = _side(red_lower, red_upper, red_share, edge & 2)
        from_cell = grad + ((group * BINS + red) * BINS + green_lower) * BINS + blue
        step = (green_upper - green_lower) * BINS
        green_slope += _rise(from_cell, step, inside) * red_weight * blue_weight

        green, green_weight = _side(green_lower, green_upper, green_share, edge & 1)
        from_cell = grad + ((group * BINS + red) * BINS + green) * BINS + blue_lower
        blue_slope += _rise(from_cell, blue_upper - blue_lower, inside) * red_weight * green_weight
    _put_slope(grad_colors + 3 * i, red_slope * BINS, red_moves, right, inside)
    _put_slope(grad_colors + 3 * i + 1, green_slope * BINS, green_moves, right, inside)
    _put_slope(grad_colors + 3 * i + 2, blue_slope * BINS, blue_moves, right, inside)


@triton.jit
def _rise(from_cell, step, inside):
    upper = tl.load(from_cell + step, mask=inside, other=0).to(tl.float64)
    return upper - tl.load(from_cell, mask=inside, other=0).to(tl.float64)


@triton.jit
def _put_slope(at, slope, moves, right, inside):
    result = tl.where(right, tl.where(moves, slope, 0.0), float("nan"))
    tl.store(at, result.to(tl.float32).to(at.dtype.element_ty) if at.dtype.element_ty != tl.float64 else result,
             mask=inside)  # fmt: skip


def _grouping(colors: Tensor, groups: Tensor | None) -> tuple[Tensor, int]:
    """The pointer and the stride that kernels get."""
    return (colors, 0) if groups is None else (groups, groups.stride(0))


def soft_color_histogram(colors: Tensor, bins: int, groups: Tensor | None, num_groups: int) -> Tensor:
    """See :func:`m2o_fast.ops.soft_color_histogram`; ``[num_groups, bins^3]``."""
    require_floating("soft_color_histogram", colors)
    count, cells = colors.shape[0], bins**3
    counts = colors.new_empty((num_groups, cells), dtype=color_dtype(colors))
    units = colors.new_zeros(num_groups * (cells + 1), dtype=torch.int64)
    in_one = 2.0 ** (62 - count.bit_length())
    status = None if groups is None else Status(colors.device)
    pointer, group_stride = _grouping(colors, groups)
    with torch.cuda.device_of(colors):
        if count > 0:
            share_out[triton.cdiv(count, BLOCK),](
                colors, pointer, units, units if status is None else status.bits, count, *colors.stride(),
                group_stride, num_groups, in_one, HAS_GROUPS=groups is not None, BINS=bins, BLOCK=BLOCK,
            )  # fmt: skip
        convert[triton.cdiv(num_groups * cells, CELLS_PER_PROGRAM),](
            units, counts, num_groups, in_one, CELLS=cells, BLOCK=CELLS_PER_PROGRAM
        )
    if status is not None:
        status.raise_trouble("soft_color_histogram")
    return counts


def soft_color_histogram_backward(grad: Tensor, colors: Tensor, bins: int, groups: Tensor | None) -> Tensor:
    """The gradient of the colours; the forward pass has raised for wrong groups already."""
    grad_colors = colors.new_empty(colors.shape)
    count = colors.shape[0]
    if count == 0:
        return grad_colors
    pointer, group_stride = _grouping(colors, groups)
    with torch.cuda.device_of(colors):
        gradient[triton.cdiv(count, BLOCK),](
            grad.contiguous(), colors, pointer, grad_colors, count, *colors.stride(), group_stride, grad.shape[0],
            HAS_GROUPS=groups is not None, BINS=bins, BLOCK=BLOCK,
        )  # fmt: skip
    return grad_colors


def compile_cases() -> Iterator[CompileCase]:
    """Every kernel by dtype (fp16 is like bf16), with and without groups."""
    for element, grouped in itertools.product(("bf16", "fp32", "fp64"), (True, False)):
        constants = {"HAS_GROUPS": grouped, "BINS": 4, "BLOCK": BLOCK}
        for kernel in (share_out, gradient):
            name = f"soft_histogram.{kernel.fn.__name__}[{element}{', groups' if grouped else ''}]"
            yield case(kernel, name, element, constants)
    for element in ("fp32", "fp64"):
        constants = {"CELLS": 64, "BLOCK": CELLS_PER_PROGRAM}
        yield case(convert, f"soft_histogram.convert[{element}]", element, constants)
