"""Residual blocks of StarGAN v2 (arXiv 1912.01865, appendix) over the fused operations.

All activations are LeakyReLU with slope 0.2, all 3x3 convolutions have stride 1, zero padding 1 and a bias, all 1x1
shortcuts have no bias, and the sum of residual and shortcut is divided by sqrt(2).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2o_fast import ops
from m2o_fast.ops import (
    adain_act,
    conv2d,
    conv3x3_down2,
    demodulation,
    instance_norm_act,
    leaky_relu_down2,
    modulated_conv2d,
    residual_merge,
    scale_bias_act,
    style_affines,
    up2_conv3x3,
)

SLOPE = 0.2


def he_normal_(layer: nn.Conv2d | nn.Linear) -> None:
    """Weights normal with standard deviation sqrt(2 / fan_in), bias 0."""
    nn.init.kaiming_normal_(layer.weight, a=0, mode="fan_in", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` of stride 1 over :func:`m2o_fast.ops.conv2d`."""

    def forward(self, input: Tensor) -> Tensor:
        """Float ``[N, in_channels, H, W]`` to ``[N, out_channels, H', W']``."""
        return conv2d(input, self.weight, self.bias, padding=int(self.padding[0]))


class Linear(nn.Linear):
    """``nn.Linear`` over :func:`m2o_fast.ops.linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Float ``[..., in_features]`` to ``[..., out_features]``."""
        return ops.linear(input, self.weight, self.bias)


def conv(in_channels: int, out_channels: int, kernel: int, *, padding: int = 0, bias: bool = True) -> nn.Conv2d:
    """A convolution with He initialisation."""
    layer = Conv2d(in_channels, out_channels, kernel, padding=padding, bias=bias)
    he_normal_(layer)
    return layer


def linear(in_features: int, out_features: int) -> nn.Linear:
    """A linear layer with He initialisation."""
    layer = Linear(in_features, out_features)
    he_normal_(layer)
    return layer


def leaky_relu(x: Tensor) -> Tensor:
    """LeakyReLU with the slope that every net of StarGAN v2 uses."""
    return F.leaky_relu(x, SLOPE)


class InstanceNormAct(nn.Module):
    """Instance norm with learned affine, then LeakyReLU: float ``[N, C, H, W]`` to the same shape.

    Args:
        channels: C.
        slope: Of the activation below 0: 0 makes it ReLU, 1 switches it off.
    """

    def __init__(self, channels: int, slope: float = SLOPE) -> None:
        super().__init__()
        self.slope = slope
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` to the same shape."""
        return instance_norm_act(x, self.weight, self.bias, slope=self.slope)


class AdaINAct(nn.Module):
    """Adaptive instance norm, then LeakyReLU: ``(1 + gamma) * IN(x) + beta`` with ``gamma, beta = fc(style)``.

    Args:
        style_dim: Length of the style vector.
        channels: C of the input.
    """

    def __init__(self, style_dim: int, channels: int) -> None:
        super().__init__()
        self.fc = linear(style_dim, 2 * channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` and style ``[N, style_dim]`` to the shape of ``x``."""
        gamma, beta = self.fc(style).chunk(2, dim=1)
        return adain_act(x, gamma, beta, slope=SLOPE)


class ModulatedConv2d(nn.Module):
    """3x3 convolution with style modulation and weight demodulation (arXiv 1912.04958, section 2.2).

    The cheap form: input planes are scaled by ``a = affine(style)``, one convolution is shared by all samples, and
    output planes are scaled by ``d = rsqrt(sum_i a_i^2 * sum_k w_oik^2 + eps)``. No per-sample weights exist.

    Args:
        in_channels: Channels of the input ``[N, in_channels, H, W]``.
        out_channels: Channels of the output ``[N, out_channels, H, W]``.
        style_dim: Length of the style vector ``[N, style_dim]``.
        upsample: Double the image by nearest neighbours before the convolution.
    """

    eps = 1e-8

    def __init__(self, in_channels: int, out_channels: int, style_dim: int, *, upsample: bool = False) -> None:
        super().__init__()
        self.upsample = upsample
        self.affine = Linear(style_dim, in_channels)
        nn.init.normal_(self.affine.weight, std=1 / math.sqrt(style_dim))
        nn.init.ones_(self.affine.bias)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        nn.init.kaiming_normal_(self.weight, a=0, mode="fan_in", nonlinearity="relu")
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Float ``[N, in_channels, H, W]`` and style ``[N, style_dim]`` to ``[N, out_channels, H', W']``."""
        style = self.affine(style)
        return modulated_conv2d(x, self.weight, style, self.bias, up=self.upsample, eps=self.eps)

    def convolve(self, x: Tensor) -> Tensor:
        """The shared convolution alone: input planes already scaled, output planes not yet."""
        return up2_conv3x3(x, self.weight) if self.upsample else conv2d(x, self.weight, padding=1)

    def demodulation(self, scale: Tensor) -> Tensor:
        """``d [N, out_channels]`` for input planes scaled by ``scale [N, in_channels]``."""
        return demodulation(self.weight, scale, eps=self.eps)


