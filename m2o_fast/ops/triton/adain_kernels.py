"""Triton kernels of ``adain_act`` and its backward; :mod:`.adain` launches them.

A program works on a tile: some planes by all or some of their pixels. Planes that fit into registers are read once
(``*_fused``). Larger ones are divided into parts: the first kernel reduces each part (``*_partial``), the second one
puts the parts together and reads x again (``*_finish``). There are no atomics and every sum has a fixed order, so equal
inputs give equal bits.

Both memory formats are read as they are: in NCHW the pixels of a plane are neighbours, in channels_last the planes are.
"""
# In a kernel, annotations mean something else to Triton:
# mypy: disallow-untyped-defs=False

from __future__ import annotations

import triton
import triton.language as tl

from m2o_fast.ops.triton.adain_resample_kernels import DOWN2, first_of_output, in_squares, load_gradient, put_output
from m2o_fast.ops.triton.plane_kernels import offsets_of, pixels_from, planes_of, range_of


@triton.jit
def _pixels_of(first, exists, begin, end, channels, width, CHANNELS_LAST: tl.constexpr, PIXELS: tl.constexpr,
               RESAMPLE: tl.constexpr):  # fmt: skip
    """Offsets [planes, pixels] of the pixels from ``begin`` on, and which of them exist (those before ``end``)."""
    pixel, inside = pixels_from(begin, end, exists, PIXELS)
    if RESAMPLE == DOWN2:
        pixel = in_squares(pixel, width)
    return offsets_of(first, pixel, channels, CHANNELS_LAST), inside


@triton.jit
def _part_of(first, exists, part, step, plane, channels, width, CHANNELS_LAST: tl.constexpr, PIXELS: tl.constexpr,
             PART_PIXELS: tl.constexpr, RESAMPLE: tl.constexpr):  # fmt: skip
    """Offsets of a step of a part, which of them exist, and the range that its pixels are in."""
    begin, end = range_of(part, step, plane, PART_PIXELS)
    offsets, inside = _pixels_of(first, exists, begin, end, channels, width, CHANNELS_LAST, PIXELS, RESAMPLE)
    return offsets, inside, begin, end


@triton.jit
def _number_of_part(partial, part, which, batch, channels, number, NUMBERS: tl.constexpr):
    """Where a part's number lies in ``partial`` [parts, NUMBERS, N, C]."""
    return partial + (part * NUMBERS + which) * batch * channels + number


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
    """``mean + change`` and what the rounded sum lacks; the mean of large numbers would be off by half of their ulp."""
    moved = mean + change
    return moved, change - (moved - mean)


@triton.jit
def _moments(values, inside, count):
    """Mean, its rest (see ``_moved``) and sum of squared deviations of each plane; values are 0 where not inside.

    Never the difference of two large sums: a flat plane has a variance near 0 and is amplified by up to 1/sqrt(eps).
    """
    inverse = 1 / tl.maximum(count, 1)
    mean = tl.sum(values, 1) * inverse
    deviation = tl.where(inside, values - mean[:, None], 0)
    error = tl.sum(deviation, 1) * inverse
    squares = tl.sum(deviation * deviation, 1) - error * error * count
    mean, rest = _moved(mean, error)
    return mean, rest, tl.where(squares < 0, 0, squares)


@triton.jit
def _put_statistics(mean_out, rstd_out, planes, number, exists, mean, rest, squares, count, EPS: tl.constexpr):
    rstd = 1 / tl.sqrt(squares / count + EPS)
    tl.store(mean_out + number, mean, mask=exists)
    tl.store(mean_out + planes + number, rest, mask=exists)
    tl.store(rstd_out + number, rstd, mask=exists)
    return rstd


