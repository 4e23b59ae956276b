"""Triton kernels of ``adain_act`` and its backward.

A program works on a tile: some planes by all or some of their pixels. Planes that fit into registers are read once
(``*_fused``). Larger ones are divided into parts: the first kernel reduces each part (``*_partial``), the second one puts
the parts together and reads x again (``*_finish``). There are no atomics and every sum has a fixed order, so equal inputs
give equal bits.

Both memory formats are read as they are: in NCHW the pixels of a plane are neighbours, in channels_last the planes are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from m2o_fast.ops._library import in_format, is_channels_last, output_format
from m2o_fast.ops.triton import CompileCase

# --- device side ------------------------------------------------------------------------------------------------------


@triton.jit
def _planes_of(tile, batch, channels, plane, CHANNELS_LAST: tl.constexpr, PLANES: tl.constexpr):
    """The planes of a tile: their number in [N, C], sample, channel, whether they exist, offset of their first pixel."""
    tile = tile.to(tl.int64)
    if CHANNELS_LAST:
        per_sample = tl.cdiv(channels, PLANES)
        channel = tile % per_sample * PLANES + tl.arange(0, PLANES)
        exists = channel < channels
        sample = tl.zeros_like(channel) + tile // per_sample
        number = sample * channels + channel
        first = sample * plane * channels + channel
    else:
        number = tile * PLANES + tl.arange(0, PLANES)
        sample = number // channels
        exists = sample < batch
        channel = number - sample * channels
        first = number * plane
    return number, sample, channel, exists, first


@triton.jit
def _pixels_of(first, exists, begin, end, channels, CHANNELS_LAST: tl.constexpr, PIXELS: tl.constexpr):
    """Offsets [planes, pixels] of the pixels from ``begin`` on, and which of them exist (those before ``end``)."""
    pixel = begin + tl.arange(0, PIXELS).to(tl.int64)
    inside = exists[:, None] & (pixel < end)[None, :]
    if CHANNELS_LAST:
        return first[:, None] + (pixel * channels)[None, :], inside
    else:
        return first[:, None] + pixel[None, :], inside


@triton.jit
def _affine(gamma, beta, sample, channel, exists, g_sample, g_channel, b_sample, b_channel, ONE_PLUS: tl.constexpr,
            WIDE: tl.constexpr):  # fmt: skip
    """Gain and shift of each plane; the strides may be 0."""
    gain = tl.load(gamma + sample * g_sample + channel * g_channel, mask=exists, other=0).to(WIDE)
    if ONE_PLUS:
        gain += 1
    return gain, tl.load(beta + sample * b_sample + channel * b_channel, mask=exists, other=0).to(WIDE)


@triton.jit
def _moved(mean, change):
    """``mean + change``, and what the rounded sum lacks: the mean of large numbers can be off by as much as they are."""
    moved = mean + change
    return moved, change - (moved - mean)


@triton.jit
def _moments(values, inside, count):
    """Mean, its rest (see ``_moved``) and sum of squared deviations of each plane; values are 0 where not inside.

    Never the difference of two large sums: a flat plane has a variance near 0 and is amplified by up to 1/sqrt(eps).
    """
    mean = tl.sum(values, 1) / count
    deviation = tl.where(inside, values - mean[:, None], 0)
    error = tl.sum(deviation, 1) / count
    squares = tl.sum(deviation * deviation, 1) - error * error * count
    mean, rest = _moved(mean, error)
    return mean, rest, tl.where(squares < 0, 0, squares)


@triton.jit
def _put_statistics(mean_out, rstd_out, number, exists, mean, squares, count, EPS: tl.constexpr):
    rstd = 1 / tl.sqrt(squares / count + EPS)
    tl.store(mean_out + number, mean, mask=exists)
    tl.store(rstd_out + number, rstd, mask=exists)
    return rstd


@triton.jit
def _put_output(y, offsets, inside, values, mean, scale, shift, SLOPE: tl.constexpr):
    before = (values - mean[:, None]) * scale[:, None] + shift[:, None]
    after = tl.where(before > 0, before, before * SLOPE)
    tl.store(y + offsets, after.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _before_activation(values, grad, mean, scale, shift, SLOPE: tl.constexpr):
    """The deviations from the mean, and the gradient before the LeakyReLU."""
    deviation = values - mean[:, None]
    active = deviation * scale[:, None] + shift[:, None] > 0
    return deviation, tl.where(active, grad, grad * SLOPE)


@triton.jit
def _put_gradient(grad_x, offsets, inside, deviation, grad, scale, rstd, grad_gamma, grad_beta, count):
    along = grad_gamma * rstd / count
    result = scale[:, None] * (grad - (grad_beta / count)[:, None] - deviation * along[:, None])
    tl.store(grad_x + offsets, result.to(grad_x.dtype.element_ty), mask=inside)


@triton.jit
def forward_fused(
    x, gamma, beta, y, mean_out, rstd_out, batch, channels, plane, g_sample, g_channel, b_sample, b_channel,
    EPS: tl.constexpr, SLOPE: tl.constexpr, ONE_PLUS: tl.constexpr, WIDE: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    PLANES: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Statistics and output of whole planes."""
    number, sample, channel, exists, first = _planes_of(
        tl.program_id(0), batch, channels, plane, CHANNELS_LAST, PLANES
    )
    offsets, inside = _pixels_of(first, exists, 0, plane, channels, CHANNELS_LAST, PIXELS)
    values = tl.load(x + offsets, mask=inside, other=0).to(WIDE)
    gain, shift = _affine(
        gamma, beta, sample, channel, exists, g_sample, g_channel, b_sample, b_channel, ONE_PLUS, WIDE
    )
    count = tl.full((), plane, WIDE)
    mean, rest, squares = _moments(values, inside, count)
    scale = gain * _put_statistics(mean_out, rstd_out, number, exists, mean, squares, count, EPS)
    _put_output(y, offsets, inside, values, mean, scale, shift - rest * scale, SLOPE)


