"""Colours of images by Triton: division of the work, launch, and cases for ahead-of-time compilation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from m2o_fast.ops._color_checks import color_dtype, require_floating
from m2o_fast.ops.triton import CompileCase
from m2o_fast.ops.triton.histogram_kernels import (
    count_colors,
    count_distinct,
    fit_finish,
    fit_parts,
)

COLORS_PER_PROGRAM = 256
#: Distinct colours: words of 32 bits for all sets, programs that have one, and pixels that one program looks at twice.
SET_WORDS = 1 << 25
MOST_PROGRAMS = 1024
MOST_PER_PROGRAM = 16384


class _Run(NamedTuple):
    """Pixels of images in memory: strides of image, row and column, and whether the latter is all one needs."""

    image: int
    row: int
    column: int
    one: bool


def _run_of(planes: Tensor) -> _Run:
    """``planes``: [N, H, W]."""
    image, row, column = planes.stride()
    return _Run(image, row, column, planes.shape[1] == 1 or row == planes.shape[2] * column)


class _Parts(NamedTuple):
    """How an image is divided among programs, and how many pixels of its part a program reads at a time."""

    parts: int
    part_pixels: int
    block: int


def _parts_of(count: int, pixels: int) -> _Parts:
    enough = triton.next_power_of_2(max(triton.cdiv(pixels * count, 4096), 1))
    part_pixels = min(max(enough, 1024), 8192, max(triton.next_power_of_2(pixels), 16))
    while triton.cdiv(pixels, part_pixels) > 1024:
        part_pixels *= 2
    return _Parts(max(triton.cdiv(pixels, part_pixels), 1), part_pixels, min(part_pixels, 1024))


class Status:
    """An int32 in which kernels note what is wrong with their input."""

    def __init__(self, device: torch.device) -> None:
        self.bits = torch.zeros(1, dtype=torch.int32, device=device)

    def raise_trouble(self, op: str) -> None:
        """Raises what a kernel noted; waits for the GPU."""
        found = int(self.bits.item())
        if found & 1:
            raise ValueError(f"{op}: every value must be finite, got NaN or infinity")
        if found & 2:
            raise ValueError(f"{op}: every group number must be in [0, num_groups)")


def foreground_color(images: Tensor, content: Tensor | None) -> Tensor:
    """See :func:`m2o_fast.ops.foreground_color`; content ``[N, H, W]`` of the same dtype."""
    count, _, height, width = images.shape
    colors = images.new_empty((count, 3), dtype=color_dtype(images))
    if images.numel() == 0:
        return colors.zero_()
    run = _run_of(images[:, 0])
    weight = run if content is None else _run_of(content)
    parts = _parts_of(count, height * width)
    partial = images.new_empty((count, parts.parts, 4), dtype=torch.float64)
    with torch.cuda.device_of(images):
        fit_parts[count * parts.parts,](
            images, images if content is None else content, partial, height * width, width, parts.parts,
            run.image, images.stride(1), run.row, run.column, weight.image, weight.row, weight.column,
            HAS_CONTENT=content is not None, ONE_RUN=run.one, CONTENT_RUN=weight.one,
            PART_PIXELS=parts.part_pixels, BLOCK=parts.block,
        )  # fmt: skip
        fit_finish[triton.cdiv(count, 128),](partial, colors, count, parts.parts, BLOCK=128)
    return colors


def color_histogram(colors: Tensor, bins: int, groups: Tensor | None, num_groups: int) -> Tensor:
    """See :func:`m2o_fast.ops.color_histogram`; ``[num_groups, bins^3]``."""
    require_floating("color_histogram", colors)
    counts = colors.new_zeros((num_groups, bins**3), dtype=torch.int64)
    count = colors.shape[0]
    if count == 0:
        return counts
    status = Status(colors.device)
    with torch.cuda.device_of(colors):
        count_colors[triton.cdiv(count, COLORS_PER_PROGRAM),](
            colors, colors if groups is None else groups, counts, status.bits, count, *colors.stride(),
            0 if groups is None else groups.stride(0), num_groups,
            HAS_GROUPS=groups is not None, BINS=bins, BLOCK=COLORS_PER_PROGRAM,
        )  # fmt: skip
    status.raise_trouble("color_histogram")
    return counts


def unique_color_count(images: Tensor, bits: int) -> Tensor:
    """Distinct pixel colours of each image ``[N, 3, H, W]``.

    A set is a bit for each possible colour: 2 MB at 8 bits, and there are at most as many as ``SET_WORDS`` have room
    for. A program takes a set and counts image after image, emptying the set by a second look at the pixels; large
    images are divided among programs, and then the sets are emptied between the launches.
    """
    count, _, height, width = images.shape
    pixels, run = height * width, _run_of(images[:, 0])
    counts = images.new_zeros(count, dtype=torch.int64)
    if images.numel() == 0:
        return counts
    words = max(2 ** (3 * bits) // 32, 1)
    at_once = min(max(SET_WORDS // words, 1), count, MOST_PROGRAMS)
    parts = _parts_of(count, pixels)
    whole = pixels <= MOST_PER_PROGRAM
    if whole:
        block = min(max(triton.next_power_of_2(pixels), 16), 1024)
        parts = _Parts(1, triton.cdiv(pixels, block) * block, block)
    sets = images.new_empty((at_once, words), dtype=torch.int32)
    status = Status(images.device)
    with torch.cuda.device_of(images):
        for first in range(0, count, count if whole else at_once):
            last = count if whole else min(first + at_once, count)
            sets.zero_()
            count_distinct[min(at_once, last - first) * parts.parts,](
                images, sets, counts, status.bits, first, last, at_once, words, pixels, width, parts.parts,
                run.image, images.stride(1), run.row, run.column,
                ONE_RUN=run.one, TOP=2**bits - 1, PART_PIXELS=parts.part_pixels, BLOCK=parts.block, CLEAR=whole,
            )  # fmt: skip
    if images.is_floating_point():
        status.raise_trouble("unique_color_count")
    return counts


# --- ahead of time ----------------------------------------------------------------------------------------------------

_IMAGE_TYPES = ("u8", "bf16", "fp32", "fp64")  # fp16 is like bf16
_COLOR_TYPES = ("bf16", "fp32", "fp64")


def compile_cases() -> Iterator[CompileCase]:
    """Every kernel by dtype and by how it reads the pixels."""
    for element, one_run in [*((element, True) for element in _IMAGE_TYPES), ("fp32", False)]:
        constants = {"ONE_RUN": one_run, "TOP": 255, "PART_PIXELS": 4096, "BLOCK": 1024}
        words = f"{element}, {'one run' if one_run else 'rows'}"
        for content in (True, False):
            fit = {**constants, "HAS_CONTENT": content, "CONTENT_RUN": one_run}
            yield case(fit_parts, f"histogram.fit_parts[{words}, {'' if content else 'no '}content]", element, fit)
        for clear in (True, False):
            distinct = {**constants, "CLEAR": clear}
            name = f"histogram.count_distinct[{words}, {'whole images' if clear else 'parts'}]"
            yield case(count_distinct, name, element, distinct)
    for element in ("fp32", "fp64"):
        yield case(fit_finish, f"histogram.fit_finish[{element}]", element, {"BLOCK": 128})
    for element, grouped in itertools.product(_COLOR_TYPES, (True, False)):
        constants = {"HAS_GROUPS": grouped, "BINS": 4, "BLOCK": COLORS_PER_PROGRAM}
        name = f"histogram.count_colors[{element}{', groups' if grouped else ''}]"
        yield case(count_colors, name, element, constants)


_POINTERS = {"partial": "*fp64", "counts": "*i64", "groups": "*i64", "status": "*i32", "sets": "*i32", "units": "*i64"}


def case(kernel: Any, name: str, element: str, constants: dict[str, Any], **options: Any) -> CompileCase:
    """A kernel for images or colours of a type, for ahead-of-time compilation."""
    types = {**_POINTERS, **dict.fromkeys(("images", "content", "colors", "grad_colors"), f"*{element}")}
    types |= dict.fromkeys(("soft_counts", "grad"), "*fp64" if element == "fp64" else "*fp32")
    types["in_one"] = "fp32"
    fixed = {name: value for name, value in constants.items() if name in kernel.arg_names}
    if not constants.get("HAS_GROUPS", True):
        types["groups"] = types["colors"]
    signature = {name: "constexpr" if name in fixed else types.get(name, "i32") for name in kernel.arg_names}
    return CompileCase(name, kernel, signature, fixed, options)
