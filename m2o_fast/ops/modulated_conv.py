"""Weight modulation and demodulation without per-sample weights (arXiv 1912.04958, section 2.2).

Scaling the weights of a convolution per sample equals scaling its input planes, and demodulating them equals scaling
its output planes: one convolution serves all samples. Plain torch around :mod:`m2o_fast.ops.modulate`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from m2o_fast.ops._checks import as_number, check_device, check_floating, check_images, wide
from m2o_fast.ops._library import Backend
from m2o_fast.ops.convolution import conv2d
from m2o_fast.ops.linear import linear
from m2o_fast.ops.modulate import scale_bias_act, scale_channels
from m2o_fast.ops.resample import up2_conv3x3


def demodulation(weight: Tensor, style: Tensor, *, eps: float = 1e-8) -> Tensor:
    """What brings the output planes of a modulated convolution back to the scale of its input.

    ``d[n, o] = 1 / sqrt(sum_i style[n, i]^2 * sum_k weight[o, i, k]^2 + eps)`` (arXiv 1912.04958, equation 3), computed
    in float32 whatever the dtypes and autocast are (float64 if weight or style is float64).

    Args:
        weight: ``[Co, Ci, k, k]``, any floating-point dtype.
        style: ``[N, Ci]``, the scale of each input plane.
        eps: Added to the sum of squares, at least 0.

    Returns:
        ``[N, Co]``, float32 or float64.

    Raises:
        TypeError: for what is not a floating-point tensor.
        ValueError: for a wrong rank, shape, device or ``eps``.
    """
    _check_modulation("demodulation", weight, style, eps)
    dtype = wide(torch.promote_types(weight.dtype, style.dtype))
    with torch.autocast(weight.device.type, enabled=False):
        power = weight.to(dtype).square().sum((2, 3))
        return torch.rsqrt(F.linear(style.to(dtype).square(), power) + eps)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    bias: Tensor | None = None,
    *,
    demodulate: bool = True,
    up: bool = False,
    eps: float = 1e-8,
    backend: Backend | None = None,
) -> Tensor:
    """Convolution whose weights are modulated by a style per sample (arXiv 1912.04958, section 2.2).

    ``y = d * conv(weight, style * x) + bias`` with ``d`` of :func:`demodulation` (1 without ``demodulate``). Stride 1,
    zero padding k // 2. One convolution is shared by all samples: neither per-sample weights nor groups exist.

    Args:
        x: ``[N, Ci, H, W]``, floating-point, any strides.
        weight: ``[Co, Ci, k, k]``, k 1 or 3, of the dtype of x (autocast apart).
        style: ``[N, Ci]``, any floating-point dtype.
        bias: ``[Co]``, added at last; ``None`` is 0.
        demodulate: Whether output planes are scaled back.
        up: Doubles the image by nearest neighbours before the convolution; folded into it.
        eps: As for :func:`demodulation`.
        backend: Of :func:`scale_channels` and :func:`scale_bias_act`, of which this is made.

    Returns:
        ``[N, Co, H, W]``, or ``[N, Co, 2 H, 2 W]`` with ``up``, in the dtype of the convolution.

    Raises:
        TypeError: for what is not a floating-point tensor, or if x and weight differ in dtype.
        ValueError: for a wrong rank, shape, device or ``eps``.
        RuntimeError: if ``backend`` is not available here.
    """
    op = "modulated_conv2d"
    check_images(op, "x", x)
    _check_modulation(op, weight, style, eps)
    _check_convolution(op, x, weight, style, bias)
    pointwise = weight.shape[2] == 1
    scale = demodulation(weight, style, eps=eps) if demodulate else None
    if _in_float16(x):
        weight, style, scale = _within_range(weight, style, scale)
    y = scale_channels(x, style, backend=backend)
    y = up2_conv3x3(y, weight) if up and not pointwise else conv2d(y, weight, padding=weight.shape[2] // 2)
    if scale is not None or bias is not None:
        y = scale_bias_act(y, scale, bias, slope=1.0, backend=backend)
    # A 1x1 convolution commutes with the upsampling: at low resolution all of this costs a quarter.
    return F.interpolate(y, scale_factor=2, mode="nearest") if up and pointwise else y


def _in_float16(x: Tensor) -> bool:
    """Whether the convolution of x takes place in float16, autocast included."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    return dtype == torch.float16


