"""Discriminators that score patches of an image at several sizes (MUNIT, arXiv 1804.04732, appendix B.2)."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from m2o_fast.losses import at_least_float32
from m2o_fast.nn.norms import Conv2d, activate_, init_normal_, lay_out_
from m2o_fast.nn.recomputation import recomputed
from m2o_fast.nn.resnet_generator import reflected
from m2o_fast.ops._choices import feature_format

_SLOPE = 0.2


class MultiScaleDiscriminator(nn.Module):
    """A net for each scale, without norm; an image of a scale has half the height and width of that before.

    Args:
        channels: Of the images.
        width: Channels of the first layer of each net; they double with every layer.
        layers: Convolutions of 4x4 with stride 2 over reflected borders; one of 1x1 gives the scores.
        scales: How many nets there are.

    A pixel must be left at the last scale: height and width are at least ``(2^layers - 1) * 2^(scales - 1) + 1``.
    """

    def __init__(self, channels: int, width: int = 64, layers: int = 4, scales: int = 3) -> None:
        super().__init__()
        self.scales = nn.ModuleList([ScaleDiscriminator(channels, width, layers) for _ in range(scales)])
        init_normal_(self)
        lay_out_(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images, float ``[N, channels, H, W]``, to float scores ``[N, 1, H', W']`` of each scale, the finest first."""
        x = x.contiguous(memory_format=feature_format(x.device.type))
        scores = []
        for k, net in enumerate(self.scales):
            if k:
                x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
            scores.append(net(x))
        return tuple(scores)


class ScaleDiscriminator(nn.Module):
    """The net of one scale; arguments as of :class:`MultiScaleDiscriminator`."""

    def __init__(self, channels: int, width: int, layers: int) -> None:
        super().__init__()
        widths = [channels] + [width * 2**k for k in range(layers)]
        pairs = zip(widths[:-1], widths[1:], strict=True)
        self.convs = nn.ModuleList([*(Conv2d(a, b, 4, 2) for a, b in pairs), Conv2d(widths[-1], 1, 1)])

    def forward(self, x: Tensor) -> Tensor:
        """Images, float ``[N, channels, H, W]``, to float scores ``[N, 1, H', W']``."""
        *strided, last = self.convs
        for convolution in strided:
            x = activate_(recomputed(convolution, partial(reflected, x, 1)), _SLOPE)
        return at_least_float32(last(x))
