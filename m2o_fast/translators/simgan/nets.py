"""The nets of SimGAN (arXiv 1612.07828, appendix): a refiner and a discriminator, both fully convolutional."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2o_fast.losses import at_least_float32
from m2o_fast.nn.norms import RELU, Conv2d, activate_, lay_out_
from m2o_fast.ops._choices import feature_format
from m2o_fast.translators.simgan.settings import Form


class _Layer(NamedTuple):
    """A convolution; its channels are so many times the discriminator's width."""

    kernel: int
    stride: int
    times: int


class _Published(NamedTuple):
    """Side of the refiner's kernels; the discriminator's convolutions, with a pooling of 3x3 behind the second one."""

    kernel: int
    layers: tuple[_Layer, ...]
    pooling: int


FORMS: dict[Form, _Published] = {
    "gaze": _Published(3, (_Layer(3, 2, 3), _Layer(3, 2, 2), _Layer(3, 1, 1), _Layer(1, 1, 1)), pooling=1),
    "hand": _Published(7, (_Layer(7, 4, 3), _Layer(5, 2, 2), _Layer(3, 2, 1), _Layer(1, 1, 1)), pooling=2),
}
_POOLED = 2


class Refiner(nn.Module):
    """A convolution, residual blocks and a convolution of 1x1 at full resolution; no norm, zeros beyond the borders.

    Args:
        in_channels: Of what comes in: an image, and planes of its style where it has one.
        out_channels: Of the images that go out.
        width: Channels in between.
        form: Kernels are of 3x3 for gazes, of 7x7 for hands.
        blocks: Residual blocks; published are 4 for gazes, 10 for hands.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int = 64, form: Form = "gaze", blocks: int = 4):
        super().__init__()
        kernel = FORMS[form].kernel
        self.stem = Conv2d(in_channels, width, kernel, padding=kernel // 2)
        self.blocks = nn.ModuleList([ResidualBlock(width, kernel) for _ in range(blocks)])
        self.head = Conv2d(width, out_channels, 1)
        _init_(self)
        lay_out_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[N, in_channels, H, W]`` to what tanh makes images of, float ``[N, out_channels, H, W]``."""
        x = x.contiguous(memory_format=feature_format(x.device.type))
        x = activate_(self.stem(x), RELU)
        for block in self.blocks:
            x = block(x)
        # Rounded to bfloat16, images could be told from real ones by the rounding.
        with torch.autocast(x.device.type, enabled=False):
            return self.head(at_least_float32(x))


class ResidualBlock(nn.Module):
    """``ReLU(x + conv(ReLU(conv(x))))``.

    Args:
        channels: Of input and output.
        kernel: Side of both kernels.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(channels, channels, kernel, padding=kernel // 2)
        self.conv2 = Conv2d(channels, channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[N, channels, H, W]`` to the same shape."""
        return activate_(x + self.conv2(activate_(self.conv1(x), RELU)), RELU)


class Discriminator(nn.Module):
    """Convolutions with ReLU around a pooling; at each place of the last one, logits of real and of refined.

    Args:
        channels: Of the images.
        width: Channels of the last layers.
        form: Patches of 23x23 pixels, every 4 pixels, for gazes; of 71x71, every 32 pixels, for hands.
    """

    def __init__(self, channels: int, width: int = 32, form: Form = "gaze") -> None:
        super().__init__()
        _, layers, self.pooling = FORMS[form]
        widths = [channels, *(layer.times * width for layer in layers)]
        self.convs = nn.ModuleList(
            Conv2d(a, b, layer.kernel, layer.stride, layer.kernel // 2)
            for layer, a, b in zip(layers, widths, widths[1:], strict=False)
        )
        self.head = Conv2d(width, 2, 1)
        _init_(self)
        lay_out_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images, float ``[N, channels, H, W]``, to float logits ``[N, 2, H', W']``: of real, then of refined."""
        x = x.contiguous(memory_format=feature_format(x.device.type))
        for k, convolution in enumerate(self.convs):
            if k == _POOLED:
                x = F.max_pool2d(x, 3, self.pooling, padding=1)
            x = activate_(convolution(x), RELU)
        return at_least_float32(self.head(x))


def _init_(net: nn.Module) -> None:
    """Glorot's uniform weights, biases 0: with He's, what ten blocks without norm hand on would grow a thousandfold."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