@triton.jit
def _put_output(y, offsets, inside, first, channel, exists, begin, end, channels, width, values, mean, scale, shift,
                SLOPE: tl.constexpr, CHANNELS_LAST: tl.constexpr, PLANES: tl.constexpr, PIXELS: tl.constexpr,
                RESAMPLE: tl.constexpr):  # fmt: skip
    before = (values - mean[:, None]) * scale[:, None] + shift[:, None]
    after = tl.where(before > 0, before, before * SLOPE)
    if RESAMPLE:
        first = first_of_output(first, channel, CHANNELS_LAST, RESAMPLE)
        put_output(y, after, first, exists, begin, end, width, channels, CHANNELS_LAST, PLANES, PIXELS, RESAMPLE)
    else:
        tl.store(y + offsets, after.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _load_gradient(grad, offsets, inside, first, channel, exists, begin, end, channels, width, WIDE: tl.constexpr,
                   CHANNELS_LAST: tl.constexpr, PIXELS: tl.constexpr, RESAMPLE: tl.constexpr):  # fmt: skip
    if RESAMPLE:
        first = first_of_output(first, channel, CHANNELS_LAST, RESAMPLE)
        return load_gradient(grad, first, exists, begin, end, width, channels, WIDE, CHANNELS_LAST, PIXELS, RESAMPLE)
    else:
        return tl.load(grad + offsets, mask=inside, other=0).to(WIDE)


@triton.jit
def _before_activation(values, grad, mean, rest, scale, shift, SLOPE: tl.constexpr):
    """The deviations from the mean, and the gradient before the LeakyReLU."""
    deviation = (values - mean[:, None]) - rest[:, None]
    active = deviation * scale[:, None] + shift[:, None] > 0
    return deviation, tl.where(active, grad, grad * SLOPE)


@triton.jit
def _put_gradient(grad_x, offsets, inside, deviation, grad, scale, rstd, grad_gamma, grad_beta, count):
    along = grad_gamma * rstd / count
    result = scale[:, None] * (grad - (grad_beta / count)[:, None] - deviation * along[:, None])
    tl.store(grad_x + offsets, result.to(grad_x.dtype.element_ty), mask=inside)


@triton.jit
def forward_fused(
    x, gamma, beta, y, mean_out, rstd_out, batch, channels, plane, width, g_sample, g_channel, b_sample, b_channel,
    EPS: tl.constexpr, SLOPE: tl.constexpr, ONE_PLUS: tl.constexpr, WIDE: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    PLANES: tl.constexpr, PIXELS: tl.constexpr, RESAMPLE: tl.constexpr,
):  # fmt: skip
    """Statistics and output of whole planes."""
    number, sample, channel, exists, first = planes_of(tl.program_id(0), batch, channels, plane, CHANNELS_LAST, PLANES)
    offsets, inside = _pixels_of(first, exists, 0, plane, channels, width, CHANNELS_LAST, PIXELS, RESAMPLE)
    values = tl.load(x + offsets, mask=inside, other=0).to(WIDE)
    gain, shift = _affine(
        gamma, beta, sample, channel, exists, g_sample, g_channel, b_sample, b_channel, ONE_PLUS, WIDE
    )
    count = tl.full((), plane, WIDE)
    mean, rest, squares = _moments(values, inside, count)
    scale = gain * _put_statistics(
        mean_out, rstd_out, batch * channels, number, exists, mean, rest, squares, count, EPS
    )
    _put_output(
        y, offsets, inside, first, channel, exists, 0, plane, channels, width, values, mean, scale,
        shift - rest * scale, SLOPE, CHANNELS_LAST, PLANES, PIXELS, RESAMPLE,
    )  # fmt: skip


@triton.jit
def forward_partial(
    x, partial, batch, channels, plane, width,
    WIDE: tl.constexpr, CHANNELS_LAST: tl.constexpr, PLANES: tl.constexpr, PIXELS: tl.constexpr,
    PART_PIXELS: tl.constexpr, RESAMPLE: tl.constexpr,
):  # fmt: skip
    """Mean, its rest and sum of squared deviations of a part of each plane: ``partial`` [parts, 3, N, C]."""
    number, _, _, exists, first = planes_of(tl.program_id(0), batch, channels, plane, CHANNELS_LAST, PLANES)
    part = tl.program_id(1).to(tl.int64)
    count = tl.full((), 0, WIDE)
    mean = tl.zeros((PLANES,), WIDE)
    rest = tl.zeros((PLANES,), WIDE)
    squares = tl.zeros((PLANES,), WIDE)
    for step in range(0, PART_PIXELS, PIXELS):
        offsets, inside, begin, end = _part_of(
            first, exists, part, step, plane, channels, width, CHANNELS_LAST, PIXELS, PART_PIXELS, RESAMPLE
        )
        values = tl.load(x + offsets, mask=inside, other=0).to(WIDE)
        more = tl.maximum(tl.minimum(end - begin, PIXELS), 0).to(WIDE)
        other_mean, other_rest, other_squares = _moments(values, inside, more)
        difference = (other_mean - mean) + (other_rest - rest)
        share = more / (count + more)
        squares += other_squares + difference * difference * (count * share)
        moved, lacking = _moved(mean, rest + difference * share)
        mean = tl.where(count > 0, moved, other_mean)
        rest = tl.where(count > 0, lacking, other_rest)
        count += more
    tl.store(_number_of_part(partial, part, 0, batch, channels, number, 3), mean, mask=exists)
    tl.store(_number_of_part(partial, part, 1, batch, channels, number, 3), rest, mask=exists)
    tl.store(_number_of_part(partial, part, 2, batch, channels, number, 3), squares, mask=exists)


@triton.jit
def forward_finish(
    x, partial, gamma, beta, y, mean_out, rstd_out, batch, channels, plane, width, parts,
    g_sample, g_channel, b_sample, b_channel,
    EPS: tl.constexpr, SLOPE: tl.constexpr, ONE_PLUS: tl.constexpr, WIDE: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    PLANES: tl.constexpr, PIXELS: tl.constexpr, PART_PIXELS: tl.constexpr, PARTS: tl.constexpr,
    RESAMPLE: tl.constexpr,
):  # fmt: skip
    """Puts the parts together; output of one part of each plane."""
    number, sample, channel, exists, first = planes_of(tl.program_id(0), batch, channels, plane, CHANNELS_LAST, PLANES)
    index = tl.arange(0, PARTS).to(tl.int64)[None, :]
    there = exists[:, None] & (index < parts)
    means = tl.load(_number_of_part(partial, index, 0, batch, channels, number[:, None], 3), mask=there, other=0)
    rests = tl.load(_number_of_part(partial, index, 1, batch, channels, number[:, None], 3), mask=there, other=0)
    squares = tl.load(_number_of_part(partial, index, 2, batch, channels, number[:, None], 3), mask=there, other=0)
    counts = tl.maximum(tl.minimum(plane - index * PART_PIXELS, PART_PIXELS), 0).to(WIDE)
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
    leads = exists & (number * 0 + part == 0)
    scale = gain * _put_statistics(mean_out, rstd_out, batch * channels, number, leads, mean, rest, total, count, EPS)
    shift -= rest * scale
    for step in range(0, PART_PIXELS, PIXELS):
        offsets, inside, begin, end = _part_of(
            first, exists, part, step, plane, channels, width, CHANNELS_LAST, PIXELS, PART_PIXELS, RESAMPLE
        )
        values = tl.load(x + offsets, mask=inside, other=0).to(WIDE)
        _put_output(
            y, offsets, inside, first, channel, exists, begin, end, channels, width, values, mean, scale, shift,
            SLOPE, CHANNELS_LAST, PLANES, PIXELS, RESAMPLE,
        )  # fmt: skip


@triton.jit
def backward_fused(
    grad, x, gamma, beta, mean_in, rstd_in, grad_x, grad_gamma, grad_beta, batch, channels, plane, width,
    g_sample, g_channel, b_sample, b_channel,
    SLOPE: tl.constexpr, ONE_PLUS: tl.constexpr, WIDE: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    PLANES: tl.constexpr, PIXELS: tl.constexpr, RESAMPLE: tl.constexpr,
):  # fmt: skip
    """All gradients of whole planes."""
    number, sample, channel, exists, first = planes_of(tl.program_id(0), batch, channels, plane, CHANNELS_LAST, PLANES)
    offsets, inside = _pixels_of(first, exists, 0, plane, channels, width, CHANNELS_LAST, PIXELS, 0)
    values = tl.load(x + offsets, mask=inside, other=0).to(WIDE)
    outer = _load_gradient(
        grad, offsets, inside, first, channel, exists, 0, plane, channels, width, WIDE, CHANNELS_LAST, PIXELS, RESAMPLE
    )
    gain, shift = _affine(
        gamma, beta, sample, channel, exists, g_sample, g_channel, b_sample, b_channel, ONE_PLUS, WIDE
    )
    mean = tl.load(mean_in + number, mask=exists, other=0)
    rest = tl.load(mean_in + batch * channels + number, mask=exists, other=0)
    rstd = tl.load(rstd_in + number, mask=exists, other=0)
    scale = gain * rstd
    deviation, inner = _before_activation(values, outer, mean, rest, scale, shift, SLOPE)
    sum_beta = tl.sum(inner, 1)
    sum_gamma = tl.sum(inner * deviation, 1) * rstd
    tl.store(grad_beta + number, sum_beta, mask=exists)
    tl.store(grad_gamma + number, sum_gamma, mask=exists)
    count = tl.full((), plane, WIDE)
    _put_gradient(grad_x, offsets, inside, deviation, inner, scale, rstd, sum_gamma, sum_beta, count)


@triton.jit
def backward_partial(
    grad, x, gamma, beta, mean_in, rstd_in, partial, batch, channels, plane, width,
    g_sample, g_channel, b_sample, b_channel,
    SLOPE: tl.constexpr, ONE_PLUS: tl.constexpr, WIDE: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    PLANES: tl.constexpr, PIXELS: tl.constexpr, PART_PIXELS: tl.constexpr, RESAMPLE: tl.constexpr,
):  # fmt: skip
    """Gradients of beta and gamma over a part of each plane: ``partial`` [parts, 2, N, C]."""
    number, sample, channel, exists, first = planes_of(tl.program_id(0), batch, channels, plane, CHANNELS_LAST, PLANES)
    gain, shift = _affine(
        gamma, beta, sample, channel, exists, g_sample, g_channel, b_sample, b_channel, ONE_PLUS, WIDE
    )
    mean = tl.load(mean_in + number, mask=exists, other=0)
    rest = tl.load(mean_in + batch * channels + number, mask=exists, other=0)
    rstd = tl.load(rstd_in + number, mask=exists, other=0)
    part = tl.program_id(1).to(tl.int64)
    sum_beta = tl.zeros((PLANES,), WIDE)
    sum_gamma = tl.zeros((PLANES,), WIDE)
    for step in range(0, PART_PIXELS, PIXELS):
        offsets, inside, begin, end = _part_of(
            first, exists, part, step, plane, channels, width, CHANNELS_LAST, PIXELS, PART_PIXELS, 0
        )
        values = tl.load(x + offsets, mask=inside, other=0).to(WIDE)
        outer = _load_gradient(
            grad, offsets, inside, first, channel, exists, begin, end, channels, width, WIDE, CHANNELS_LAST, PIXELS,
            RESAMPLE,
        )  # fmt: skip
        deviation, inner = _before_activation(values, outer, mean, rest, gain * rstd, shift, SLOPE)
        sum_beta += tl.sum(inner, 1)
        sum_gamma += tl.sum(inner * deviation, 1)
    tl.store(_number_of_part(partial, part, 0, batch, channels, number, 2), sum_beta, mask=exists)
    tl.store(_number_of_part(partial, part, 1, batch, channels, number, 2), sum_gamma * rstd, mask=exists)


@triton.jit
def backward_finish(
    grad, x, partial, gamma, beta, mean_in, rstd_in, grad_x, grad_gamma, grad_beta, batch, channels, plane, width,
    parts, g_sample, g_channel, b_sample, b_channel,
    SLOPE: tl.constexpr, ONE_PLUS: tl.constexpr, WIDE: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    PLANES: tl.constexpr, PIXELS: tl.constexpr, PART_PIXELS: tl.constexpr, PARTS: tl.constexpr,
    RESAMPLE: tl.constexpr,
):  # fmt: skip
    """Puts the parts together; gradient of x over one part of each plane."""
    number, sample, channel, exists, first = planes_of(tl.program_id(0), batch, channels, plane, CHANNELS_LAST, PLANES)
    index = tl.arange(0, PARTS).to(tl.int64)[None, :]
    there = exists[:, None] & (index < parts)
    betas = tl.load(_number_of_part(partial, index, 0, batch, channels, number[:, None], 2), mask=there, other=0)
    gammas = tl.load(_number_of_part(partial, index, 1, batch, channels, number[:, None], 2), mask=there, other=0)
    sum_beta = tl.sum(betas, 1)
    sum_gamma = tl.sum(gammas, 1)
    part = tl.program_id(1).to(tl.int64)
    leads = exists & (number * 0 + part == 0)
    tl.store(grad_beta + number, sum_beta, mask=leads)
    tl.store(grad_gamma + number, sum_gamma, mask=leads)
    gain, shift = _affine(
        gamma, beta, sample, channel, exists, g_sample, g_channel, b_sample, b_channel, ONE_PLUS, WIDE
    )
    mean = tl.load(mean_in + number, mask=exists, other=0)
    rest = tl.load(mean_in + batch * channels + number, mask=exists, other=0)
    rstd = tl.load(rstd_in + number, mask=exists, other=0)
    scale = gain * rstd
    count = tl.full((), plane, WIDE)
    for step in range(0, PART_PIXELS, PIXELS):
        offsets, inside, begin, end = _part_of(
            first, exists, part, step, plane, channels, width, CHANNELS_LAST, PIXELS, PART_PIXELS, 0
        )
        values = tl.load(x + offsets, mask=inside, other=0).to(WIDE)
        outer = _load_gradient(
            grad, offsets, inside, first, channel, exists, begin, end, channels, width, WIDE, CHANNELS_LAST, PIXELS,
            RESAMPLE,
        )  # fmt: skip
        deviation, inner = _before_activation(values, outer, mean, rest, scale, shift, SLOPE)
        _put_gradient(grad_x, offsets, inside, deviation, inner, scale, rstd, sum_gamma, sum_beta, count)
