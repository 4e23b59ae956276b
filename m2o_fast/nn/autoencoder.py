"""Encoders of content and decoders over reflected borders (MUNIT, arXiv 1804.04732, appendix B.2).

Content is what is left of an image at a quarter of its resolution behind instance norms. A decoder makes an image of
it; scales and shifts that come from elsewhere steer the instance norms of its residual blocks, or there are none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from m2o_fast.losses import at_least_float32
from m2o_fast.nn.blocks import he_normal_
from m2o_fast.nn.norms import LINEAR, RELU, Conv2d, lay_out_
from m2o_fast.nn.recomputation import recomputed
from m2o_fast.nn.resnet_generator import ReflectedConv3x3, reflected
from m2o_fast.ops import adain_act, instance_norm_act, scale_bias_act
from m2o_fast.ops._choices import feature_format
from m2o_fast.ops.reflected_up import up2_reflected_conv5x5

_Normalise = Callable[[Tensor], Tensor]


def init_he_(net: nn.Module) -> None:
    """Weights of convolutions and linear layers normal with standard deviation sqrt(2 / fan_in), biases 0."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            he_normal_(module)


class ContentEncoder(nn.Module):
    """Stem of 7x7, two halvings of 4x4, residual blocks; instance norm and ReLU behind every convolution.

    Args:
        channels: Of the images.
        width: Channels at full resolution; every halving doubles them.
        blocks: Residual blocks.
    """

    def __init__(self, channels: int, width: int = 64, blocks: int = 4) -> None:
        super().__init__()
        self.stem = _normed(Conv2d(channels, width, 7))
        self.down = nn.ModuleList([_normed(Conv2d(a, 2 * a, 4, 2)) for a in (width, 2 * width)])
        self.blocks = nn.ModuleList([ReflectedBlock(4 * width) for _ in range(blocks)])
        init_he_(self)
        lay_out_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images, float ``[N, channels, H, W]``, H and W multiples of 4, to content ``[N, 4 * width, H/4, W/4]``."""
        x = x.contiguous(memory_format=feature_format(x.device.type))
        x = self.stem(reflected(x, 3))
        normalise = partial(instance_norm_act, slope=RELU)
        for convolution in self.down:
            x = recomputed(convolution, partial(_normalised_and_reflected, normalise, x))
        x = normalise(x)
        for block in self.blocks:
            x = block(x)
        return x


class ReflectedBlock(nn.Module):
    """``x + norm(conv(ReLU(norm(conv(x)))))``, convolutions of 3x3 over reflected borders, instance norms.

    Args:
        channels: Of input and output.
    """

    kind: type[Conv2d] = ReflectedConv3x3  #: of the convolutions; a subclass may have another border

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _normed(self.kind(channels, channels, 3, padding=1))
        self.conv2 = _normed(self.kind(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, affines: Tensor | None = None) -> Tensor:
        """Float ``[N, C, H, W]`` to the same shape.

        Args:
            x: Input.
            affines: ``[N, 4 C]``, or ``[4 C]`` for all images alike: shift and scale behind the first convolution, then
                those behind the second. The scale is taken as it is, without 1. ``None``: shift 0 and scale 1.
        """
        first, second = self._norms(affines)
        y = recomputed(self.conv2, partial(first, self.conv1(x)))
        return x + second(y)

    def _norms(self, affines: Tensor | None) -> tuple[_Normalise, _Normalise]:
        if affines is None:
            return partial(instance_norm_act, slope=RELU), partial(instance_norm_act, slope=LINEAR)
        beta1, gamma1, beta2, gamma2 = affines.chunk(4, dim=-1)
        first = partial(adain_act, gamma=gamma1, beta=beta1, slope=RELU, one_plus=False)
        return first, partial(adain_act, gamma=gamma2, beta=beta2, slope=LINEAR, one_plus=False)


class Decoder(nn.Module):
    """Residual blocks, two doublings with a convolution of 5x5 and layer norm, a head of 7x7.

    Args:
        channels: Of the images.
        width: Channels at full resolution; content has four times as many.
        blocks: Residual blocks.
    """

    def __init__(self, channels: int, width: int = 64, blocks: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([ReflectedBlock(4 * width) for _ in range(blocks)])
        self.up = nn.ModuleList([DoublingConv5x5(2 * a, a) for a in (2 * width, width)])
        self.up_norm = nn.ModuleList([LayerNormAct(a) for a in (2 * width, width)])
        self.head = Conv2d(width, channels, 7)
        self.steered = 16 * blocks * width  #: how many numbers steer it
        init_he_(self)
        lay_out_(self)

    def forward(self, content: Tensor, affines: Tensor | None = None) -> Tensor:
        """Content, float ``[N, C, H, W]``, to what tanh makes images of, float32 ``[N, channels, 4 H, 4 W]``.

        Args:
            content: What :class:`ContentEncoder` gives.
            affines: ``[N, steered]``, or ``[steered]`` for all images alike: those of the blocks side by side.
        """
        x = content
        parts = [None] * len(self.blocks) if affines is None else affines.chunk(len(self.blocks), dim=-1)
        for block, part in zip(self.blocks, parts, strict=True):
            x = block(x, part)
        norms: list[Any] = list(self.up_norm)
        for k, convolution in enumerate(self.up):
            x = recomputed(convolution, norms[k - 1].of(x)) if k else convolution(x)
        # Rounded to bfloat16, images could be told from real ones by the rounding.
        with torch.autocast(x.device.type, enabled=False):
            x = at_least_float32(x)
            normalise = norms[-1].of(x)
            return recomputed(self.head, lambda: reflected(normalise(), 3))


class DoublingConv5x5(nn.Module):
    """Nearest doubling, then a convolution of 5x5 over reflected borders.

    Args:
        in_channels: Of what comes in.
        out_channels: Of what goes out.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 5, 5))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.kaiming_normal_(self.weight, a=0, mode="fan_in", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[N, in_channels, H, W]`` to ``[N, out_channels, 2 H, 2 W]``."""
        return up2_reflected_conv5x5(x, self.weight, self.bias)


class LayerNormAct(nn.Module):
    """Layer norm over channels and pixels of an image, then ReLU.

    ``ReLU(gamma * (x - mean) / (std + eps) + beta)`` with the unbiased standard deviation, gamma and beta per channel,
    gamma initially uniform in [0, 1]; statistics in float32 at least.

    Args:
        channels: C.
    """

    eps = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` to the same shape."""
        return self.of(x)()

    def of(self, x: Tensor) -> Callable[[], Tensor]:
        """The same of this ``x``, whose statistics are taken once."""
        std, mean = torch.std_mean(at_least_float32(x), dim=(1, 2, 3))
        scale = self.gamma / (std + self.eps)[:, None]
        return partial(scale_bias_act, x, scale, self.beta - mean[:, None] * scale, slope=RELU)


def _normed(convolution: Conv2d) -> Conv2d:
    """A convolution in front of an instance norm."""
    convolution.normed = True
    return convolution


def _normalised_and_reflected(normalise: _Normalise, x: Tensor) -> Tensor:
    return reflected(normalise(x), 1)
