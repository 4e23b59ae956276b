"""``adain_act`` and its backward by Triton: division of the work, launch, and cases for ahead-of-time compilation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from m2o_fast.ops._checks import check_images, check_per_plane, wide
from m2o_fast.ops._formats import in_format, is_channels_last, output_format
from m2o_fast.ops._resampling import RESAMPLES, resampled_shape
from m2o_fast.ops.triton import CompileCase
from m2o_fast.ops.triton._types import ELEMENT_TYPES, wide_in_kernel
from m2o_fast.ops.triton.adain_kernels import (
    backward_finish,
    backward_fused,
    backward_partial,
    forward_finish,
    forward_fused,
    forward_partial,
)

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
    def options(self) -> dict[str, Any]:
        return {"num_warps": min(max(self.planes * self.pixels // 512, 4), 16), "enable_fp_fusion": True}

    @property
    def constants(self) -> dict[str, Any]:
        shape = {"CHANNELS_LAST": self.channels_last, "PLANES": self.planes, "PIXELS": self.pixels}
        return {**shape, "PART_PIXELS": self.part_pixels} if self.parts else shape


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


def _sizes(x: Tensor, resample: int) -> tuple[int, int, int, int]:
    """The kernels' sizes of x. The width is left out where it is not needed: another one would be another kernel."""
    batch, channels, height, width = x.shape
    return batch, channels, height * width, width if resample else 0


def _check(x: Tensor, gamma: Tensor, beta: Tensor) -> None:
    """Kernels trust their arguments; the operators can be called without the public functions."""
    check_images("adain_act", "x", x)
    check_per_plane("adain_act", "gamma", gamma, x)
    check_per_plane("adain_act", "beta", beta, x)


def adain_act_forward(
    x: Tensor, gamma: Tensor, beta: Tensor, eps: float, slope: float, one_plus: bool, resample: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """y, mean and rstd of ``adain_act``; shapes and dtypes as in :mod:`m2o_fast.ops.adain`."""
    _check(x, gamma, beta)
    shape, memory_format = resampled_shape("adain_act", x, resample), output_format(x)
    x = in_format(x, memory_format)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)
    mean = x.new_empty((2, *x.shape[:2]), dtype=wide(x.dtype))
    rstd = torch.empty_like(mean[0])
    if x.numel() == 0:  # the reference divides the sum of no pixels by 1
        return y, mean.zero_(), rstd.fill_(eps).rsqrt_()
    plan = _plan_for(x, tensors=1)
    sizes = _sizes(x, resample)
    strides = _affine_strides(gamma, beta)
    constants = {"WIDE": wide_in_kernel(x.dtype), "RESAMPLE": resample, **plan.constants}
    activation = {"EPS": eps, "SLOPE": slope, "ONE_PLUS": one_plus}
    with torch.cuda.device_of(x):
        if plan.parts == 0:
            forward_fused[plan.tiles,](
                x, gamma, beta, y, mean, rstd, *sizes, *strides, **activation, **constants, **plan.options
            )
            return y, mean, rstd
        grid = (plan.tiles, plan.parts)
        partial = x.new_empty((plan.parts, 3, *x.shape[:2]), dtype=wide(x.dtype))
        forward_partial[grid](x, partial, *sizes, **constants, **plan.options)
        forward_finish[grid](
            x, partial, gamma, beta, y, mean, rstd, *sizes, plan.parts, *strides,
            **activation, **constants, PARTS=triton.next_power_of_2(plan.parts), **plan.options,
        )  # fmt: skip
    return y, mean, rstd


