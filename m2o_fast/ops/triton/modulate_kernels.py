"""Triton kernels of ``scale_bias_act`` and its backward; :mod:`.modulate` launches them.

A program works on a tile: some planes by a part of their pixels. Everything is read once, in either memory format as it
is. Where a plane has several parts, backward leaves the sums of each; there are no atomics.
"""
# In a kernel, annotations mean something else to Triton:
# mypy: disallow-untyped-defs=False

from __future__ import annotations

import triton
import triton.language as tl

from m2o_fast.ops.triton.plane_kernels import offsets_of, pixels_from, planes_of, range_of


@triton.jit
def _vector(vector, sample, channel, exists, sample_stride, channel_stride, ABSENT: tl.constexpr, WIDE: tl.constexpr):
    """Number of each plane, [planes, 1]; the strides may be 0, and there may be no vector at all."""
    if vector is None:
        numbers = tl.full(channel.shape, ABSENT, WIDE)
    else:
        numbers = tl.load(vector + sample * sample_stride + channel * channel_stride, mask=exists, other=0).to(WIDE)
    return numbers[:, None]


@triton.jit
def _put_sums(gradient, part, batch, channels, number, exists, sums):
    """Into ``gradient`` [parts, N, C], if there is one."""
    if gradient is not None:
        tl.store(gradient + part * batch * channels + number, sums, mask=exists)


@triton.jit
def forward_kernel(
    x, scale, bias, next_scale, y, batch, channels, plane,
    s_sample, s_channel, b_sample, b_channel, n_sample, n_channel,
    SLOPE: tl.constexpr, WIDE: tl.constexpr, CHANNELS_LAST: tl.constexpr, PLANES: tl.constexpr, PIXELS: tl.constexpr,
    PART_PIXELS: tl.constexpr,
):  # fmt: skip
    """``LeakyReLU(x * scale + bias) * next_scale`` of a part of each plane."""
    number, sample, channel, exists, first = planes_of(tl.program_id(0), batch, channels, plane, CHANNELS_LAST, PLANES)
    part = tl.program_id(1).to(tl.int64)
    factor = _vector(scale, sample, channel, exists, s_sample, s_channel, 1, WIDE)
    shift = _vector(bias, sample, channel, exists, b_sample, b_channel, 0, WIDE)
    following = _vector(next_scale, sample, channel, exists, n_sample, n_channel, 1, WIDE)
    for step in range(0, PART_PIXELS, PIXELS):
        begin, end = range_of(part, step, plane, PART_PIXELS)
        pixel, inside = pixels_from(begin, end, exists, PIXELS)
        offsets = offsets_of(first, pixel, channels, CHANNELS_LAST)
        before = tl.load(x + offsets, mask=inside, other=0).to(WIDE) * factor + shift
        after = tl.where(before > 0, before, before * SLOPE) * following
        tl.store(y + offsets, after.to(y.dtype.element_ty), mask=inside)


@triton.jit
def backward_kernel(
    grad, x, scale, bias, next_scale, grad_x, grad_scale, grad_bias, grad_next, batch, channels, plane,
    s_sample, s_channel, b_sample, b_channel, n_sample, n_channel,
    SLOPE: tl.constexpr, WIDE: tl.constexpr, CHANNELS_LAST: tl.constexpr, PLANES: tl.constexpr, PIXELS: tl.constexpr,
    PART_PIXELS: tl.constexpr,
):  # fmt: skip
    """Gradient of x, and sums over a part of each plane for those of the vectors: [parts, N, C]."""
    number, sample, channel, exists, first = planes_of(tl.program_id(0), batch, channels, plane, CHANNELS_LAST, PLANES)
    part = tl.program_id(1).to(tl.int64)
    factor = _vector(scale, sample, channel, exists, s_sample, s_channel, 1, WIDE)
    shift = _vector(bias, sample, channel, exists, b_sample, b_channel, 0, WIDE)
    following = _vector(next_scale, sample, channel, exists, n_sample, n_channel, 1, WIDE)
    sum_scale = tl.zeros((PLANES,), WIDE)
    sum_bias = tl.zeros((PLANES,), WIDE)
    sum_next = tl.zeros((PLANES,), WIDE)
    for step in range(0, PART_PIXELS, PIXELS):
        begin, end = range_of(part, step, plane, PART_PIXELS)
        pixel, inside = pixels_from(begin, end, exists, PIXELS)
        offsets = offsets_of(first, pixel, channels, CHANNELS_LAST)
        values = tl.load(x + offsets, mask=inside, other=0).to(WIDE)
        outer = tl.load(grad + offsets, mask=inside, other=0).to(WIDE)
        before = values * factor + shift
        active = before > 0
        inner = tl.where(active, outer, outer * SLOPE) * following
        tl.store(grad_x + offsets, (inner * factor).to(grad_x.dtype.element_ty), mask=inside)
        # An infinite vector must not make numbers out of pixels that do not exist.
        sum_scale += tl.sum(tl.where(inside, inner * values, 0), 1)
        sum_bias += tl.sum(tl.where(inside, inner, 0), 1)
        sum_next += tl.sum(tl.where(inside, outer * tl.where(active, before, before * SLOPE), 0), 1)
    _put_sums(grad_scale, part, batch, channels, number, exists, sum_scale)
    _put_sums(grad_bias, part, batch, channels, number, exists, sum_bias)
    _put_sums(grad_next, part, batch, channels, number, exists, sum_next)