class ResBlock(nn.Module):
    """Residual block of the generator's encoder (normalised), the style encoder and the discriminator (not).

    Args:
        in_channels: Channels of the input; the first convolution keeps them, the second changes them.
        out_channels: Channels of the output.
        normalize: Put an affine instance norm before each activation.
        downsample: Halve the image by 2x2 averages.
    """

    def __init__(self, in_channels: int, out_channels: int, *, normalize: bool, downsample: bool) -> None:
        super().__init__()
        self.downsample = downsample
        self.norm1 = InstanceNormAct(in_channels) if normalize else None
        self.conv1 = conv(in_channels, in_channels, 3, padding=1)
        self.norm2 = InstanceNormAct(in_channels) if normalize else None
        self.conv2 = conv(in_channels, out_channels, 3, padding=1)
        self.conv1x1 = conv(in_channels, out_channels, 1, bias=False) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[N, in_channels, H, W]`` to ``[N, out_channels, H', W']``, H' = H / 2 when it downsamples."""
        if self.conv1x1 is None:
            return residual_merge(self._residual(x), x, resample_b="down2" if self.downsample else None)
        # A bias-free 1x1 convolution commutes with the average: pooling first costs a quarter of the work.
        # With slope 1 the activation does nothing, and the average is a kernel whose derivatives are kernels, too.
        shortcut = self.conv1x1(leaky_relu_down2(x, slope=1.0) if self.downsample else x)
        return residual_merge(self._residual(x), shortcut)

    def _residual(self, x: Tensor) -> Tensor:
        x = leaky_relu(x) if self.norm1 is None else self.norm1(x)
        x = conv3x3_down2(x, self.conv1.weight, self.conv1.bias) if self.downsample else self.conv1(x)
        return self.conv2(leaky_relu(x) if self.norm2 is None else self.norm2(x))


class _UpBlock(nn.Module):
    """What the two decoder blocks share: the shortcut and the merge."""

    conv1x1: nn.Conv2d | None
    upsample: bool

    def _merge(self, x: Tensor, residual: Tensor) -> Tensor:
        # The bias-free 1x1 convolution commutes with the nearest upsampling: at low resolution it costs a quarter.
        shortcut = x if self.conv1x1 is None else self.conv1x1(x)
        return residual_merge(residual, shortcut, resample_b="up2" if self.upsample else None)


class AdaINResBlock(_UpBlock):
    """Residual block of the generator's decoder, steered by the style through adaptive instance norm.

    Args:
        in_channels: Channels of the input; the first convolution changes them.
        out_channels: Channels of the output.
        style_dim: Length of the style vector.
        upsample: Double the image by nearest neighbours.
    """

    def __init__(self, in_channels: int, out_channels: int, style_dim: int, *, upsample: bool) -> None:
        super().__init__()
        self.upsample = upsample
        self.norm1 = AdaINAct(style_dim, in_channels)
        self.conv1 = conv(in_channels, out_channels, 3, padding=1)
        self.norm2 = AdaINAct(style_dim, out_channels)
        self.conv2 = conv(out_channels, out_channels, 3, padding=1)
        self.conv1x1 = conv(in_channels, out_channels, 1, bias=False) if in_channels != out_channels else None

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Float ``[N, in_channels, H, W]`` and style to ``[N, out_channels, H', W']``, H' = 2 H when it upsamples."""
        residual = self.norm1(x, style)
        if self.upsample:
            residual = up2_conv3x3(residual, self.conv1.weight, self.conv1.bias)
        else:
            residual = self.conv1(residual)
        return self._merge(x, self.conv2(self.norm2(residual, style)))


class ModulatedResBlock(_UpBlock):
    """The decoder block with weight demodulation in place of adaptive instance norm; arguments as there."""

    def __init__(self, in_channels: int, out_channels: int, style_dim: int, *, upsample: bool) -> None:
        super().__init__()
        self.upsample = upsample
        self.conv1 = ModulatedConv2d(in_channels, out_channels, style_dim, upsample=upsample)
        self.conv2 = ModulatedConv2d(out_channels, out_channels, style_dim)
        self.conv1x1 = conv(in_channels, out_channels, 1, bias=False) if in_channels != out_channels else None

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Float ``[N, in_channels, H, W]`` and style to ``[N, out_channels, H', W']``, H' = 2 H when it upsamples."""
        layers = (self.conv1, self.conv2)
        scale1, scale2 = style_affines(style, [c.affine.weight for c in layers], [c.affine.bias for c in layers])
        # What lies between the convolutions is one pass each time: both modulations are done by the pass before.
        residual = self.conv1.convolve(scale_bias_act(x, None, None, scale1, slope=SLOPE))
        demodulation1, demodulation2 = self.conv1.demodulation(scale1), self.conv2.demodulation(scale2)
        residual = scale_bias_act(residual, demodulation1, self.conv1.bias, scale2, slope=SLOPE)
        residual = scale_bias_act(self.conv2.convolve(residual), demodulation2, self.conv2.bias, slope=1.0)
        return self._merge(x, residual)