def adain_act_backward(
    grad: Tensor,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    rstd: Tensor,
    slope: float,
    one_plus: bool,
    resample: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, gamma and beta; those of gamma and beta are per sample, ``[N, C]``."""
    _check(x, gamma, beta)
    for name, numbers, wanted in (("mean", mean, (2, *x.shape[:2])), ("rstd", rstd, x.shape[:2])):
        if numbers.shape != wanted:
            raise ValueError(
                f"adain_act_backward: {name} must have shape {list(wanted)} for x of shape {list(x.shape)}, "
                f"got {list(numbers.shape)}"
            )
    shape = resampled_shape("adain_act", x, resample)
    if grad.shape != shape:
        raise ValueError(f"adain_act_backward: grad must have the shape of y, {list(shape)}, got {list(grad.shape)}")
    x, grad = in_format(x, output_format(x)), in_format(grad, output_format(x))
    mean, rstd = mean.contiguous(), rstd.contiguous()
    grad_x = torch.empty_like(x)
    grad_gamma, grad_beta = torch.empty_like(rstd), torch.empty_like(rstd)
    if x.numel() == 0:
        return grad_x, grad_gamma.zero_(), grad_beta.zero_()
    plan = _plan_for(x, tensors=2)
    sizes = _sizes(x, resample)
    strides = _affine_strides(gamma, beta)
    constants = {"SLOPE": slope, "ONE_PLUS": one_plus, "WIDE": wide_in_kernel(x.dtype), "RESAMPLE": resample}
    constants |= plan.constants
    inputs = (gamma, beta, mean, rstd)
    outputs = (grad_x, grad_gamma, grad_beta)
    with torch.cuda.device_of(x):
        if plan.parts == 0:
            backward_fused[plan.tiles,](grad, x, *inputs, *outputs, *sizes, *strides, **constants, **plan.options)
            return outputs
        grid = (plan.tiles, plan.parts)
        partial = x.new_empty((plan.parts, 2, *x.shape[:2]), dtype=mean.dtype)
        backward_partial[grid](grad, x, *inputs, partial, *sizes, *strides, **constants, **plan.options)
        backward_finish[grid](
            grad, x, partial, *inputs, *outputs, *sizes, plan.parts, *strides,
            **constants, PARTS=triton.next_power_of_2(plan.parts), **plan.options,
        )  # fmt: skip
    return outputs


# --- ahead of time ----------------------------------------------------------------------------------------------------


def compile_cases() -> Iterator[CompileCase]:
    """Every kernel by dtype (float16 is like bfloat16) and memory format, for sizes that divide by nothing."""
    for resample, channels_last, plane in itertools.product(("up2", "down2"), (False, True), (1024, 65536)):
        for tensors in (1, 2):
            plan = _plan(8, 64, plane, channels_last, torch.bfloat16.itemsize, tensors)
            yield from _cases_of("bf16", torch.bfloat16, plane, plan, forward=tensors == 1, resample=resample)
    for element, dtype in ELEMENT_TYPES.items():
        for channels_last, plane in itertools.product((False, True), (1, 49, 1024, 65536)):
            if channels_last and plane == 1:
                continue  # is contiguous as well, and treated so
            for tensors in (1, 2):
                plan = _plan(8, 64, plane, channels_last, dtype.itemsize, tensors)
                yield from _cases_of(element, dtype, plane, plan, forward=tensors == 1)


def _cases_of(
    element: str, dtype: torch.dtype, plane: int, plan: _Plan, forward: bool, resample: str | None = None
) -> Iterator[CompileCase]:
    statistics = "fp64" if dtype == torch.float64 else "fp32"
    images, numbers = ("x", "y", "grad", "grad_x"), ("gamma", "beta", "mean_in", "rstd_in", "mean_out", "rstd_out")
    types = {name: f"*{element}" for name in images} | {name: f"*{statistics}" for name in numbers}
    types |= {name: f"*{statistics}" for name in ("partial", "grad_gamma", "grad_beta")}
    constants = {"EPS": 1e-5, "SLOPE": 0.2, "ONE_PLUS": True, "WIDE": wide_in_kernel(dtype), **plan.constants}
    constants["RESAMPLE"] = RESAMPLES[resample]
    constants["PARTS"] = triton.next_power_of_2(max(plan.parts, 1))
    constants |= {"g_channel": 1, "b_channel": 1} | ({"plane": 1} if plane == 1 else {})  # as Triton specialises 1
    if plan.parts == 0:
        kernels = [forward_fused if forward else backward_fused]
    else:
        kernels = [forward_partial, forward_finish] if forward else [backward_partial, backward_finish]
    layout = "channels_last" if plan.channels_last else "nchw"
    for kernel in kernels:
        fixed = {name: constants[name] for name in kernel.arg_names if name in constants}
        signature = {name: "constexpr" if name in fixed else types.get(name, "i32") for name in kernel.arg_names}
        words = [element, *filter(None, [resample]), layout, f"{plane} pixels"]
        name = f"adain.{kernel.fn.__name__}[{', '.join(words)}]"
        yield CompileCase(name, kernel, signature, fixed, plan.options)