def _within_range(weight: Tensor, style: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, style and scale of the output planes that make the same result, with nothing in between larger than the
    result or x: what the convolution gives is multiplied by at least 1.

    Large weights are divided by a power of two, which rounds nothing; styles by their largest number, or by more where
    that leaves too much. The result does not depend on these numbers, and so has no gradient in them.
    """
    with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        numbers = style.to(wide(style.dtype))
        largest = weight.abs().amax().to(numbers.dtype)
        size = torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent.clamp(min=0))
        most = numbers.abs().amax(1, keepdim=True)
        factor = torch.where(most > 0, 1 / most, 1).minimum(size if scale is None else size * scale.amin(1, True))
    back = (size / factor).expand(-1, weight.shape[0])
    return (weight / size).to(weight.dtype), numbers * factor, back if scale is None else scale * back


def style_affines(style: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The affine maps of several layers, ``style @ weight.T + bias``, as one matrix product.

    Args:
        style: ``[N, S]``, floating-point.
        weights: Of each layer ``[O, S]``; O may differ.
        biases: Of each layer ``[O]``.

    Returns:
        Of each layer ``[N, O]``: views of one tensor.

    Raises:
        TypeError: for what is not a floating-point tensor.
        ValueError: for no layers, for numbers of weights and biases that differ, or for a wrong rank, shape or device.
    """
    op = "style_affines"
    check_floating(op, "style", style)
    if style.dim() != 2:
        raise ValueError(f"{op}: style must be [N, S], got shape {list(style.shape)}")
    if not weights or len(weights) != len(biases):
        raise ValueError(
            f"{op}: needs at least one layer and as many biases as weights, "
            f"got {len(weights)} weights and {len(biases)} biases"
        )
    for at, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        for name, tensor in ((f"weights[{at}]", weight), (f"biases[{at}]", bias)):
            check_floating(op, name, tensor)
            check_device(op, name, tensor, style)
            if tensor.dtype != style.dtype and not torch.is_autocast_enabled(style.device.type):
                raise TypeError(f"{op}: {name} must have the dtype of style, {style.dtype}, got {tensor.dtype}")
        if weight.dim() != 2 or weight.shape[1] != style.shape[1] or bias.shape != weight.shape[:1]:
            raise ValueError(
                f"{op}: layer {at} must have a weight [O, {style.shape[1]}] and a bias [O], got shapes "
                f"{list(weight.shape)} and {list(bias.shape)}"
            )
    together = linear(style, torch.cat(tuple(weights)), torch.cat(tuple(biases)))
    return together.split([len(weight) for weight in weights], dim=1)


def _check_modulation(op: str, weight: Tensor, style: Tensor, eps: float) -> None:
    check_floating(op, "weight", weight)
    check_floating(op, "style", style)
    if weight.dim() != 4:
        raise ValueError(f"{op}: weight must be [Co, Ci, k, k], got shape {list(weight.shape)}")
    if style.dim() != 2 or style.shape[1] != weight.shape[1]:
        raise ValueError(
            f"{op}: style must be [N, Ci] with the Ci = {weight.shape[1]} of weight, got shape {list(style.shape)}"
        )
    if style.device != weight.device:
        raise ValueError(f"{op}: style must be on the device of weight, {weight.device}, got {style.device}")
    as_number(op, "eps", eps, least=0)


def _check_convolution(op: str, x: Tensor, weight: Tensor, style: Tensor, bias: Tensor | None) -> None:
    check_device(op, "weight", weight, x)
    if weight.shape[2:] not in ((1, 1), (3, 3)):
        raise ValueError(f"{op}: weight must be [Co, Ci, 1, 1] or [Co, Ci, 3, 3], got shape {list(weight.shape)}")
    if 0 in weight.shape[:2] or 0 in x.shape[2:]:
        raise ValueError(
            f"{op}: needs at least one channel on either side and one pixel, got weight of shape {list(weight.shape)} "
            f"and x of shape {list(x.shape)}"
        )
    if x.shape[:2] != style.shape:
        raise ValueError(
            f"{op}: x must be [N, Ci, H, W] with the [N, Ci] = {list(style.shape)} of style, got {list(x.shape)}"
        )
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(f"{op}: weight must have the dtype of x, {x.dtype}, got {weight.dtype}")
    if bias is None:
        return
    check_floating(op, "bias", bias)
    check_device(op, "bias", bias, x)
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"{op}: bias must be [Co] = {list(weight.shape[:1])}, got shape {list(bias.shape)}")
