"""What residual blocks do around their convolutions: merge with a shortcut, activate and halve the resolution.

Read from top to bottom: schemas, the references (they *are* the definitions), fakes, derivatives, the public functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from m2o_fast.ops._checks import as_number, check_images, wide
from m2o_fast.ops._choices import is_worth_a_merge
from m2o_fast.ops._formats import in_format, output_format
from m2o_fast.ops._library import (
    Backend,
    choose_backend,
    declare_backends,
    define,
    forced_backend,
    needs_torch,
    register,
)
from m2o_fast.ops._resampling import NONE, UP2, Resample, code_of, down2, sum_of_quads, up2

for _suffix in ("", "_triton"):
    define(f"residual_merge{_suffix}(Tensor a, Tensor b, float scale, int resample) -> Tensor")
    # grad_a is empty where it is not needed; without resampling there is one gradient for both, and grad_b is empty
    define(
        f"residual_merge{_suffix}_backward(Tensor grad, float scale, int resample, bool need_a)"
        " -> (Tensor grad_a, Tensor grad_b)"
    )
    define(f"leaky_relu_down2{_suffix}(Tensor x, float slope) -> Tensor")
    define(f"leaky_relu_down2{_suffix}_backward(Tensor grad, Tensor x, float slope) -> Tensor")
    # the forward derivative along a direction, which is the derivative of the backward operator
    define(f"leaky_relu_down2{_suffix}_tangent(Tensor along, Tensor x, float slope) -> Tensor")


# --- references -------------------------------------------------------------------------------------------------------


def _resampled(b: Tensor, resample: int) -> Tensor:
    return b if resample == NONE else up2(b) if resample == UP2 else down2(b)


def residual_merge_reference(a: Tensor, b: Tensor, scale: float, resample: int) -> Tensor:
    """The definition of ``residual_merge``, in differentiable torch; a and b have one dtype."""
    merged = a.to(wide(a.dtype)) + _resampled(b.to(wide(a.dtype)), resample)
    return (merged * scale).to(a.dtype)


def leaky_relu_down2_reference(x: Tensor, slope: float) -> Tensor:
    """The definition of ``leaky_relu_down2``, in differentiable torch."""
    return down2(F.leaky_relu(x.to(wide(x.dtype)), slope)).to(x.dtype)


def _merge_fallback(a: Tensor, b: Tensor, scale: float, resample: int) -> Tensor:
    return in_format(residual_merge_reference(a, b, scale, resample), output_format(a))


def _merge_backward_fallback(grad: Tensor, scale: float, resample: int, need_a: bool) -> tuple[Tensor, Tensor]:
    scaled, memory_format = grad.to(wide(grad.dtype)) * scale, output_format(grad)
    grad_a = in_format(scaled.to(grad.dtype), memory_format) if need_a or resample == NONE else grad.new_empty(0)
    if resample == NONE:
        return grad_a, grad.new_empty(0)
    grad_b = sum_of_quads(scaled) if resample == UP2 else up2(scaled * 0.25)
    return grad_a, in_format(grad_b.to(grad.dtype), memory_format)


def _leaky_fallback(x: Tensor, slope: float) -> Tensor:
    return in_format(leaky_relu_down2_reference(x, slope), output_format(x))


def _leaky_backward_fallback(grad: Tensor, x: Tensor, slope: float) -> Tensor:
    spread = up2(grad.to(wide(x.dtype)) * 0.25)
    return in_format(torch.where(x > 0, spread, spread * slope).to(x.dtype), output_format(x))


def _leaky_tangent_fallback(along: Tensor, x: Tensor, slope: float) -> Tensor:
    along = along.to(wide(x.dtype))
    return in_format(down2(torch.where(x > 0, along, along * slope)).to(x.dtype), output_format(x))


# --- fakes ------------------------------------------------------------------------------------------------------------


def _empty(like: Tensor, height: int, width: int) -> Tensor:
    n, c, *_ = like.shape
    # a fresh tensor: new_empty takes no memory format
    return torch.empty((n, c, height, width), dtype=like.dtype, device=like.device, memory_format=output_format(like))


def _merge_fake(a: Tensor, b: Tensor, scale: float, resample: int) -> Tensor:
    return _empty(a, *a.shape[2:])


def _merge_backward_fake(grad: Tensor, scale: float, resample: int, need_a: bool) -> tuple[Tensor, Tensor]:
    height, width = grad.shape[2:]
    grad_a = _empty(grad, height, width) if need_a or resample == NONE else grad.new_empty(0)
    if resample == NONE:
        return grad_a, grad.new_empty(0)
    return grad_a, _empty(grad, height // 2, width // 2) if resample == UP2 else _empty(grad, 2 * height, 2 * width)


def _leaky_fake(x: Tensor, slope: float) -> Tensor:
    return _empty(x, x.shape[2] // 2, x.shape[3] // 2)


def _leaky_backward_fake(grad: Tensor, x: Tensor, slope: float) -> Tensor:
    return _empty(x, *x.shape[2:])


def _leaky_tangent_fake(along: Tensor, x: Tensor, slope: float) -> Tensor:
    return _leaky_fake(x, slope)


# --- derivatives: every operator's is made of these operators again, to any order -------------------------------------


#: operator -> what calls it
_operators: dict[str, Callable[..., Any]] = {}


def _operator(name: str, in_torch: Callable[..., Any]) -> Callable[..., Any]:
    """An operator inside a derivative, or the same in plain torch where forward mode or torch.func come across it."""

    def run(*arguments: Any) -> Any:
        return (in_torch if needs_torch() else _operators[name])(*arguments)

    return run


def _register_merge(suffix: str) -> None:
    merge, merge_backward = f"residual_merge{suffix}", f"residual_merge{suffix}_backward"
    backward_operator = _operator(merge_backward, _merge_backward_fallback)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *_, ctx.scale, ctx.resample = inputs

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        need_a, need_b = ctx.needs_input_grad[:2]
        resample = ctx.resample if need_b else NONE
        grad_a, grad_b = backward_operator(grad, ctx.scale, resample, need_a)
        if resample == NONE:
            grad_b = grad_a
        return grad_a if need_a else None, grad_b if need_b else None, None, None

    def setup_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, ctx.scale, ctx.resample, ctx.need_a = inputs
        ctx.set_materialize_grads(False)

    def backward_of_backward(ctx: Any, along_a: Tensor | None, along_b: Tensor | None) -> tuple[Tensor | None, ...]:
        result: Tensor | None = None
        if ctx.resample == NONE:
            along_b = None
        elif not ctx.need_a:
            along_a = None
        if along_b is None:
            if along_a is not None:
                result, _ = backward_operator(along_a, ctx.scale, NONE, True)
        elif along_a is None:
            scaled = _resampled(along_b.to(wide(along_b.dtype)), ctx.resample) * ctx.scale
            result = scaled.to(along_b.dtype)
        else:
            result = _operator(merge, _merge_fallback)(along_a, along_b, ctx.scale, ctx.resample)
        return result, None, None, None

    _implement(merge, _merge_fake, _merge_fallback, backward, setup)
    _implement(merge_backward, _merge_backward_fake, _merge_backward_fallback, backward_of_backward, setup_backward)


def _register_leaky(suffix: str) -> None:
    forward, backward, tangent = (f"leaky_relu_down2{suffix}{kind}" for kind in ("", "_backward", "_tangent"))
    backward_operator = _operator(backward, _leaky_backward_fallback)
    tangent_operator = _operator(tangent, _leaky_tangent_fallback)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *_, x, ctx.slope = inputs
        ctx.save_for_backward(x)

    def of_forward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return backward_operator(grad, x, ctx.slope), None

    # These two are linear in their first argument. They are constant in x almost everywhere: no gradient, which is zero
    # to autograd, but spares networks a pass over zeros.

    def of_backward(ctx: Any, along: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return tangent_operator(along, x, ctx.slope) if ctx.needs_input_grad[0] else None, None, None

    def of_tangent(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return backward_operator(grad, x, ctx.slope) if ctx.needs_input_grad[0] else None, None, None

    _implement(forward, _leaky_fake, _leaky_fallback, of_forward, setup)
    _implement(backward, _leaky_backward_fake, _leaky_backward_fallback, of_backward, setup)
    _implement(tangent, _leaky_tangent_fake, _leaky_tangent_fallback, of_tangent, setup)


def _implement(
    op: str,
    fake: Callable[..., Any],
    fallback: Callable[..., Any],
    backward: Callable[..., tuple[Tensor | None, ...]],
    setup: Callable[..., None],
) -> None:
    launcher = op.replace("_triton", "")

    def triton(*arguments: Any) -> Any:
        return getattr(import_module("m2o_fast.ops.triton.residual"), launcher)(*arguments)

    is_triton = launcher != op
    _operators[op] = register(
        op,
        fake=fake,
        reference=None if is_triton else fallback,
        triton=triton if is_triton else None,
        backward=backward,
        setup_context=setup,
    )


for _suffix in ("", "_triton"):
    _register_merge(_suffix)
    _register_leaky(_suffix)
for _name in ("residual_merge", "leaky_relu_down2"):
    declare_backends(_name)


# --- public functions -------------------------------------------------------------------------------------------------


def residual_merge(
    a: Tensor,
    b: Tensor,
    *,
    scale: float = 1 / math.sqrt(2),
    resample_b: Resample | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Sum of the two branches of a residual block, the shortcut at its own resolution.

    ``(a + resample(b)) * scale``. With ``1 / sqrt(2)`` the sum of two branches of variance 1 has variance 1, as in
    StarGAN v2, arXiv 1912.01865. The resampled b never exists in memory.

    Computed in float32 (float64 for float64 a), rounded once to the dtype of a. Linear, and differentiable any number
    of times. Runs repeat bit by bit.

    Args:
        a: ``[N, C, H, W]``, float32, float64, bfloat16 or float16, any strides, any size including 0.
        b: ``[N, C, H, W]``; ``[N, C, H/2, W/2]`` for ``"up2"``, ``[N, C, 2H, 2W]`` for ``"down2"``. Any of these
            dtypes and any strides; a dtype or memory format other than that of a costs copies.
        scale: Any number.
        resample_b: ``None``; ``"up2"``, nearest: every pixel of b is added to 2 x 2 of a; or ``"down2"``, the mean of
            2 x 2 pixels of b is added to one of a.
        backend: ``"reference"``, ``"compiled"`` or ``"triton"``; ``None`` takes the fastest that is there.

    Returns:
        ``[N, C, H, W]`` in the dtype and memory format (contiguous or channels_last) of a.

    Raises:
        TypeError: for what is not a floating-point tensor.
        ValueError: for a wrong rank, shape, device or ``resample_b``, and for odd H or W with ``"up2"``.
        RuntimeError: if ``backend`` is not available here.
    """
    op = "residual_merge"
    check_images(op, "a", a)
    check_images(op, "b", b)
    code = code_of(op, "resample_b", resample_b)
    _check_shortcut(op, a, b, resample_b)
    chosen = choose_backend(op, a.device, backend)
    if chosen == "compiled" and backend is None and code == NONE and _torch_is_faster(a, b):
        chosen = "reference"
    values = (a, b)
    if a.dtype != b.dtype:  # the result is computed in the wide one of two and rounded once, as the definition says
        values = (a.to(wide(a.dtype)), b.to(wide(a.dtype)))
    arguments = (*values, as_number(op, "scale", scale), code)
    if chosen == "reference":
        y = residual_merge_reference(*arguments).contiguous(memory_format=output_format(a))
    else:
        y = _operators["residual_merge" if chosen == "compiled" else "residual_merge_triton"](*arguments)
    return y if y.dtype == a.dtype else y.to(a.dtype)


