"""Discriminators that score patches (pix2pix, arXiv 1611.07004, section 3.2.2; CycleGAN, arXiv 1703.10593)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from m2o_fast.losses import at_least_float32
from m2o_fast.nn.norms import Conv2d, Norm, NormAct, activate_, conv, convolved, has_bias, init_normal_, lay_out_
from m2o_fast.ops._choices import feature_format

_SLOPE = 0.2


class PatchDiscriminator(nn.Module):
    """Convolutions of 4x4 with LeakyReLU: ``layers`` of stride 2 with doubling channels, then two of stride 1.

    Args:
        channels: Of the images, of both together where pairs are judged.
        width: Channels of the first layer; they double up to 8 times that.
        layers: Of stride 2: 3 sees patches of 70x70 pixels, 2 of 34x34. 0 judges single pixels, by three convolutions
            of 1x1.
        norm: Behind all convolutions but the first and the last.
        init: Puts first weights in place.
    """

    def __init__(
        self,
        channels: int,
        width: int = 64,
        layers: int = 3,
        norm: Norm = "batch",
        init: Callable[[nn.Module], None] = init_normal_,
    ) -> None:
        super().__init__()
        kernel, last = (4 if layers else 1), max(layers, 1) + 1
        widths = [channels] + [width * min(2**k, 8) for k in range(last)] + [1]
        self.convs = nn.ModuleList()
        for k in range(last + 1):
            options = (widths[k], widths[k + 1], kernel, 2 if k < layers else 1, kernel // 4)
            # Published: patches have a bias in the first and last layer, pixels not in the last one with batch norm.
            bias = k == 0 or layers > 0 or has_bias(norm)
            self.convs.append(conv(*options, norm=norm) if 0 < k < last else Conv2d(*options, bias=bias))
        self.norms = nn.ModuleList([NormAct(norm, channels, _SLOPE) for channels in widths[2:-1]])
        init(self)
        lay_out_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images, float ``[N, channels, H, W]``, to float scores without sigmoid ``[N, 1, H', W']``."""
        first, *middle, last = self.convs
        x = x.contiguous(memory_format=feature_format(x.device.type))
        x = activate_(first(x), _SLOPE)
        x = middle[0](x)
        for norm, convolution in zip(self.norms, (*middle[1:], last), strict=True):
            x = convolved(convolution, norm, x)
        return at_least_float32(x)
