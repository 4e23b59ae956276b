"""``residual_merge`` and ``leaky_relu_down2`` by Triton: kernels, launch, and cases for ahead-of-time compilation.

A program works on a run of coarse numbers. Each belongs to a quad, 2 x 2 fine numbers: all offsets follow from the
shape of the coarse grid, where a pixel is one number in NCHW and C neighbouring ones in channels_last. Every number is
read and written once, and nothing is summed across programs.
"""
# In a kernel, annotations mean something else to Triton:
# mypy: disallow-untyped-defs=False

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from m2o_fast.ops._formats import in_format, output_format
from m2o_fast.ops._resampling import NONE, UP2
from m2o_fast.ops.triton import CompileCase
from m2o_fast.ops.triton._types import ELEMENT_TYPES, wide_in_kernel

BLOCK = 512  # coarse numbers of a program
OPTIONS = {"num_warps": 4}


# --- kernels ----------------------------------------------------------------------------------------------------------


@triton.jit
def _numbers(count, BLOCK: tl.constexpr):
    """The numbers of this program, and which of them exist."""
    number = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return number, number < count


@triton.jit
def _quads(count, width, channels, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    """Offsets of coarse numbers, which of them exist, offsets of their upper left fine ones, length of a fine row.

    One division of 64-bit numbers per program; the others are within a row, in INDEX.
    """
    number, exists = _numbers(count, BLOCK)
    across = tl.full((), width, INDEX) * channels  # of a coarse row
    first = tl.program_id(0).to(tl.int64) * BLOCK
    first_row = first // across
    place = (first - first_row * across).to(INDEX) + tl.arange(0, BLOCK)
    row = place // across
    column = place - row * across
    corner = (first_row + row) * 4 * across + column + column // channels * channels
    return number, exists, corner, 2 * across


@triton.jit
def _put(tensor, offsets, values, exists):
    tl.store(tensor + offsets, values.to(tensor.dtype.element_ty), mask=exists)


@triton.jit
def merge_plain(a, b, y, count, SCALE: tl.constexpr, TWO: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """``(a + b) * scale``, or without b (``TWO``) ``a * scale``."""
    index, exists = _numbers(count, BLOCK)
    values = tl.load(a + index, mask=exists, other=0).to(WIDE)
    if TWO:
        values += tl.load(b + index, mask=exists, other=0).to(WIDE)
    _put(y, index, values * SCALE, exists)


@triton.jit
def merge_up2(
    a, b, y, count, width, channels, SCALE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr
):
    """Fine a and y, coarse b."""
    index, exists, corner, fine_row = _quads(count, width, channels, BLOCK, INDEX)
    added = tl.load(b + index, mask=exists, other=0).to(WIDE)
    for row in tl.static_range(2):
        for column in tl.static_range(2):
            offsets = corner + row * fine_row + column * channels
            values = tl.load(a + offsets, mask=exists, other=0).to(WIDE)
            _put(y, offsets, (values + added) * SCALE, exists)


@triton.jit
def merge_down2(
    a, b, y, count, width, channels, SCALE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr
):
    """Coarse a and y, fine b."""
    index, exists, corner, fine_row = _quads(count, width, channels, BLOCK, INDEX)
    total = tl.zeros((BLOCK,), WIDE)
    for row in tl.static_range(2):
        for column in tl.static_range(2):
            offsets = corner + row * fine_row + column * channels
            total += tl.load(b + offsets, mask=exists, other=0).to(WIDE)
    values = tl.load(a + index, mask=exists, other=0).to(WIDE)
    _put(y, index, (values + total * 0.25) * SCALE, exists)


@triton.jit
def backward_up2(grad, grad_a, grad_b, count, width, channels, SCALE: tl.constexpr, NEED_A: tl.constexpr,
                 WIDE: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr):  # fmt: skip
    """Fine grad and grad_a, coarse grad_b."""
    index, exists, corner, fine_row = _quads(count, width, channels, BLOCK, INDEX)
    total = tl.zeros((BLOCK,), WIDE)
    for row in tl.static_range(2):
        for column in tl.static_range(2):
            offsets = corner + row * fine_row + column * channels
            values = tl.load(grad + offsets, mask=exists, other=0).to(WIDE)
            total += values
            if NEED_A:
                _put(grad_a, offsets, values * SCALE, exists)
    _put(grad_b, index, total * SCALE, exists)


@triton.jit
def backward_down2(grad, grad_a, grad_b, count, width, channels, SCALE: tl.constexpr, NEED_A: tl.constexpr,
                   WIDE: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr):  # fmt: skip
    """Coarse grad and grad_a, fine grad_b."""
    index, exists, corner, fine_row = _quads(count, width, channels, BLOCK, INDEX)
    values = tl.load(grad + index, mask=exists, other=0).to(WIDE) * SCALE
    if NEED_A:
        _put(grad_a, index, values, exists)
    for row in tl.static_range(2):
        for column in tl.static_range(2):
            _put(grad_b, corner + row * fine_row + column * channels, values * 0.25, exists)


@triton.jit
def leaky_gather(x, along, y, count, width, channels, SLOPE: tl.constexpr, TANGENT: tl.constexpr, WIDE: tl.constexpr,
                 BLOCK: tl.constexpr, INDEX: tl.constexpr):  # fmt: skip
    """Mean of the activated quads of x; with ``TANGENT``, of ``along`` times the derivative of the activation."""
    index, exists, corner, fine_row = _quads(count, width, channels, BLOCK, INDEX)
    total = tl.zeros((BLOCK,), WIDE)
    for row in tl.static_range(2):
        for column in tl.static_range(2):
            offsets = corner + row * fine_row + column * channels
            before = tl.load(x + offsets, mask=exists, other=0).to(WIDE)
            values = before
            if TANGENT:
                values = tl.load(along + offsets, mask=exists, other=0).to(WIDE)
            total += tl.where(before > 0, values, values * SLOPE)
    _put(y, index, total * 0.25, exists)


@triton.jit
def leaky_spread(grad, x, grad_x, count, width, channels, SLOPE: tl.constexpr, WIDE: tl.constexpr,
                 BLOCK: tl.constexpr, INDEX: tl.constexpr):  # fmt: skip
    """Coarse grad to fine grad_x."""
    index, exists, corner, fine_row = _quads(count, width, channels, BLOCK, INDEX)
    values = tl.load(grad + index, mask=exists, other=0).to(WIDE) * 0.25
    for row in tl.static_range(2):
        for column in tl.static_range(2):
            offsets = corner + row * fine_row + column * channels
            before = tl.load(x + offsets, mask=exists, other=0).to(WIDE)
            _put(grad_x, offsets, tl.where(before > 0, values, values * SLOPE), exists)


# --- launch -----------------------------------------------------------------------------------------------------------


def _empty(like: Tensor, height: int, width: int, memory_format: torch.memory_format) -> Tensor:
    n, c, *_ = like.shape
    return torch.empty((n, c, height, width), dtype=like.dtype, device=like.device, memory_format=memory_format)


def _launch(
    kernel: Any, tensors: tuple[Tensor, ...], coarse: Tensor, memory_format: torch.memory_format, **constants: Any
) -> None:
    """Runs a kernel over the quads of ``coarse``; all tensors are in ``memory_format``."""
    count = coarse.numel()
    if count == 0:
        return
    channels = coarse.shape[1] if memory_format == torch.channels_last else 1
    index = tl.int32 if coarse.shape[3] * channels < 2**30 else tl.int64
    constants |= {"WIDE": wide_in_kernel(coarse.dtype), "BLOCK": BLOCK, "INDEX": index}
    with torch.cuda.device_of(coarse):
        kernel[triton.cdiv(count, BLOCK),](*tensors, count, coarse.shape[3], channels, **constants, **OPTIONS)


def _launch_plain(a: Tensor, b: Tensor | None, y: Tensor, scale: float) -> None:
    if y.numel() == 0:
        return
    constants = {"SCALE": scale, "TWO": b is not None, "WIDE": wide_in_kernel(y.dtype), "BLOCK": BLOCK}
    with torch.cuda.device_of(y):
        merge_plain[triton.cdiv(y.numel(), BLOCK),](a, a if b is None else b, y, y.numel(), **constants, **OPTIONS)


def residual_merge(a: Tensor, b: Tensor, scale: float, resample: int) -> Tensor:
    """As :func:`m2o_fast.ops.residual_merge`, for one dtype."""
    memory_format = output_format(a)
    a, b = in_format(a, memory_format), in_format(b, memory_format)
    y = torch.empty_like(a)
    if resample == NONE:
        _launch_plain(a, b, y, scale)
    elif resample == UP2:
        _launch(merge_up2, (a, b, y), b, memory_format, SCALE=scale)
    else:
        _launch(merge_down2, (a, b, y), a, memory_format, SCALE=scale)
    return y


def residual_merge_backward(grad: Tensor, scale: float, resample: int, need_a: bool) -> tuple[Tensor, Tensor]:
    """Gradients of a and of b; the one that is not needed is empty."""
    memory_format, (height, width) = output_format(grad), grad.shape[2:]
    grad = in_format(grad, memory_format)
    nothing = grad.new_empty(0)
    if resample == NONE:
        scaled = torch.empty_like(grad)
        _launch_plain(grad, None, scaled, scale)
        return scaled, nothing
    grad_a = torch.empty_like(grad) if need_a else nothing
    if resample == UP2:
        grad_b = _empty(grad, height // 2, width // 2, memory_format)
        _launch(backward_up2, (grad, grad_a, grad_b), grad_b, memory_format, SCALE=scale, NEED_A=need_a)
    else:
        grad_b = _empty(grad, 2 * height, 2 * width, memory_format)
        _launch(backward_down2, (grad, grad_a, grad_b), grad, memory_format, SCALE=scale, NEED_A=need_a)
    return grad_a, grad_b


def leaky_relu_down2(x: Tensor, slope: float) -> Tensor:
    """As :func:`m2o_fast.ops.leaky_relu_down2`."""
    memory_format = output_format(x)
    x, y = in_format(x, memory_format), _empty(x, x.shape[2] // 2, x.shape[3] // 2, memory_format)
    _launch(leaky_gather, (x, x, y), y, memory_format, SLOPE=slope, TANGENT=False)
    return y


def leaky_relu_down2_backward(grad: Tensor, x: Tensor, slope: float) -> Tensor:
    """Gradient of x."""
    memory_format = output_format(x)
    grad, x = in_format(grad, memory_format), in_format(x, memory_format)
    grad_x = torch.empty_like(x)
    _launch(leaky_spread, (grad, x, grad_x), grad, memory_format, SLOPE=slope)
    return grad_x


def leaky_relu_down2_tangent(along: Tensor, x: Tensor, slope: float) -> Tensor:
    """Derivative of the result when x moves along a direction."""
    memory_format = output_format(x)
    y = _empty(x, x.shape[2] // 2, x.shape[3] // 2, memory_format)
    _launch(leaky_gather, (in_format(x, memory_format), in_format(along, memory_format), y), y, memory_format,
            SLOPE=slope, TANGENT=True)  # fmt: skip
    return y


# --- ahead of time ----------------------------------------------------------------------------------------------------

IMAGES = {"a", "b", "y", "x", "grad", "along", "grad_a", "grad_b", "grad_x"}


def compile_cases() -> Iterator[CompileCase]:
    """Every kernel by dtype (float16 is like bfloat16) and memory format, as the launchers above have it compiled."""
    variants: list[tuple[Any, dict[str, Any]]] = [(merge_up2, {}), (merge_down2, {}), (leaky_spread, {})]
    variants += [(kernel, {"NEED_A": need}) for kernel in (backward_up2, backward_down2) for need in (False, True)]
    variants += [(leaky_gather, {"TANGENT": tangent}) for tangent in (False, True)]
    for (element, dtype), channels_last in itertools.product(ELEMENT_TYPES.items(), (False, True)):
        fixed: dict[str, Any] = {
            "SCALE": 0.5,
            "SLOPE": 0.2,
            "WIDE": wide_in_kernel(dtype),
            "BLOCK": BLOCK,
            "INDEX": tl.int32,
        }
        fixed |= {} if channels_last else {"channels": 1}  # as Triton specialises 1
        plain = [] if channels_last else [(merge_plain, {"TWO": two}) for two in (False, True)]
        for kernel, constants in [*variants, *plain]:
            known = {name: value for name, value in (fixed | constants).items() if name in kernel.arg_names}
            signature = {
                name: "constexpr" if name in known else f"*{element}" if name in IMAGES else "i32"
                for name in kernel.arg_names
            }
            words = [element, "channels_last" if channels_last else "nchw", *(f"{k}={v}" for k, v in constants.items())]
            yield CompileCase(f"residual.{kernel.fn.__name__}[{', '.join(words)}]", kernel, signature, known, OPTIONS)
