"""Triton kernels that fit colours to images, count colours and count distinct ones; :mod:`.histogram` launches them.

Sums of floating-point numbers have a fixed order and all atomics are on integers, so equal inputs give equal bits.
"""
# In a kernel, annotations mean something else to Triton:
# mypy: disallow-untyped-defs=False

from __future__ import annotations

import triton
import triton.language as tl

LARGEST = tl.constexpr(1.7976931348623157e308)
TO_INTEGER = tl.constexpr(6755399441055744.0)  # 1.5 * 2^52: float64 numbers of this size have no fractions


@triton.jit
def is_finite(value):
    """Whether float64 numbers are neither NaN nor infinite."""
    return tl.abs(value) <= LARGEST


@triton.jit
def note(status, inside, bad, BIT: tl.constexpr):
    """Sets a bit of the int32 ``status`` if one of the numbers inside is bad."""
    trouble = tl.max((inside & bad).to(tl.int32), 0) * BIT
    tl.atomic_or(status, trouble, mask=trouble != 0, sem="relaxed")


@triton.jit
def _offset_of(pixel, width, row_stride, column_stride, ONE_RUN: tl.constexpr):
    """Where pixels of an image are; ``ONE_RUN``: all of them are evenly spaced."""
    if ONE_RUN:
        return pixel * column_stride
    else:
        row = pixel // width
        return row * row_stride + (pixel - row * width) * column_stride


