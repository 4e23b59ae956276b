"""A style read off an image by a few strided convolutions."""

from __future__ import annotations

from torch import Tensor, nn

from m2o_fast.nn.norms import Conv2d, activate_, init_normal_, lay_out_
from m2o_fast.ops._choices import feature_format

_SLOPE = 0.2
_LAYERS = 3


class ConvStyleEncoder(nn.Module):
    """Three convolutions of stride 2, the mean over all pixels, a linear layer.

    No norm: it would take away what tells one colour from another. Images need at least ``smallest`` pixels a side.

    Args:
        channels: Of the images.
        width: Channels of the first layer; the others have two and four times as many.
        style_dim: Length of the style.
    """

    smallest = 2**_LAYERS

    def __init__(self, channels: int, width: int, style_dim: int) -> None:
        super().__init__()
        widths = [channels] + [width * 2**k for k in range(_LAYERS)]
        layers = [Conv2d(a, b, 4, 2, 1) for a, b in zip(widths, widths[1:], strict=False)]
        self.convs = nn.ModuleList(layers)
        self.head = nn.Linear(widths[-1], style_dim)
        init_normal_(self)
        for layer in layers:  # so few layers without norm would hand on next to nothing with smaller weights
            nn.init.kaiming_normal_(layer.weight, a=_SLOPE)
        lay_out_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images, float ``[N, channels, H, W]``, to styles ``[N, style_dim]``."""
        x = x.contiguous(memory_format=feature_format(x.device.type))
        for layer in self.convs:
            x = activate_(layer(x), _SLOPE)
        return self.head(x.mean((2, 3)))
