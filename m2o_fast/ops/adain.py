"""Normalise each plane, apply a style (AdaIN) or an affine map, activate: one pass instead of eight.

Read from top to bottom: schemas, the reference (it *is* the definition), fakes, derivatives, the public functions.
"""

from __future__ import annotations

from collections.abc import Callable
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
from m2o_fast.ops._resampling import DOWN2, UP2, Resample, code_of, down2, resampled_shape, sum_of_quads, up2

# mean is [2, N, C]: the rounded mean, and what rounding took away. With the first alone, gradients in planes of a large
# mean would be off.
for _name in ("adain_act", "adain_act_triton"):
    define(
        f"{_name}(Tensor x, Tensor gamma, Tensor beta, float eps, float slope, bool one_plus, int resample=0)"
        " -> (Tensor y, Tensor mean, Tensor rstd)"
    )
    define(
        f"{_name}_backward(Tensor grad, Tensor x, Tensor gamma, Tensor beta, Tensor mean, Tensor rstd, float slope,"
        " bool one_plus, int resample=0) -> (Tensor grad_x, Tensor grad_gamma, Tensor grad_beta)"
    )


# --- reference --------------------------------------------------------------------------------------------------------


def _per_plane(affine: Tensor, x: Tensor) -> Tensor:
    """``[N, C]`` or ``[C]`` in the wide dtype, as it is broadcast over the planes of x."""
    return affine.to(wide(x.dtype))[..., None, None]


def _scale(gamma: Tensor, x: Tensor, one_plus: bool) -> Tensor:
    scale = _per_plane(gamma, x)
    return 1 + scale if one_plus else scale