def _torch_is_faster(a: Tensor, b: Tensor) -> bool:
    """Whether nobody demands a kernel and plain torch, with the same bits, takes less time; without resampling."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return False  # what is recorded now may run with other sizes
    if a.device.type != "cpu" or b.dtype != a.dtype or is_worth_a_merge(a.numel(), a.dtype):
        return False
    if forced_backend() is not None or torch._C._len_torch_dispatch_stack() > 0:
        return False
    return torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)


def _check_shortcut(op: str, a: Tensor, b: Tensor, resample_b: str | None) -> None:
    n, c, h, w = a.shape
    if resample_b == "up2":
        if h % 2 or w % 2:
            raise ValueError(f"{op}: height and width of a must be even for resample_b='up2', got shape {[n, c, h, w]}")
        h, w = h // 2, w // 2
    elif resample_b == "down2":
        h, w = 2 * h, 2 * w
    if b.shape != (n, c, h, w):
        words = {None: "[N, C, H, W]", "up2": "[N, C, H/2, W/2]", "down2": "[N, C, 2H, 2W]"}[resample_b]
        raise ValueError(
            f"{op}: b must be {words} = {[n, c, h, w]} for a of shape {list(a.shape)} and resample_b={resample_b!r}, "
            f"got shape {list(b.shape)}"
        )
    if b.device != a.device:
        raise ValueError(f"{op}: b must be on the device of a, {a.device}, got {b.device}")


def leaky_relu_down2(x: Tensor, *, slope: float = 0.2, backend: Backend | None = None) -> Tensor:
    """LeakyReLU, then the mean over 2 x 2 pixels: ``avg_pool2d(leaky_relu(x, slope), 2)``.

    For blocks without normalisation, as in discriminators. Computed in float32 (float64 for float64 x). Differentiable
    any number of times, all in fused passes, so it may stand in a network whose gradient is penalised (R1). The
    derivative of the activation at exactly 0 is ``slope``. Only x is saved. Runs repeat bit by bit.

    The gradient depends on x only through its signs. Its derivative by x, zero almost everywhere, is therefore *no*
    gradient, as if x were not used: ``torch.autograd.grad`` of nothing else by x wants ``materialize_grads=True``.

    Args:
        x: ``[N, C, H, W]``, H and W even; float32, float64, bfloat16 or float16, any strides, any size including 0.
        slope: Of the activation below 0: 0 makes it ReLU, 1 switches it off.
        backend: ``"reference"``, ``"compiled"`` or ``"triton"``; ``None`` takes the fastest that is there.

    Returns:
        ``[N, C, H/2, W/2]`` in the dtype and memory format (contiguous or channels_last) of x.

    Raises:
        TypeError: for what is not a floating-point tensor.
        ValueError: for a wrong rank, and for odd H or W.
        RuntimeError: if ``backend`` is not available here.
    """
    op = "leaky_relu_down2"
    check_images(op, "x", x)
    if x.shape[2] % 2 or x.shape[3] % 2:
        raise ValueError(f"{op}: height and width of x must be even, got shape {list(x.shape)}")
    slope = as_number(op, "slope", slope)
    chosen = choose_backend(op, x.device, backend)
    if chosen == "reference":
        return leaky_relu_down2_reference(x, slope).contiguous(memory_format=output_format(x))
    return _operators["leaky_relu_down2" if chosen == "compiled" else "leaky_relu_down2_triton"](x, slope)
