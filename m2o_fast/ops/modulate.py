"""Scale each plane, add a bias, activate, scale again: one pass between two modulated convolutions.

:mod:`m2o_fast.ops.modulated_conv` says what modulation is and builds the convolution from this.

Read from top to bottom: schemas, the reference (it *is* the definition), fakes, derivatives, the public functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from m2o_fast.ops._checks import as_number, check_images, check_per_plane, wide
from m2o_fast.ops._formats import in_format, output_format
from m2o_fast.ops._library import (
    Backend,
    choose_backend,
    declare_backends,
    define,
    needs_torch,
    recompute_gradients,
    register,
)

for _name in ("scale_bias_act", "scale_bias_act_triton"):
    define(f"{_name}(Tensor x, Tensor? scale, Tensor? bias, Tensor? next_scale, float slope) -> Tensor")
    # The gradient of a vector that is not given is empty, [0].
    define(
        f"{_name}_backward(Tensor grad, Tensor x, Tensor? scale, Tensor? bias, Tensor? next_scale, float slope)"
        " -> (Tensor grad_x, Tensor grad_scale, Tensor grad_bias, Tensor grad_next_scale)"
    )

Gradients = tuple[Tensor, Tensor, Tensor, Tensor]


# --- reference --------------------------------------------------------------------------------------------------------


def _per_plane(vector: Tensor, x: Tensor) -> Tensor:
    """``[N, C]`` or ``[C]`` in the wide dtype, as it is broadcast over the planes of x."""
    return vector.to(wide(x.dtype))[..., None, None]


def _before_activation(x: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    values = x.to(wide(x.dtype))
    if scale is not None:
        values = values * _per_plane(scale, x)
    return values if bias is None else values + _per_plane(bias, x)


def scale_bias_act_reference(
    x: Tensor, scale: Tensor | None, bias: Tensor | None, next_scale: Tensor | None, slope: float
) -> Tensor:
    """The definition of the operator, in differentiable torch."""
    y = F.leaky_relu(_before_activation(x, scale, bias), slope)
    return (y if next_scale is None else y * _per_plane(next_scale, x)).to(x.dtype)


def _forward_fallback(
    x: Tensor, scale: Tensor | None, bias: Tensor | None, next_scale: Tensor | None, slope: float
) -> Tensor:
    return in_format(scale_bias_act_reference(x, scale, bias, next_scale, slope), output_format(x))


def _backward_fallback(
    grad: Tensor, x: Tensor, scale: Tensor | None, bias: Tensor | None, next_scale: Tensor | None, slope: float
) -> Gradients:
    before = _before_activation(x, scale, bias)
    outer = grad.to(before.dtype)
    inner = outer if next_scale is None else outer * _per_plane(next_scale, x)
    inner = torch.where(before > 0, inner, slope * inner)
    grad_x = inner if scale is None else inner * _per_plane(scale, x)
    empty = before.new_empty(0)
    return (
        in_format(grad_x.to(x.dtype), output_format(x)),
        empty if scale is None else (inner * x).sum((2, 3)),
        empty.clone() if bias is None else inner.sum((2, 3)),
        empty.clone() if next_scale is None else (outer * F.leaky_relu(before, slope)).sum((2, 3)),
    )


# --- fakes, Triton, derivatives ---------------------------------------------------------------------------------------


def _forward_fake(
    x: Tensor, scale: Tensor | None, bias: Tensor | None, next_scale: Tensor | None, slope: float
) -> Tensor:
    return torch.empty_like(x, memory_format=output_format(x))


def _backward_fake(
    grad: Tensor, x: Tensor, scale: Tensor | None, bias: Tensor | None, next_scale: Tensor | None, slope: float
) -> Gradients:
    def gradient(vector: Tensor | None) -> Tensor:
        return x.new_empty((0,) if vector is None else x.shape[:2], dtype=wide(x.dtype))

    grad_x = torch.empty_like(x, memory_format=output_format(x))
    return grad_x, gradient(scale), gradient(bias), gradient(next_scale)


def _forward_triton(*arguments: Any) -> Tensor:
    return import_module("m2o_fast.ops.triton.modulate").scale_bias_act_forward(*arguments)


def _backward_triton(*arguments: Any) -> Gradients:
    return import_module("m2o_fast.ops.triton.modulate").scale_bias_act_backward(*arguments)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.slope = inputs
    ctx.save_for_backward(*tensors)


def _backward_through(fused: Callable[..., Gradients]) -> Callable[..., tuple[Tensor | None, ...]]:
    """The derivative of the operator whose backward kernel is ``fused``."""

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *vectors = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *_differentiable_gradients(ctx, x, vectors, grad), None
        kernel: Callable[..., Gradients] = _backward_fallback if needs_torch() else fused
        grad_x, *sums = kernel(grad, x, *vectors, ctx.slope)
        needed = ctx.needs_input_grad[1:4]
        gradients = (_as_given(*pair) if need else None for *pair, need in zip(sums, vectors, needed, strict=True))
        return grad_x, *gradients, None

    return backward


def _differentiable_gradients(
    ctx: Any, x: Tensor, vectors: Sequence[Tensor | None], grad: Tensor
) -> tuple[Tensor | None, ...]:
    given = [at for at, vector in enumerate(vectors) if vector is not None]

    def reference(x: Tensor, *tensors: Tensor) -> Tensor:
        filled = dict(zip(given, tensors, strict=True))
        return scale_bias_act_reference(x, filled.get(0), filled.get(1), filled.get(2), ctx.slope)

    needed = [ctx.needs_input_grad[0], *(ctx.needs_input_grad[1 + at] for at in given)]
    inputs = (x, *(vector for vector in vectors if vector is not None))
    grad_x, *gradients = recompute_gradients(reference, inputs, needed, grad)
    placed = dict(zip(given, gradients, strict=True))
    return grad_x, *(placed.get(at) for at in range(3))


def _as_given(gradient: Tensor, vector: Tensor) -> Tensor:
    """A gradient ``[N, C]`` in the shape and dtype of ``vector``, which may be ``[C]``."""
    return (gradient if vector.dim() == 2 else gradient.sum(0)).to(vector.dtype)


_operators: dict[str, Callable[..., Tensor]] = {}  # backend -> operator
for _backend, _name, _forward_kernel, _backward_kernel in (
    ("compiled", "scale_bias_act", None, None),
    ("triton", "scale_bias_act_triton", _forward_triton, _backward_triton),
):
    _fused = register(
        f"{_name}_backward",
        fake=_backward_fake,
        reference=None if _backward_kernel else _backward_fallback,
        triton=_backward_kernel,
    )
    _operators[_backend] = register(
        _name,
        fake=_forward_fake,
        reference=None if _forward_kernel else _forward_fallback,
        triton=_forward_kernel,
        backward=_backward_through(_fused),
        setup_context=_setup_context,
    )
for _name in ("scale_bias_act", "scale_channels"):
    declare_backends(_name)


# --- public functions -------------------------------------------------------------------------------------------------


def scale_channels(x: Tensor, scale: Tensor, *, backend: Backend | None = None) -> Tensor:
    """Multiplies every plane of x by its number: ``x * scale[:, :, None, None]``.

    Computed in float32 (float64 for float64 x). Differentiable any number of times in x and scale; backward reads the
    gradient and x once. Runs repeat bit by bit.

    Args:
        x: ``[N, C, H, W]``, float32, float64, bfloat16 or float16, any strides, any size including 0.
        scale: ``[N, C]``, or ``[C]`` for all samples alike; any of these dtypes, which need not be that of x.
        backend: ``"reference"``, ``"compiled"`` or ``"triton"``; ``None`` takes the fastest that is there.

    Returns:
        ``[N, C, H, W]`` in the dtype and memory format (contiguous or channels_last) of x.

    Raises:
        TypeError: for what is not a floating-point tensor.
        ValueError: for a wrong rank, shape or device.
        RuntimeError: if ``backend`` is not available here.
    """
    check_images("scale_channels", "x", x)
    check_per_plane("scale_channels", "scale", scale, x)
    return _scale_bias_act("scale_channels", x, scale, None, None, 1.0, backend)


def scale_bias_act(
    x: Tensor,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    next_scale: Tensor | None = None,
    *,
    slope: float = 0.2,
    backend: Backend | None = None,
) -> Tensor:
    """What lies between two modulated convolutions: ``LeakyReLU(x * scale + bias) * next_scale``.

    ``scale`` is the demodulation of the convolution before, ``next_scale`` the modulation of the one behind
    (arXiv 1912.04958, section 2.2). Every vector may be missing: ``scale_bias_act(x, None, None, a)`` is the first
    activation of a residual block, ``scale_bias_act(x, d, bias, slope=1)`` the end of its last convolution.

    Computed in float32 (float64 for float64 x). Differentiable any number of times in all tensors; the derivative of
    the activation at exactly 0 is ``slope``. For the backward pass nothing is kept but x and the vectors, and it reads
    the gradient and x once. Runs repeat bit by bit.

    Args:
        x: ``[N, C, H, W]``, float32, float64, bfloat16 or float16, any strides, any size including 0.
        scale: ``[N, C]``, or ``[C]`` for all samples alike; any of these dtypes, which need not be that of x (under
            autocast x is bfloat16 and scale float32). ``None`` is 1.
        bias: Like scale; ``None`` is 0.
        next_scale: Like scale; ``None`` is 1.
        slope: Of the activation below 0: 0 makes it ReLU, 1 switches it off.
        backend: ``"reference"``, ``"compiled"`` or ``"triton"``; ``None`` takes the fastest that is there.

    Returns:
        ``[N, C, H, W]`` in the dtype and memory format (contiguous or channels_last) of x.

    Raises:
        TypeError: for what is not a floating-point tensor.
        ValueError: for a wrong rank, shape or device.
        RuntimeError: if ``backend`` is not available here.
    """
    check_images("scale_bias_act", "x", x)
    for name, vector in (("scale", scale), ("bias", bias), ("next_scale", next_scale)):
        if vector is not None:
            check_per_plane("scale_bias_act", name, vector, x)
    return _scale_bias_act(
        "scale_bias_act", x, scale, bias, next_scale, as_number("scale_bias_act", "slope", slope), backend
    )


def _scale_bias_act(
    op: str,
    x: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    next_scale: Tensor | None,
    slope: float,
    backend: str | None,
) -> Tensor:
    chosen = choose_backend(op, x.device, backend)
    if chosen == "reference":
        y = scale_bias_act_reference(x, scale, bias, next_scale, slope)
        return y.contiguous(memory_format=output_format(x))
    return _operators[chosen](x, scale, bias, next_scale, slope)
