"""``conv2d`` on a CPU, with faster kernels where there are some, for derivatives of any order.

Two things are gained over torch. Convolutions of 3x3 take Winograd's form where that was measured to be faster
(:mod:`m2o_fast.ops.winograd`), those of few pixels take gathered patches (:mod:`m2o_fast.ops.patches`), those to few
channels go by rows of the kernel (:mod:`m2o_fast.ops.rows`), and so do their derivatives. And the second derivatives,
which R1 needs, are the same three kernels again - convolution, its gradient by input, its gradient by weight, each of
which is linear in both arguments with the other two as derivatives - where torch builds the gradient by weight from a
convolution of transposed images that takes 2 to 4 times as long.

bfloat16 comes, by autocast or as it is, to the same kernels where torch would emulate it (:mod:`._bfloat16`) or
Winograd's form in float32 is faster than torch's products of bfloat16; what is kept for the derivatives is bfloat16 all
the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from m2o_fast.ops import patches, rows, winograd
from m2o_fast.ops._bfloat16 import in_bfloat16, is_widened, widened
from m2o_fast.ops._choices import is_worth_a_call, patches_pay, rows_pay, winograd_beats_bfloat16, winograd_pays
from m2o_fast.ops._formats import is_channels_last
from m2o_fast.ops._library import NATIVE_MISSING, forced_backend, needs_torch
from m2o_fast.ops.patches import Geometry


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: int = 0) -> Tensor:
    """``torch.nn.functional.conv2d``, differentiable any number of times; only rounding differs.

    Where Winograd's form is taken, a number spoils the whole 4x4 tiles of outputs that see it: infinity and NaN become
    NaN in all of them, and rounding errors are relative to the largest input of a tile.

    Args:
        x: Float ``[N, Ci, H, W]``.
        weight: Float ``[Co, Ci, k, k]``, of the dtype of x (autocast apart).
        bias: Float ``[Co]`` or None, of the dtype of x (autocast apart).
        stride: In both directions.
        padding: Zeros on all four sides.

    Returns:
        Float ``[N, Co, H', W']``, in the dtype of x, or in that of autocast.

    Raises:
        TypeError: ``stride`` or ``padding`` is not one number.
        ValueError: A stride below 1, a padding below 0, a weight or a bias of a wrong shape; where torch's own is
            called, the shapes are torch's error.
    """
    return differentiable("conv2d", x, weight, bias, _geometry("conv2d", stride, padding))


def differentiable(op: str, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """What :func:`conv2d` does, for any geometry; ``op`` is named in errors."""
    if _is_small(x, weight, bias, geometry):
        return _torchs(x, weight, bias, geometry)
    if not _needs_torchs(x, weight):
        _check(op, x, weight, bias)
        if _is_exact(x, weight, bias):
            operands = (x, weight) if bias is None else (x, weight, bias)
            if not (torch.is_grad_enabled() and any(operand.requires_grad for operand in operands)):
                return _convolve(x, weight, bias, geometry)
            if is_worth_a_call(x.shape, weight.shape) or _takes_winograd(x, weight, geometry):
                return _Convolution.apply(x, weight, bias, geometry)
        elif is_widened(x, weight, bias, faster=_beats_bfloat16(x, weight, geometry)):
            return _Convolution.apply(*in_bfloat16(x, weight, bias), geometry)
    return _torchs(x, weight, bias, geometry)


def conv_transpose2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: int = 0
) -> Tensor:
    """``torch.nn.functional.conv_transpose2d``, with bfloat16 and gathered patches as in :func:`conv2d`.

    Args:
        x: Float ``[N, Ci, H, W]``.
        weight: Float ``[Ci, Co, k, k]``, of the dtype of x (autocast apart).
        bias: Float ``[Co]`` or None, of the dtype of x (autocast apart).
        stride: In both directions.
        padding: What is cut off on all four sides.

    Returns:
        Float ``[N, Co, H', W']``, in the dtype of x, or in that of autocast.

    Raises:
        TypeError, ValueError: As :func:`conv2d`.
    """
    geometry = _geometry("conv_transpose2d", stride, padding)
    if not _needs_torchs(x, weight):
        _check("conv_transpose2d", x, weight, bias, transposed=True)
        if is_widened(x, weight, bias):
            return _Transposed.apply(*in_bfloat16(x, weight, bias), geometry)
        if _is_exact(x, weight, bias) and _takes_patches(_pixels(x), weight, geometry):
            return _Transposed.apply(x, weight, bias, geometry)
    return F.conv_transpose2d(x, weight, bias, stride, padding)


def _is_small(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> bool:
    """Whether a 3x3 convolution is torch's however it is called: found out at once, as it may take little."""
    shape, kernel = x.shape, weight.shape
    if x.dtype is not torch.float32 or len(shape) != 4 or kernel[1:] != (shape[1], 3, 3):
        return False
    if geometry.stride != 1 or geometry.padding != 1 or not (bias is None or bias.shape == kernel[:1]):
        return False
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    pays = is_worth_a_call(shape, kernel) or winograd_pays(shape, kernel[0])
    return not (pays or patches_pay(_pixels(x), kernel, by_weight=False))