@triton.jit
def fit_parts(
    images, content, partial, pixels, width, parts,
    image_stride, channel_stride, row_stride, column_stride, content_stride, content_row, content_column,
    HAS_CONTENT: tl.constexpr, ONE_RUN: tl.constexpr, CONTENT_RUN: tl.constexpr, PART_PIXELS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums over a part of an image, ``partial`` [N, parts, 4]: content * channel for three channels, content^2."""
    item = tl.program_id(0).to(tl.int64)
    image = item // parts
    begin = (item - image * parts) * PART_PIXELS
    end = tl.minimum(begin + PART_PIXELS, pixels)
    red_sum = tl.zeros((BLOCK,), tl.float64)
    green_sum = tl.zeros((BLOCK,), tl.float64)
    blue_sum = tl.zeros((BLOCK,), tl.float64)
    square_sum = tl.zeros((BLOCK,), tl.float64)
    for step in range(0, PART_PIXELS, BLOCK):
        pixel = begin + step + tl.arange(0, BLOCK)
        inside = pixel < end
        at = images + image * image_stride + _offset_of(pixel, width, row_stride, column_stride, ONE_RUN)
        red = tl.load(at, mask=inside, other=0).to(tl.float64)
        green = tl.load(at + channel_stride, mask=inside, other=0).to(tl.float64)
        blue = tl.load(at + 2 * channel_stride, mask=inside, other=0).to(tl.float64)
        if HAS_CONTENT:
            place = _offset_of(pixel, width, content_row, content_column, CONTENT_RUN)
            weight = tl.load(content + image * content_stride + place, mask=inside, other=0).to(tl.float64)
        else:
            weight = tl.maximum(tl.maximum(red, green), blue)
        red_sum += weight * red
        green_sum += weight * green
        blue_sum += weight * blue
        square_sum += weight * weight
    tl.store(partial + 4 * item, tl.sum(red_sum, 0))
    tl.store(partial + 4 * item + 1, tl.sum(green_sum, 0))
    tl.store(partial + 4 * item + 2, tl.sum(blue_sum, 0))
    tl.store(partial + 4 * item + 3, tl.sum(square_sum, 0))


@triton.jit
def fit_finish(partial, colors, count, parts, BLOCK: tl.constexpr):
    """Colours [N, 3] from the sums of the parts, which are added up in their order."""
    image = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = image < count
    red = tl.zeros((BLOCK,), tl.float64)
    green = tl.zeros((BLOCK,), tl.float64)
    blue = tl.zeros((BLOCK,), tl.float64)
    square = tl.zeros((BLOCK,), tl.float64)
    for part in range(parts):
        at = partial + 4 * (image * parts + part)
        red += tl.load(at, mask=inside, other=0)
        green += tl.load(at + 1, mask=inside, other=0)
        blue += tl.load(at + 2, mask=inside, other=0)
        square += tl.load(at + 3, mask=inside, other=0)
    square = tl.where(square == 0, 1, square)
    red, green, blue = red / square, green / square, blue / square
    finite = is_finite(red) & is_finite(green) & is_finite(blue)
    _put_color(colors + 3 * image, red, finite, inside)
    _put_color(colors + 3 * image + 1, green, finite, inside)
    _put_color(colors + 3 * image + 2, blue, finite, inside)


@triton.jit
def _put_color(at, value, finite, inside):
    clamped = tl.minimum(tl.maximum(value, 0.0), 1.0)
    tl.store(at, tl.where(finite, clamped, float("nan")).to(at.dtype.element_ty), mask=inside)


@triton.jit
def group_of(groups, i, inside, group_stride, num_groups, HAS_GROUPS: tl.constexpr):
    """The group of each colour, 0 for a wrong number, and whether the number is right."""
    if HAS_GROUPS:
        group = tl.load(groups + i * group_stride, mask=inside, other=0)
        right = (group >= 0) & (group < num_groups)
        return tl.where(right, group, 0), right
    else:
        return tl.zeros_like(i), inside | True


@triton.jit
def count_colors(
    colors, groups, counts, status, count, color_stride, channel_stride, group_stride, num_groups,
    HAS_GROUPS: tl.constexpr, BINS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adds colours to ``counts`` [num_groups, BINS^3]."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    group, right = group_of(groups, i, inside, group_stride, num_groups, HAS_GROUPS)
    cell = tl.zeros_like(i)
    finite = inside | True
    for channel in tl.static_range(3):
        value = tl.load(colors + i * color_stride + channel * channel_stride, mask=inside, other=0).to(tl.float64)
        finite &= is_finite(value)
        scaled = tl.where(is_finite(value), value, 0) * BINS
        cell = cell * BINS + tl.minimum(tl.maximum(scaled, 0.0), BINS - 1.0).to(tl.int64)
    tl.atomic_add(
        counts + group * (BINS * BINS * BINS) + cell, tl.full((BLOCK,), 1, tl.int64), mask=inside & right, sem="relaxed"
    )
    note(status, inside, finite == 0, 1)
    note(status, inside, right == 0, 2)


@triton.jit
def _codes(
    images, image, pixel, inside, status, width, image_stride, channel_stride, row_stride, column_stride,
    ONE_RUN: tl.constexpr, TOP: tl.constexpr,
):  # fmt: skip
    """The number of each pixel's colour: levels 0..TOP of red, green and blue, red in the highest place."""
    at = images + image * image_stride + _offset_of(pixel, width, row_stride, column_stride, ONE_RUN)
    code = tl.zeros_like(pixel).to(tl.int32)
    for channel in tl.static_range(3):
        stored = tl.load(at + channel * channel_stride, mask=inside, other=0)
        if images.dtype.element_ty == tl.uint8:
            level = (stored.to(tl.int32) * (2 * TOP) + 255) // 510  # no value is next to a tie
        else:
            value = stored.to(tl.float64)
            finite = is_finite(value)
            note(status, inside, finite == 0, 1)
            scaled = tl.minimum(tl.maximum(tl.where(finite, value, 0) * TOP, 0.0), TOP + 0.0)
            level = ((scaled + TO_INTEGER) - TO_INTEGER).to(tl.int32)  # to the nearest, ties to even
        code = code * (TOP + 1) + level
    return code


@triton.jit
def count_distinct(
    images, sets, counts, status, first, last, at_once, words, pixels, width, parts,
    image_stride, channel_stride, row_stride, column_stride,
    ONE_RUN: tl.constexpr, TOP: tl.constexpr, PART_PIXELS: tl.constexpr, BLOCK: tl.constexpr, CLEAR: tl.constexpr,
):  # fmt: skip
    """Adds a part of each ``at_once``-th image to a set, and the number of new members to the image's count.

    A set is a bit for each possible code. With ``CLEAR`` it is the program's own, and empty again after every image.
    """
    item = tl.program_id(0).to(tl.int64)
    place = item // parts
    begin = (item - place * parts) * PART_PIXELS
    end = tl.minimum(begin + PART_PIXELS, pixels)
    members = sets + place * words
    for image in range(first + place, last, at_once):
        new = tl.zeros((BLOCK,), tl.int64)
        for step in range(0, PART_PIXELS, BLOCK):
            pixel = begin + step + tl.arange(0, BLOCK)
            inside = pixel < end
            code = _codes(
                images, image, pixel, inside, status, width, image_stride, channel_stride, row_stride, column_stride,
                ONE_RUN, TOP,
            )  # fmt: skip
            bit = tl.full((BLOCK,), 1, tl.int32) << (code & 31)
            # Of all pixels of a colour, exactly one finds its bit unset.
            found = tl.atomic_or(members + (code >> 5), bit, mask=inside, sem="relaxed")
            new += (inside & ((found & bit) == 0)).to(tl.int64)
        tl.atomic_add(counts + image, tl.sum(new, 0), sem="relaxed")
        if CLEAR:
            tl.debug_barrier()
            for step in range(0, PART_PIXELS, BLOCK):
                pixel = begin + step + tl.arange(0, BLOCK)
                inside = pixel < end
                code = _codes(
                    images, image, pixel, inside, status, width, image_stride, channel_stride, row_stride,
                    column_stride, ONE_RUN, TOP,
                )  # fmt: skip
                # Atomic like the above: nothing that waits in a nearer cache than theirs.
                tl.atomic_and(members + (code >> 5), tl.zeros((BLOCK,), tl.int32), mask=inside, sem="relaxed")
            tl.debug_barrier()
