"""The generator of pix2pix (arXiv 1611.07004, appendix 6.1): a U-Net of strided convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from m2o_fast.losses import at_least_float32
from m2o_fast.nn.norms import (
    LINEAR,
    RELU,
    Conv2d,
    ConvTranspose2d,
    Norm,
    NormAct,
    activate_,
    conv,
    conv_transpose,
    has_bias,
    init_normal_,
    lay_out_,
)
from m2o_fast.ops._choices import feature_format

_SLOPE = 0.2


class UNet(nn.Module):
    """Halvings down to a few pixels and doublings back, each with what the same level saw on the way down.

    Level 0 is the outermost. Its convolutions have no norm but the transposed one a bias; the innermost level, which
    may have one pixel only, has no norm on the way down.

    Args:
        in_channels: Of the images that come in.
        out_channels: Of those that go out.
        width: Channels of the outermost level; they double up to 8 times that.
        levels: Halvings, at least 2; images are multiples of 2^levels.
        norm: Behind the other convolutions.
    """

    def __init__(
        self, in_channels: int, out_channels: int, width: int = 64, levels: int = 8, norm: Norm = "batch"
    ) -> None:
        super().__init__()
        widths = [width * min(2**k, 8) for k in range(levels)]
        self.widths, self.levels = widths, levels
        self.down = nn.ModuleList([Conv2d(in_channels, width, 4, 2, 1, bias=has_bias(norm))])
        self.down.extend([conv(a, b, 4, 2, 1, norm=norm) for a, b in zip(widths[:-2], widths[1:-1], strict=True)])
        self.down.append(Conv2d(widths[-2], widths[-1], 4, 2, 1, bias=has_bias(norm)))
        self.down_norm = nn.ModuleList([NormAct(norm, channels, _SLOPE) for channels in widths[1:-1]])
        self.up = nn.ModuleList([ConvTranspose2d(2 * width, out_channels, 4, 2, 1)])
        for k, (a, b) in enumerate(zip(widths[1:], widths[:-1], strict=True), start=1):
            self.up.append(conv_transpose(a if k == levels - 1 else 2 * a, b, 4, norm=norm))
        self.up_norm = nn.ModuleList([NormAct(norm, channels, LINEAR) for channels in widths[:-1]])
        init_normal_(self)
        lay_out_(self)

    def dropped_levels(self) -> range:
        """Levels behind whose doubling the published net drops half of the numbers: those with 8 times the width."""
        return range(4, self.levels - 1)

    def dropout_shapes(self, height: int, width: int) -> dict[int, tuple[int, int, int]]:
        """``[C, H, W]`` of the numbers of which half are dropped, by level."""
        return {k: (self.widths[k - 1], height >> k, width >> k) for k in self.dropped_levels()}

    def forward(self, x: Tensor, kept: dict[int, Tensor] | None = None) -> Tensor:
        """Translates.

        Args:
            x: Float ``[N, in_channels, H, W]``, H and W multiples of 2^levels.
            kept: For each level of :meth:`dropped_levels`, bool or float ``[N, C, H, W]``: 1 where a number is kept, 0
                where it is dropped; ``None``: nothing is dropped.

        Returns:
            What tanh makes images of, float ``[N, out_channels, H, W]``.
        """
        skips = self._down(x.contiguous(memory_format=feature_format(x.device.type)))
        y = skips.pop()
        for k in range(self.levels - 1, 0, -1):
            y = self.up_norm[k - 1](self.up[k](activate_(y, RELU)))
            if kept is not None and k in kept:
                y = y * (2 * kept[k]).to(y.dtype)
            y = torch.cat([skips.pop(), y], dim=1)
        # Rounded to bfloat16, images could be told from real ones by the rounding.
        with torch.autocast(x.device.type, enabled=False):
            return self.up[0](activate_(at_least_float32(y), RELU))

    def _down(self, x: Tensor) -> list[Tensor]:
        """What every level hands on to the next one, the outermost first.

        It is the same for the way up: ReLU(LeakyReLU(x)) is ReLU(x).
        """
        first, *middle, last = self.down
        found = [activate_(first(x), _SLOPE)]
        for convolution, norm in zip(middle, self.down_norm, strict=True):
            found.append(norm(convolution(found[-1])))
        return [*found, last(found[-1])]
