"""What the Triton kernels on planes share: which planes a program works on, and where their pixels lie."""
# In a kernel, annotations mean something else to Triton:
# mypy: disallow-untyped-defs=False

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def planes_of(tile, batch, channels, plane, CHANNELS_LAST: tl.constexpr, PLANES: tl.constexpr):
    """The planes of a tile: number in [N, C], sample, channel, whether they exist, offset of their first pixel."""
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
def range_of(part, step, plane, PART_PIXELS: tl.constexpr):
    """The pixels of a part of a plane from a step on: the first one, and the one behind the last."""
    return part * PART_PIXELS + step, tl.minimum(part * PART_PIXELS + PART_PIXELS, plane)


@triton.jit
def pixels_from(begin, end, exists, PIXELS: tl.constexpr):
    """``PIXELS`` pixels from ``begin`` on, and which of them exist in each plane: those before ``end``."""
    pixel = begin + tl.arange(0, PIXELS).to(tl.int64)
    return pixel, exists[:, None] & (pixel < end)[None, :]


@triton.jit
def offsets_of(first, pixel, channels, CHANNELS_LAST: tl.constexpr):
    """Offsets [planes, pixels]."""
    if CHANNELS_LAST:
        return first[:, None] + (pixel * channels)[None, :]
    else:
        return first[:, None] + pixel[None, :]
