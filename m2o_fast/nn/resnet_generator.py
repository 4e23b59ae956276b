"""The generator of CycleGAN (arXiv 1703.10593, appendix 7.2): residual blocks at a quarter of the resolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2o_fast.losses import at_least_float32
from m2o_fast.nn.norms import (
    LINEAR,
    RELU,
    Conv2d,
    Norm,
    NormAct,
    conv,
    conv_transpose,
    convolved,
    init_normal_,
    lay_out_,
    norm_act,
    normalised,
)
from m2o_fast.ops._choices import feature_format
from m2o_fast.ops.reflected import reflected_conv3x3


class ResNetGenerator(nn.Module):
    """Stem of 7x7, two halvings, residual blocks, two doublings, head of 7x7; any size that is a multiple of 4.

    Args:
        in_channels: Of the images that come in.
        out_channels: Of those that go out.
        width: Channels at full resolution; the blocks have four times as many.
        blocks: Residual blocks: 9 for images from 256 pixels on, 6 below, as published.
        norm: Behind all convolutions but the last.
        style_dim: Length of the style that steers the norms from the residual blocks on, which are instance norms
            then; 0: no style.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 64,
        blocks: int = 9,
        norm: Norm = "instance",
        style_dim: int = 0,
    ) -> None:
        super().__init__()
        styled: Norm = "instance" if style_dim else norm
        self.stem = conv(in_channels, width, 7, norm=norm)
        self.stem_norm = NormAct(norm, width, RELU)
        widths = [width, 2 * width, 4 * width]
        ups, downs = list(zip(widths[:0:-1], widths[-2::-1], strict=True)), list(zip(widths, widths[1:], strict=False))
        self.down = nn.ModuleList([conv(a, b, 3, 2, 1, norm=norm) for a, b in downs])
        self.down_norm = nn.ModuleList([NormAct(norm, b, RELU) for _, b in downs])
        self.blocks = nn.ModuleList([ReflectedResBlock(4 * width, styled, style_dim) for _ in range(blocks)])
        self.up = nn.ModuleList([conv_transpose(a, b, 3, more=1, norm=styled) for a, b in ups])
        self.up_norm = nn.ModuleList([norm_act(styled, b, RELU, style_dim) for _, b in ups])
        self.head = Conv2d(width, out_channels, 7)
        init_normal_(self)
        lay_out_(self)

    def forward(self, x: Tensor, style: Tensor | None = None) -> Tensor:
        """Images, float ``[N, in_channels, H, W]``, and styles ``[N, style_dim]`` to what tanh makes images of."""
        x = x.contiguous(memory_format=feature_format(x.device.type))
        x = self.stem(_reflected(x))
        for norm, convolution in zip((self.stem_norm, self.down_norm[0]), self.down, strict=True):
            x = convolved(convolution, norm, x)
        x = self.down_norm[1](x)
        for block in self.blocks:
            x = block(x, style)
        x = convolved(self.up[1], self.up_norm[0], self.up[0](x), style)
        # Rounded to bfloat16, images could be told from real ones by the rounding.
        with torch.autocast(x.device.type, enabled=False):
            style = None if style is None else at_least_float32(style)  # one that was read off an image may be bfloat16
            return convolved(self.head, self.up_norm[1], x, style, border=_reflected)


class ReflectedConv3x3(Conv2d):
    """A convolution of 3x3 over borders that are reflected."""

    def forward(self, input: Tensor) -> Tensor:
        """Float ``[N, in_channels, H, W]`` to ``[N, out_channels, H, W]``."""
        return reflected_conv3x3(input, self.weight, None if self.normed else self.bias)


class ReflectedResBlock(nn.Module):
    """``x + norm(conv(ReLU(norm(conv(x)))))``, convolutions of 3x3 over borders that are reflected.

    Args:
        channels: Of input and output.
        norm: Behind both convolutions.
        style_dim: Length of the style that steers the norms; 0: no style.
    """

    def __init__(self, channels: int, norm: Norm, style_dim: int = 0) -> None:
        super().__init__()
        self.conv1 = conv(channels, channels, 3, norm=norm, kind=ReflectedConv3x3)
        self.norm1 = norm_act(norm, channels, RELU, style_dim)
        self.conv2 = conv(channels, channels, 3, norm=norm, kind=ReflectedConv3x3)
        self.norm2 = norm_act(norm, channels, LINEAR, style_dim)

    def forward(self, x: Tensor, style: Tensor | None = None) -> Tensor:
        """Float ``[N, channels, H, W]`` and style ``[N, style_dim]`` to the shape of ``x``."""
        y = convolved(self.conv2, self.norm1, self.conv1(x), style)
        return x + normalised(self.norm2, y, style)


def reflected(x: Tensor, beyond: int) -> Tensor:
    """``x`` with so many pixels more on each side, its own reflection."""
    return F.pad(x, (beyond,) * 4, mode="reflect")


def _reflected(x: Tensor) -> Tensor:
    """At least float32, with the three pixels on each side that a convolution of 7x7 sees beyond an image."""
    return reflected(at_least_float32(x), 3)