def _needs_torchs(x: Tensor, weight: Tensor) -> bool:
    """Whether torch's own has to do it: other devices and layouts, transforms, nothing to compute."""
    if x.device.type != "cpu" or x.layout != torch.strided or weight.layout != torch.strided:
        return True
    if torch.compiler.is_compiling() or needs_torch():
        return True
    return forced_backend() == "reference" or x.dim() != 4 or not x.numel()


def _geometry(op: str, stride: int, padding: int) -> Geometry:
    for name, value, least in (("stride", stride, 1), ("padding", padding, 0)):
        if not isinstance(value, int):
            raise TypeError(f"{op}: {name} must be one int for both directions, got {value!r}")
        if value < least:
            raise ValueError(f"{op}: {name} must be at least {least}, got {value}")
    return Geometry(stride, padding)


def _check(op: str, x: Tensor, weight: Tensor, bias: Tensor | None, *, transposed: bool = False) -> None:
    into, out, order = (0, 1, "Ci, Co") if transposed else (1, 0, "Co, Ci")
    if weight.dim() != 4 or weight.shape[into] != x.shape[1]:
        raise ValueError(
            f"{op}: weight must be [{order}, k, k] with Ci = {x.shape[1]} for x of shape {list(x.shape)}, "
            f"got shape {list(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[out : out + 1]:
        raise ValueError(
            f"{op}: bias must be [Co] = {[weight.shape[out]]} for weight of shape {list(weight.shape)}, "
            f"got shape {list(bias.shape)}"
        )


def _is_exact(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether these are float32 or float64, are to stay so, and the native code is there."""
    if x.dtype not in (torch.float32, torch.float64) or x.dtype != weight.dtype:
        return False
    if bias is not None and bias.dtype != x.dtype:
        return False
    return not torch.is_autocast_enabled("cpu") and NATIVE_MISSING["cpu"] is None


def computes_itself(x: Tensor, weight: Tensor) -> bool:
    """Whether :func:`conv2d` of images like x may take Winograd's form, if their size and channels are such."""
    if _needs_torchs(x, weight) or NATIVE_MISSING["cpu"] is not None:
        return False
    return is_widened(x, weight) or _is_exact(x, weight, None)


def _takes_winograd(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    if weight.shape[2:] != (3, 3) or geometry[:2] != (1, 1) or NATIVE_MISSING["cpu"] is not None:
        return False
    return winograd_pays(x.shape, weight.shape[0])


def _beats_bfloat16(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether Winograd's form in float32 is faster than torch's convolution of bfloat16."""
    return _takes_winograd(x, weight, geometry) and winograd_beats_bfloat16(x.shape[1], weight.shape[0])


def _takes_patches(pixels: int, weight: Tensor, geometry: Geometry, *, by_weight: bool = False) -> bool:
    """Whether a convolution with that many outputs, or its gradient by weight, is a product with gathered patches."""
    fits = weight.shape[2] == weight.shape[3] and weight.shape[2] % geometry.stride == 0
    if not fits or geometry.reflected or not is_channels_last(weight) or needs_torch():
        return False
    return patches_pay(pixels, weight.shape, by_weight=by_weight)


def _takes_rows(wide: Tensor, few: int, weight: Tensor, geometry: Geometry) -> bool:
    """Whether a convolution between images of many channels and of few goes by rows of the kernel."""
    square = weight.shape[2] == weight.shape[3]
    return square and geometry == (1, 0, False) and not needs_torch() and rows_pay(wide.shape, few, weight.shape[2])


def _pixels(x: Tensor) -> int:
    return x.shape[0] * x.shape[2] * x.shape[3]


# --- the three kernels ------------------------------------------------------------------------------------------------

_Result = TypeVar("_Result")


def _without_autocast(kernel: Callable[..., _Result]) -> Callable[..., _Result]:
    """What is to be rounded was rounded before; and a backward pass inside autocast may have a forward pass outside."""

    @wraps(kernel)
    def run(*arguments: Any) -> _Result:
        if not torch.is_autocast_enabled("cpu"):
            return kernel(*arguments)
        with torch.autocast("cpu", enabled=False):
            return kernel(*arguments)

    return run


@_without_autocast
def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    dtype, x, weight, bias = x.dtype, widened(x), widened(weight), None if bias is None else widened(bias)
    if _takes_winograd(x, weight, geometry):
        y = winograd.convolve(x, weight, bias, reflected=geometry.reflected)
    elif _takes_rows(x, weight.shape[0], weight, geometry):
        y = rows.convolve(x, weight, bias)
    elif _takes_patches(x.shape[0] * math.prod(patches.output_size(x, weight, geometry)), weight, geometry):
        y = patches.convolve(x, weight, bias, geometry)
    else:
        y = _torchs(x, weight, bias, geometry)
    return y if y.dtype is dtype else y.to(dtype)


@_without_autocast
def _convolve_transposed(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    dtype, x, weight, bias = x.dtype, widened(x), widened(weight), None if bias is None else widened(bias)
    if _takes_patches(_pixels(x), weight, geometry):
        return patches.convolve_transposed(x, weight, bias, geometry).to(dtype)
    return F.conv_transpose2d(x, weight, bias, geometry.stride, geometry.padding).to(dtype)


@_without_autocast
def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, needed: tuple[bool, bool, bool]
) -> tuple[Any, ...]:
    """By x, weight and bias; None where it is not needed."""
    dtype, grad, weight = grad.dtype, widened(grad), widened(weight)
    # The gradients by x and bias depend on the shape of x alone.
    x = widened(x) if needed[1] or x.dtype == grad.dtype else torch.empty_like(x, dtype=grad.dtype)
    if _takes_winograd(x, weight, geometry):
        reflected, last = geometry.reflected, is_channels_last(weight)
        found: tuple[Any, ...] = (
            winograd.by_input(grad, weight, reflected=reflected) if needed[0] else None,
            winograd.by_weight(grad, x, reflected=reflected, channels_last=last) if needed[1] else None,
            grad.sum((0, 2, 3)) if needed[2] else None,
        )
    else:
        found = _other_gradients(grad, x, weight, geometry, needed)
    if grad.dtype is dtype:
        return found
    return tuple(None if gradient is None else gradient.to(dtype) for gradient in found)


def _reflect(x: Tensor) -> Tensor:
    return F.pad(x, (1,) * 4, mode="reflect")


def _torchs(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    if geometry.reflected:
        return F.conv2d(_reflect(x), weight, bias)
    return F.conv2d(x, weight, bias, geometry.stride, geometry.padding)


def _other_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, needed: tuple[bool, bool, bool]
) -> tuple[Any, ...]:
    """By rows or patches where that pays, the others by torch."""
    by_x = by_weight = None
    if needed[0] and _takes_rows(grad, weight.shape[1], weight, geometry):
        by_x = rows.by_input(grad, weight)
    elif needed[0] and _takes_patches(_pixels(grad), weight, geometry):
        by_x = patches.by_input(grad, weight, (x.shape[2], x.shape[3]), geometry)
    if needed[1] and _takes_rows(x, weight.shape[0], weight, geometry):
        by_weight = rows.by_weight(grad, x, weight.shape[2])
    elif needed[1] and _takes_patches(_pixels(grad), weight, geometry, by_weight=True):
        by_weight = patches.by_weight(grad, x, weight.shape[2], geometry)
    rest = (needed[0] and by_x is None, needed[1] and by_weight is None)
    # Torch's kernel for the gradient by bias is that for the gradient by weight, too.
    found = _torchs_gradients(grad, x, weight, geometry, (*rest, needed[2] and rest[1])) if any(rest) else (None,) * 3
    by_bias = grad.sum((0, 2, 3)) if needed[2] and found[2] is None else found[2]
    return (found[0] if by_x is None else by_x, found[1] if by_weight is None else by_weight, by_bias)


def _torchs_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, needed: tuple[bool, bool, bool]
) -> tuple[Any, ...]:
    stride, padding, reflected = geometry
    image, padding = (_reflect(x), 0) if reflected else (x, padding)
    sizes = [weight.shape[0]], [stride, stride], [padding, padding], [1, 1], False, [0, 0], 1
    by_input, *others = torch.ops.aten.convolution_backward.default(grad, image, weight, *sizes, needed)
    if reflected and by_input is not None:
        by_input = torch.ops.aten.reflection_pad2d_backward.default(by_input, x, (1,) * 4)
    return by_input, *others


# --- each with the two others as derivatives; forward mode and torch.func, which may come across them, need torch's ---


def _in_format_of(grad: Tensor, along: Tensor) -> Tensor:
    """``along`` in the format of ``grad``, which what follows keeps."""
    if not is_channels_last(grad):
        return along.contiguous()
    return along.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # vmap has no contiguous() of formats


def _input_gradient(grad: Tensor, weight: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
    if needs_torch():
        return _torchs_gradients(grad, x, weight, geometry, (True, False, False))[0]
    return _ByInput.apply(grad, weight, x, geometry)


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    if needs_torch():
        return _torchs_gradients(grad, x, weight, geometry, (False, True, False))[1]
    return _ByWeight.apply(grad, x, weight, geometry)


def _convolution(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    if needs_torch():
        return _torchs(x, weight, None, geometry)
    return _Convolution.apply(x, weight, None, geometry)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return _convolve(x, weight, bias, geometry)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), geometry = ctx.saved_tensors, ctx.geometry
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        if not torch.is_grad_enabled() and not (needs_torch() and _takes_winograd(x, weight, geometry)):
            return *_gradients(grad, x, weight, geometry, (need_x, need_weight, need_bias)), None
        return (
            _input_gradient(grad, weight, x, geometry) if need_x else None,
            _weight_gradient(grad, x, weight, geometry) if need_weight else None,
            grad.sum((0, 2, 3)) if need_bias else None,
            None,
        )


class _Transposed(torch.autograd.Function):
    """The gradient of a convolution by its input: what is x here is a gradient there, and grad here an input there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return _convolve_transposed(x, weight, bias, geometry)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), geometry = ctx.saved_tensors, ctx.geometry
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        return (
            _convolution(grad, weight, geometry) if need_x else None,
            _weight_gradient(x, grad, weight, geometry) if need_weight else None,
            grad.sum((0, 2, 3)) if need_bias else None,
            None,
        )


class _ByInput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, weight: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(grad, weight)
        ctx.geometry = geometry
        return _gradients(grad, x, weight, geometry, (True, False, False))[0]

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor | None, ...]:
        grad, weight = ctx.saved_tensors
        need_grad, need_weight = ctx.needs_input_grad[:2]
        along = _in_format_of(grad, along)
        return (
            _convolution(along, weight, ctx.geometry) if need_grad else None,
            _weight_gradient(grad, along, weight, ctx.geometry) if need_weight else None,
            None,  # x only says how large the result is
            None,
        )


class _ByWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(grad, x)
        ctx.geometry = geometry
        return _gradients(grad, x, weight, geometry, (False, True, False))[1]

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor | None, ...]:
        grad, x = ctx.saved_tensors
        need_grad, need_x = ctx.needs_input_grad[:2]
        return (
            _convolution(x, along, ctx.geometry) if need_grad else None,
            _input_gradient(grad, along, x, ctx.geometry) if need_x else None,
            None,
            None,
        )
