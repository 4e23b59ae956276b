"""What the Triton kernels of ``adain_act`` do differently where y is larger or smaller than x.

``RESAMPLE`` is a number of :data:`m2o_fast.ops._resampling.RESAMPLES`. A place in a plane is counted in pixels from its
first one. x is read as often as without resampling. Its gradient is brought to the size of x as it is loaded: of the
square that a pixel of x becomes (up2), four loads share their cache lines, and so do the loads of a pixel of y by the
pixels of x that it is the mean of (down2). Reading it so in both passes moves 11 planes of x through memory where a
plane is read twice, 6 where it is read once; a kernel that sums it beforehand would move 10 and 8.
"""
# In a kernel, annotations mean something else to Triton:
# mypy: disallow-untyped-defs=False

from __future__ import annotations

import triton
import triton.language as tl

from m2o_fast.ops.triton.plane_kernels import offsets_of, pixels_from

UP2 = tl.constexpr(1)
DOWN2 = tl.constexpr(2)


@triton.jit
def in_squares(index, width):
    """Places in an order in which every four neighbours are a square of 2 x 2."""
    square, which = index // 4, index % 4
    across = width // 2
    return (square // across * 2 + which // 2) * width + square % across * 2 + which % 2


@triton.jit
def square_of(pixel, width):
    """The upper left place of the square that a pixel of an image ``width`` wide becomes in the image twice as wide."""
    row = pixel // width
    return row * 4 * width + (pixel - row * width) * 2


@triton.jit
def first_of_output(first, channel, CHANNELS_LAST: tl.constexpr, RESAMPLE: tl.constexpr):
    """The offset of the first pixel of each plane of y, from that in x."""
    before = tl.zeros_like(channel)
    if CHANNELS_LAST:
        before = channel
    if RESAMPLE == UP2:
        return (first - before) * 4 + before
    elif RESAMPLE == DOWN2:
        return (first - before) // 4 + before
    else:
        return first


@triton.jit
def put_output(y, values, first, exists, begin, end, width, channels, CHANNELS_LAST: tl.constexpr,
               PLANES: tl.constexpr, PIXELS: tl.constexpr, RESAMPLE: tl.constexpr):  # fmt: skip
    """Writes the output of the tile's pixels from ``begin`` on; with down2 they are in the order of ``in_squares``."""
    begin = tl.full((), begin, tl.int64)
    if RESAMPLE == UP2 and CHANNELS_LAST:
        pixel, inside = pixels_from(begin, end, exists, PIXELS)
        for which in tl.static_range(4):
            place = square_of(pixel, width) + which // 2 * 2 * width + which % 2
            offsets = offsets_of(first, place, channels, CHANNELS_LAST)
            tl.store(y + offsets, values.to(y.dtype.element_ty), mask=inside)
    elif RESAMPLE == UP2:
        # Every number beside itself: so the two rows are written without gaps.
        doubled = tl.interleave(values, values).to(y.dtype.element_ty)
        index = tl.arange(0, 2 * PIXELS).to(tl.int64)
        pixel = begin + index // 2
        inside = exists[:, None] & (pixel < end)[None, :]
        place = square_of(pixel, width) + index % 2
        tl.store(y + offsets_of(first, place, channels, CHANNELS_LAST), doubled, mask=inside)
        tl.store(y + offsets_of(first, place + 2 * width, channels, CHANNELS_LAST), doubled, mask=inside)
    else:
        means = tl.sum(tl.reshape(values, (PLANES, PIXELS // 4, 4)), 2) * 0.25
        place = begin // 4 + tl.arange(0, PIXELS // 4).to(tl.int64)
        inside = exists[:, None] & (place * 4 < end)[None, :]
        tl.store(y + offsets_of(first, place, channels, CHANNELS_LAST), means.to(y.dtype.element_ty), mask=inside)


@triton.jit
def load_gradient(grad, first, exists, begin, end, width, channels, WIDE: tl.constexpr, CHANNELS_LAST: tl.constexpr,
                  PIXELS: tl.constexpr, RESAMPLE: tl.constexpr):  # fmt: skip
    """The gradient of y, brought to the size of x, of the tile's pixels from ``begin`` on; 0 beyond ``end``."""
    pixel, inside = pixels_from(tl.full((), begin, tl.int64), end, exists, PIXELS)
    if RESAMPLE == UP2:
        corner = square_of(pixel, width)
        total = tl.zeros(inside.shape, WIDE)
        for which in tl.static_range(4):
            place = corner + which // 2 * 2 * width + which % 2
            offsets = offsets_of(first, place, channels, CHANNELS_LAST)
            total += tl.load(grad + offsets, mask=inside, other=0).to(WIDE)
        return total
    else:
        row = pixel // width
        place = row // 2 * (width // 2) + (pixel - row * width) // 2
        offsets = offsets_of(first, place, channels, CHANNELS_LAST)
        return tl.load(grad + offsets, mask=inside, other=0).to(WIDE) * 0.25