@triton.jit
def forward_partial(
    x, partial, batch, channels, plane, part_pixels,
    WIDE: tl.constexpr, CHANNELS_LAST: tl.constexpr, PLANES: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Mean, its rest and sum of squared deviations of a part of each plane: ``partial`` [parts, 3, N, C]."""
    number, _, _, exists, first = _planes_of(tl.program_id(0), batch, channels, plane, CHANNELS_LAST, PLANES)
    part = tl.program_id(1).to(tl.int64)
    begin = part * part_pixels
    end = tl.minimum(begin + part_pixels, plane)
    count = tl.full((), 0, WIDE)
    mean = tl.zeros((PLANES,), WIDE)
    rest = tl.zeros((PLANES,), WIDE)
    squares = tl.zeros((PLANES,), WIDE)
    for at in range(begin, end, PIXELS):
        offsets, inside = _pixels_of(first, exists, at, end, channels, CHANNELS_LAST, PIXELS)
        values = tl.load(x + offsets, mask=inside, other=0).to(WIDE)
        more = tl.minimum(end - at, PIXELS).to(WIDE)
        other_mean, other_rest, other_squares = _moments(values, inside, more)
        difference = (other_mean - mean) + (other_rest - rest)
        share = more / (count + more)
        squares += other_squares + difference * difference * (count * share)
        mean, rest = _moved(mean, rest + difference * share)
        count += more
    place = partial + part * 3 * batch * channels + number
    tl.store(place, mean, mask=exists)
    tl.store(place + tl.full((), 1, tl.int64) * batch * channels, rest, mask=exists)
    tl.store(place + tl.full((), 2, tl.int64) * batch * channels, squares, mask=exists)


@triton.jit
def forward_finish(
    x, partial, gamma, beta, y, mean_out, rstd_out, batch, channels, plane, part_pixels, parts,
    g_sample, g_channel, b_sample, b_channel,
    EPS: tl.constexpr, SLOPE: tl.constexpr, ONE_PLUS: tl.constexpr, WIDE: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    PLANES: tl.constexpr, PIXELS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Puts the parts together; output of one part of each plane."""
    number, sample, channel, exists, first = _planes_of(
        tl.program_id(0), batch, channels, plane, CHANNELS_LAST, PLANES
    )
    index = tl.arange(0, PARTS).to(tl.int64)
    there = exists[:, None] & (index < parts)[None, :]
    places = partial + number[:, None] + (index * 3 * batch * channels)[None, :]
    means = tl.load(places, mask=there, other=0)
    rests = tl.load(places + tl.full((), 1, tl.int64) * batch * channels, mask=there, other=0)
    squares = tl.load(places + tl.full((), 2, tl.int64) * batch * channels, mask=there, other=0)
    counts = tl.maximum(tl.minimum(plane - index * part_pixels, part_pixels), 0).to(WIDE)[None, :]
    count = tl.full((), plane, WIDE)
    mean = tl.sum(means * counts, 1) / count
    differences = (means - mean[:, None]) + rests
    error = tl.sum(differences * counts, 1) / count
    total = tl.sum(squares + differences * differences * counts, 1) - error * error * count
    mean, rest = _moved(mean, error)
    part = tl.program_id(1).to(tl.int64)
    gain, shift = _affine(
        gamma, beta, sample, channel, exists, g_sample, g_channel, b_sample, b_channel, ONE_PLUS, WIDE
    )
    total = tl.where(total < 0, 0, total)
    scale = gain * _put_statistics(mean_out, rstd_out, number, exists & (part == 0), mean, total, count, EPS)
    shift -= rest * scale
    begin = part * part_pixels
    end = tl.minimum(begin + part_pixels, plane)
    for at in range(begin, end, PIXELS):
        offsets, inside = _pixels_of(first, exists, at, end, channels, CHANNELS_LAST, PIXELS)
        values = tl.load(x + offsets, mask=inside, other=0).to(WIDE)
        _put_output(y, offsets, inside, values, mean, scale, shift, SLOPE)


@triton.jit
def backward_fused(
    grad, x, gamma, beta, mean_in, rstd_in, grad_x, grad_gamma, grad_beta, batch, channels, plane,
    g_sample, g_channel, b_sample, b_channel,
    SLOPE: tl.constexpr, ONE_PLUS: tl.constexpr, WIDE: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    PLANES: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """All gradients of whole planes."""
    number, sample, channel, exists, first = _planes_of(
        tl.program_id(0), batch, channels, plane, CHANNELS_LAST, PLANES
    )
    offsets, inside = _pixels_of(first, exists, 0, plane, channels, CHANNELS_LAST, PIXELS)
    values = tl.load(x + offsets, mask=inside, other=0).to(WIDE)
    outer = tl.load(grad + offsets, mask=inside, other=0).to(WIDE)
    gain, shift = _affine(
        gamma, beta, sample, channel, exists, g_sample, g_channel, b_sample, b_channel, ONE_PLUS, WIDE
    )
    mean = tl.load(mean_in + number, mask=exists, other=0)
    rstd = tl.load(rstd_in + number, mask=exists, other=0)
    scale = gain * rstd
    deviation, inner = _before_activation(values, outer, mean, scale, shift, SLOPE)
    sum_beta = tl.sum(inner, 1)
    sum_gamma = tl.sum(inner * deviation, 1) * rstd
    tl.store(grad_beta + number, sum_beta, mask=exists)
    tl.store(grad_gamma + number, sum_gamma, mask=exists)
    count = tl.full((), plane, WIDE)
    _put_gradient(grad_x, offsets, inside, deviation, inner, scale, rstd, sum_gamma, sum_beta, count)


@triton.jit
def backward_partial(
    grad, x, gamma, beta, mean_in, rstd_in, partial, batch, channels, plane, part_pixels,
    g_sample, g_channel, b_sample, b_channel,
    SLOPE: tl.constexpr, ONE_PLUS: tl.constexpr, WIDE: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    PLANES: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Gradients of beta and gamma over a part of each plane: ``partial`` [parts, 2, N, C]."""
    number, sample, channel, exists, first = _planes_of(
        tl.program_id(0), batch, channels, plane, CHANNELS_LAST, PLANES
    )
    gain, shift = _affine(
        gamma, beta, sample, channel, exists, g_sample, g_channel, b_sample, b_channel, ONE_PLUS, WIDE
    )
    mean = tl.load(mean_in + number, mask=exists, other=0)
    rstd = tl.load(rstd_in + number, mask=exists, other=0)
    part = tl.program_id(1).to(tl.int64)
    begin = part * part_pixels
    end = tl.minimum(begin + part_pixels, plane)
    sum_beta = tl.zeros((PLANES,), WIDE)
    sum_gamma = tl.zeros((PLANES,), WIDE)
    for at in range(begin, end, PIXELS):
        offsets, inside = _pixels_of(first, exists, at, end, channels, CHANNELS_LAST, PIXELS)
        values = tl.load(x + offsets, mask=inside, other=0).to(WIDE)
        outer = tl.load(grad + offsets, mask=inside, other=0).to(WIDE)
        deviation, inner = _before_activation(values, outer, mean, gain * rstd, shift, SLOPE)
        sum_beta += tl.sum(inner, 1)
        sum_gamma += tl.sum(inner * deviation, 1)
    place = partial + part * 2 * batch * channels + number
    tl.store(place, sum_beta, mask=exists)
    tl.store(place + tl.full((), 1, tl.int64) * batch * channels, sum_gamma * rstd, mask=exists)


@triton.jit
def backward_finish(
    grad, x, partial, gamma, beta, mean_in, rstd_in, grad_x, grad_gamma, grad_beta, batch, channels, plane,
    part_pixels, parts, g_sample, g_channel, b_sample, b_channel,
    SLOPE: tl.constexpr, ONE_PLUS: tl.constexpr, WIDE: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    PLANES: tl.constexpr, PIXELS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Puts the parts together; gradient of x over one part of each plane."""
    number, sample, channel, exists, first = _planes_of(
        tl.program_id(0), batch, channels, plane, CHANNELS_LAST, PLANES
    )
    index = tl.arange(0, PARTS).to(tl.int64)
    there = exists[:, None] & (index < parts)[None, :]
    places = partial + number[:, None] + (index * 2 * batch * channels)[None, :]
    sum_beta = tl.sum(tl.load(places, mask=there, other=0), 1)
    sum_gamma = tl.sum(tl.load(places + tl.full((), 1, tl.int64) * batch * channels, mask=there, other=0), 1)
    part = tl.program_id(1).to(tl.int64)
    tl.store(grad_beta + number, sum_beta, mask=exists & (part == 0))
    tl.store(grad_gamma + number, sum_gamma, mask=exists & (part == 0))
    gain, shift = _affine(
        gamma, beta, sample, channel, exists, g_sample, g_channel, b_sample, b_channel, ONE_PLUS, WIDE
    )
    mean = tl.load(mean_in + number, mask=exists, other=0)
    rstd = tl.load(rstd_in + number, mask=exists, other=0)
    scale = gain * rstd
    count = tl.full((), plane, WIDE)
    begin = part * part_pixels
    end = tl.minimum(begin + part_pixels, plane)
    for at in range(begin, end, PIXELS):
        offsets, inside = _pixels_of(first, exists, at, end, channels, CHANNELS_LAST, PIXELS)
        values = tl.load(x + offsets, mask=inside, other=0).to(WIDE)
        outer = tl.load(grad + offsets, mask=inside, other=0).to(WIDE)
        deviation, inner = _before_activation(values, outer, mean, scale, shift, SLOPE)
        _put_gradient(grad_x, offsets, inside, deviation, inner, scale, rstd, sum_gamma, sum_beta, count)


# --- host side --------------------------------------------------------------------------------------------------------

MOST_PARTS = 64
ENOUGH_PROGRAMS = 1024


class _Plan(NamedTuple):
    """How a call is divided among programs."""

    planes: int  # of a tile
    pixels: int
    parts: int  # of a plane; 0: the tile holds whole planes
    part_pixels: int
    tiles: int
    channels_last: bool

    @property
    def warps(self) -> int:
        return min(max(self.planes * self.pixels // 512, 4), 16)

    @property
    def constants(self) -> dict[str, Any]:
        return {"CHANNELS_LAST": self.channels_last, "PLANES": self.planes, "PIXELS": self.pixels}


def _plan(batch: int, channels: int, plane: int, channels_last: bool, element_bytes: int, tensors: int) -> _Plan:
    """Divides a call; ``tensors`` are read per element (x, and in the backward pass the gradient)."""
    registers = 16384 // tensors // (2 if element_bytes == 8 else 1)  # numbers that a program keeps without spilling
    pixels = triton.next_power_of_2(plane)
    if channels_last:
        # Neighbouring channels that make up a cache line; at least a sector of it.
        planes, fewest = 128 // element_bytes, 32 // element_bytes
        while planes > fewest and planes * pixels > registers:
            planes //= 2
        planes = min(planes, triton.next_power_of_2(channels))
    else:
        planes = max(1, min(triton.next_power_of_2(batch * channels), 2048 // pixels))
    fused = planes * pixels <= registers
    if not fused:
        planes = min(128 // element_bytes, triton.next_power_of_2(channels)) if channels_last else 1
        pixels = 4096 // planes
    tiles = batch * triton.cdiv(channels, planes) if channels_last else triton.cdiv(batch * channels, planes)
    if fused:
        return _Plan(planes, pixels, 0, plane, tiles, channels_last)
    parts = max(1, min(MOST_PARTS, ENOUGH_PROGRAMS // tiles, triton.cdiv(plane, pixels)))
    part_pixels = triton.cdiv(triton.cdiv(plane, parts), pixels) * pixels
    return _Plan(planes, pixels, triton.cdiv(plane, part_pixels), part_pixels, tiles, channels_last)


def _plan_for(x: Tensor, tensors: int) -> _Plan:
    batch, channels, height, width = x.shape
    return _plan(batch, channels, height * width, is_channels_last(x), x.element_size(), tensors)


def _affine_strides(gamma: Tensor, beta: Tensor) -> tuple[int, int, int, int]:
    """Strides over samples and channels of gamma and of beta, each ``[N, C]`` or ``[C]``."""
    g_sample, g_channel = gamma.stride() if gamma.dim() == 2 else (0, gamma.stride(0))
    b_sample, b_channel = beta.stride() if beta.dim() == 2 else (0, beta.stride(0))
    return g_sample, g_channel, b_sample, b_channel


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the statistics and of all arithmetic."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _wide_in_kernel(dtype: torch.dtype) -> Any:
    return tl.float64 if dtype == torch.float64 else tl.float32


def adain_act_forward(
    x: Tensor, gamma: Tensor, beta: Tensor, eps: float, slope: float, one_plus: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """y, mean and rstd of ``adain_act``; shapes and dtypes as in :mod:`m2o_fast.ops.adain`."""
    x = in_format(x, output_format(x))
    y = torch.empty_like(x)
    mean, rstd = (x.new_empty(x.shape[:2], dtype=_wide(x.dtype)) for _ in range(2))
    if x.numel() == 0:  # the reference divides the sum of no pixels by 1
        return y, mean.zero_(), rstd.fill_(eps).rsqrt_()
    plan = _plan_for(x, tensors=1)
    sizes = (x.shape[0], x.shape[1], x.shape[2] * x.shape[3])
    strides = _affine_strides(gamma, beta)
    constants = {"WIDE": _wide_in_kernel(x.dtype), **plan.constants}
    activation = {"EPS": eps, "SLOPE": slope, "ONE_PLUS": one_plus}
    with torch.cuda.device_of(x):
        if plan.parts == 0:
            forward_fused[plan.tiles,](
                x, gamma, beta, y, mean, rstd, *sizes, *strides, **activation, **constants, num_warps=plan.warps
            )
            return y, mean, rstd
        grid = (plan.tiles, plan.parts)
        partial = x.new_empty((plan.parts, 3, *x.shape[:2]), dtype=_wide(x.dtype))
        forward_partial[grid](x, partial, *sizes, plan.part_pixels, **constants, num_warps=plan.warps)
        forward_finish[grid](
            x, partial, gamma, beta, y, mean, rstd, *sizes, plan.part_pixels, plan.parts, *strides,
            **activation, **constants, PARTS=triton.next_power_of_2(plan.parts), num_warps=plan.warps,
        )  # fmt: skip
    return y, mean, rstd


def adain_act_backward(
    grad: Tensor, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, rstd: Tensor, slope: float, one_plus: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, gamma and beta; those of gamma and beta are per sample, ``[N, C]``."""
    x, grad = in_format(x, output_format(x)), in_format(grad.to(x.dtype), output_format(x))
    mean, rstd = mean.contiguous(), rstd.contiguous()
    grad_x = torch.empty_like(x)
    grad_gamma, grad_beta = torch.empty_like(mean), torch.empty_like(mean)
    if x.numel() == 0:
        return grad_x, grad_gamma.zero_(), grad_beta.zero_()
    plan = _plan_for(x, tensors=2)
    sizes = (x.shape[0], x.shape[1], x.shape[2] * x.shape[3])
    strides = _affine_strides(gamma, beta)
    constants = {"SLOPE": slope, "ONE_PLUS": one_plus, "WIDE": _wide_in_kernel(x.dtype), **plan.constants}
    inputs = (gamma, beta, mean, rstd)
    outputs = (grad_x, grad_gamma, grad_beta)
    with torch.cuda.device_of(x):
        if plan.parts == 0:
            backward_fused[plan.tiles,](
                grad, x, *inputs, *outputs, *sizes, *strides, **constants, num_warps=plan.warps
            )
            return outputs
        grid = (plan.tiles, plan.parts)
        partial = x.new_empty((plan.parts, 2, *x.shape[:2]), dtype=mean.dtype)
        backward_partial[grid](
            grad, x, *inputs, partial, *sizes, plan.part_pixels, *strides, **constants, num_warps=plan.warps
        )
        backward_finish[grid](
            grad, x, partial, *inputs, *outputs, *sizes, plan.part_pixels, plan.parts, *strides,
            **constants, PARTS=triton.next_power_of_2(plan.parts), num_warps=plan.warps,
        )  # fmt: skip
    return outputs