def adain_act_reference(
    x: Tensor, gamma: Tensor, beta: Tensor, eps: float, slope: float, one_plus: bool, resample: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """The definition of the operator, in differentiable torch: y, mean and its rest, 1/sqrt(variance + eps)."""
    resampled_shape("adain_act", x, resample)
    values = x.to(wide(x.dtype))
    count = max(x.shape[2] * x.shape[3], 1)
    mean = values.sum((2, 3), keepdim=True) / count
    deviation = values - mean
    rest = deviation.sum((2, 3), keepdim=True) / count
    centred = deviation - rest
    rstd = (centred.square().sum((2, 3), keepdim=True) / count + eps).rsqrt()
    z = torch.addcmul(_per_plane(beta, x), centred, rstd * _scale(gamma, x, one_plus))
    y = F.leaky_relu(z, slope)
    if resample == DOWN2:
        y = down2(y)
    y = y.to(x.dtype)
    if resample == UP2:
        y = up2(y)
    return y, torch.stack([mean, rest]).flatten(2), rstd.flatten(1)


def _forward_fallback(
    x: Tensor, gamma: Tensor, beta: Tensor, eps: float, slope: float, one_plus: bool, resample: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    y, mean, rstd = adain_act_reference(x, gamma, beta, eps, slope, one_plus, resample)
    return in_format(y, output_format(x)), mean, rstd


def _backward_fallback(
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
    shape = resampled_shape("adain_act", x, resample)
    if grad.shape != shape:
        raise ValueError(f"adain_act_backward: grad must have the shape of y, {list(shape)}, got {list(grad.shape)}")
    rstd, count = rstd[:, :, None, None], max(x.shape[2] * x.shape[3], 1)
    mean, rest = mean[..., None, None]
    normalised = (x.to(wide(x.dtype)) - mean - rest) * rstd
    scale = _scale(gamma, x, one_plus)
    active = torch.addcmul(_per_plane(beta, x), normalised, scale) > 0
    grad = grad.to(normalised.dtype)
    if resample == UP2:
        grad = sum_of_quads(grad)
    elif resample == DOWN2:
        grad = up2(0.25 * grad)
    grad = torch.where(active, grad, slope * grad)
    grad_beta = grad.sum((2, 3), keepdim=True)
    grad_gamma = (grad * normalised).sum((2, 3), keepdim=True)
    grad_x = (grad - grad_beta / count - normalised * (grad_gamma / count)) * (rstd * scale)
    return in_format(grad_x.to(x.dtype), output_format(x)), grad_gamma.flatten(1), grad_beta.flatten(1)


# --- fakes, Triton, derivatives ---------------------------------------------------------------------------------------


def _like_statistics(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[:2], dtype=wide(x.dtype))


def _forward_fake(
    x: Tensor, gamma: Tensor, beta: Tensor, eps: float, slope: float, one_plus: bool, resample: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    shape, memory_format = resampled_shape("adain_act", x, resample), output_format(x)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)
    return y, x.new_empty((2, *x.shape[:2]), dtype=wide(x.dtype)), _like_statistics(x)


def _backward_fake(grad: Tensor, x: Tensor, *others: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    grad_x = torch.empty_like(x, memory_format=output_format(x))
    return grad_x, _like_statistics(x), _like_statistics(x)


def _forward_triton(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return import_module("m2o_fast.ops.triton.adain").adain_act_forward(*arguments)


def _backward_triton(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return import_module("m2o_fast.ops.triton.adain").adain_act_backward(*arguments)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, gamma, beta, ctx.eps, ctx.slope, ctx.one_plus, ctx.resample = inputs
    _, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    ctx.set_materialize_grads(False)  # of these two there are none
    ctx.save_for_backward(x, gamma, beta, mean, rstd)


def _backward_through(fused: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> Callable[..., tuple[Tensor | None, ...]]:
    """The derivative of the operator whose backward kernel is ``fused``."""

    def backward(ctx: Any, grad: Tensor | None, *no_gradients: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 7
        x, gamma, beta, mean, rstd = ctx.saved_tensors
        if torch.is_grad_enabled():

            def reference(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
                return adain_act_reference(x, gamma, beta, ctx.eps, ctx.slope, ctx.one_plus, ctx.resample)[0]

            gradients = recompute_gradients(reference, (x, gamma, beta), ctx.needs_input_grad[:3], grad)
            return *gradients, None, None, None, None
        kernel = _backward_fallback if needs_torch() else fused
        inputs = (grad, x, gamma, beta, mean, rstd)
        grad_x, grad_gamma, grad_beta = kernel(*inputs, ctx.slope, ctx.one_plus, ctx.resample)
        return grad_x, _as_given(grad_gamma, gamma), _as_given(grad_beta, beta), None, None, None, None

    return backward


def _as_given(gradient: Tensor, affine: Tensor) -> Tensor:
    """A gradient ``[N, C]`` in the shape and dtype of ``affine``, which may be ``[C]``."""
    return (gradient if affine.dim() == 2 else gradient.sum(0)).to(affine.dtype)


_operators: dict[str, Callable[..., tuple[Tensor, Tensor, Tensor]]] = {}  # backend -> operator
for _backend, _name, _forward_kernel, _backward_kernel in (
    ("compiled", "adain_act", None, None),
    ("triton", "adain_act_triton", _forward_triton, _backward_triton),
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
for _name in ("adain_act", "instance_norm_act"):
    declare_backends(_name)


# --- public functions -------------------------------------------------------------------------------------------------


def adain_act(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    *,
    eps: float = 1e-5,
    slope: float = 0.2,
    one_plus: bool = True,
    resample: Resample | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Adaptive instance normalisation, LeakyReLU and, if wanted, a change of size, in one pass.

    ``LeakyReLU((1 + gamma) * (x - mean) / sqrt(variance + eps) + beta)`` with mean and biased variance over each plane.
    AdaIN: Huang and Belongie, arXiv 1703.06868; with ``1 + gamma`` as in StarGAN v2, arXiv 1912.01865.

    Statistics and affine are computed in float32 (float64 for float64 x). Differentiable any number of times in x,
    gamma and beta; the derivative of the activation at exactly 0 is ``slope``. Runs repeat bit by bit.

    Args:
        x: ``[N, C, H, W]``, float32, float64, bfloat16 or float16, any strides, any size including 0.
        gamma: ``[N, C]``, or ``[C]`` for all samples alike; any of these dtypes, which need not be that of x (under
            autocast x is bfloat16 and gamma float32).
        beta: Like gamma.
        eps: Added to the variance, at least 0.
        slope: Of the activation below 0: 0 makes it ReLU, 1 switches it off.
        one_plus: Whether the scale is ``1 + gamma`` or ``gamma`` (MUNIT).
        resample: Behind the activation: ``"up2"`` doubles height and width, every number being written four times
            (nearest); ``"down2"`` halves them, with the mean of every 2x2 square.
        backend: ``"reference"``, ``"compiled"`` or ``"triton"``; ``None`` takes the fastest that is there.

    Returns:
        ``[N, C, H, W]``, resampled ``[N, C, 2 H, 2 W]`` or ``[N, C, H/2, W/2]``, in the dtype and memory format
        (contiguous or channels_last) of x.

    Raises:
        TypeError: for what is not a floating-point tensor.
        ValueError: for a wrong rank, shape, device, ``eps`` or ``resample``, and for ``"down2"`` of an odd size.
        RuntimeError: if ``backend`` is not available here.
    """
    return _normalise("adain_act", x, ("gamma", gamma), ("beta", beta), eps, slope, one_plus, resample, backend)


def instance_norm_act(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    slope: float = 0.2,
    resample: Resample | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Instance normalisation (Ulyanov et al., arXiv 1607.08022), LeakyReLU and, if wanted, a change of size.

    ``LeakyReLU(weight * (x - mean) / sqrt(variance + eps) + bias)`` with mean and biased variance over each plane.
    Unlike torch's it takes planes of one pixel (flat, so the result is that of bias), and it keeps channels_last.

    Args:
        x: As for :func:`adain_act`.
        weight: ``[C]``; ``None`` is 1.
        bias: ``[C]``; ``None`` is 0.
        eps: Added to the variance, at least 0.
        slope: Of the activation below 0: 0 makes it ReLU, 1 switches it off.
        resample: As for :func:`adain_act`.
        backend: As for :func:`adain_act`.

    Returns:
        As :func:`adain_act`.

    Raises:
        TypeError: for what is not a floating-point tensor.
        ValueError: for a wrong rank, shape, device, ``eps`` or ``resample``, and for ``"down2"`` of an odd size.
        RuntimeError: if ``backend`` is not available here.
    """
    check_images("instance_norm_act", "x", x)
    one_plus = weight is None
    if weight is None:
        weight = x.new_zeros(x.shape[1], dtype=wide(x.dtype))
    if bias is None:
        bias = weight if one_plus else x.new_zeros(x.shape[1], dtype=wide(x.dtype))
    affine = ("weight", weight), ("bias", bias)
    return _normalise("instance_norm_act", x, *affine, eps, slope, one_plus, resample, backend)


def _normalise(
    op: str,
    x: Tensor,
    gamma: tuple[str, Tensor],
    beta: tuple[str, Tensor],
    eps: float,
    slope: float,
    one_plus: bool,
    resample: str | None,
    backend: str | None,
) -> Tensor:
    check_images(op, "x", x)
    check_per_plane(op, *gamma, x)
    check_per_plane(op, *beta, x)
    eps, slope = as_number(op, "eps", eps, least=0), as_number(op, "slope", slope)
    code = code_of(op, "resample", resample)
    if resample == "down2" and (x.shape[2] % 2 or x.shape[3] % 2):
        raise ValueError(f"{op}: height and width of x must be even for resample='down2', got shape {list(x.shape)}")
    arguments = (x, gamma[1], beta[1], eps, slope, bool(one_plus), code)
    chosen = choose_backend(op, x.device, backend)
    if chosen == "reference":
        return adain_act_reference(*arguments)[0].contiguous(memory_format=output_format(x))
    return _operators[chosen](*arguments)[0]
