"""The nets of MUNIT (arXiv 1804.04732, appendix B.2), each of one domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from m2o_fast.m2o import Domain
from m2o_fast.nn.autoencoder import ContentEncoder, Decoder, init_he_
from m2o_fast.nn.blocks import Linear
from m2o_fast.nn.multi_scale_discriminator import MultiScaleDiscriminator
from m2o_fast.nn.norms import RELU, Conv2d, activate_, lay_out_
from m2o_fast.nn.recomputation import recomputed
from m2o_fast.nn.resnet_generator import reflected
from m2o_fast.ops._choices import feature_format

if TYPE_CHECKING:
    from m2o_fast.translators.munit.settings import Size

#: Halvings of an image until its style is read off; channels stop to double at four times the width.
_STYLE_HALVINGS = 4


class AutoEncoder(nn.Module):
    """Takes images of a domain apart into content and style, and puts them together again.

    A domain without style has neither encoder nor MLP; scales and shifts of its decoder are parameters, initially 1
    and 0.

    Args:
        size: Sizes of the nets.
        channels: Of the images.
        styled: Whether the domain has a style.
    """

    def __init__(self, size: Size, channels: int, styled: bool) -> None:
        super().__init__()
        self.content_encoder = ContentEncoder(channels, size.width, blocks=size.blocks)
        self.decoder = Decoder(channels, size.width, blocks=size.blocks)
        steered = self.decoder.steered
        if styled:
            self.style_encoder = StyleEncoder(channels, size.width, size.style_dim)
            self.mlp = StyleMLP(size.style_dim, size.mlp_width, steered)
        else:
            self.affines = nn.Parameter(
                torch.tensor([0.0, 1.0]).repeat_interleave(size.width * 4).repeat(2 * size.blocks)
            )

    def decode(self, content: Tensor, style: Tensor | None) -> Tensor:
        """Content and styles ``[N, style_dim]``, where the domain has them, to what tanh makes images of."""
        return self.decoder(content, self.affines if style is None else self.mlp(style))


class StyleEncoder(nn.Module):
    """Stem of 7x7, four halvings of 4x4, the mean over all pixels, a convolution of 1x1; ReLU and no norm.

    Args:
        channels: Of the images, whose height and width are at least 16.
        width: Channels at full resolution.
        style_dim: Length of the style.
    """

    smallest = 2**_STYLE_HALVINGS

    def __init__(self, channels: int, width: int, style_dim: int) -> None:
        super().__init__()
        widths = [width * min(2**k, 4) for k in range(_STYLE_HALVINGS + 1)]
        self.stem = Conv2d(channels, width, 7)
        self.down = nn.ModuleList([Conv2d(a, b, 4, 2) for a, b in zip(widths[:-1], widths[1:], strict=True)])
        self.head = Conv2d(widths[-1], style_dim, 1)
        init_he_(self)
        lay_out_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images, float ``[N, channels, H, W]``, to styles ``[N, style_dim]``."""
        x = x.contiguous(memory_format=feature_format(x.device.type))
        x = activate_(self.stem(reflected(x, 3)), RELU)
        for convolution in self.down:
            x = activate_(recomputed(convolution, partial(reflected, x, 1)), RELU)
        return self.head(x.mean((2, 3), keepdim=True)).flatten(1)


class StyleMLP(nn.Sequential):
    """Three linear layers with ReLU: styles ``[N, style_dim]`` to scales and shifts of a decoder ``[N, steered]``."""

    def __init__(self, style_dim: int, width: int, steered: int) -> None:
        first, second, last = Linear(style_dim, width), Linear(width, width), Linear(width, steered)
        super().__init__(first, nn.ReLU(), second, nn.ReLU(), last)
        init_he_(self)


def auto_encoders(size: Size, domains: Sequence[Domain], styled: Sequence[int]) -> nn.ModuleList:
    """One for each domain."""
    return nn.ModuleList([AutoEncoder(size, domain.channels, k in styled) for k, domain in enumerate(domains)])


def discriminators(size: Size, domains: Sequence[Domain], given: Mapping[int, bool]) -> nn.ModuleDict:
    """By domain: nets that tell its images from translations into it."""
    width, layers, scales = size.discriminator_width, size.discriminator_layers, size.scales
    return nn.ModuleDict(
        {
            str(k): MultiScaleDiscriminator(domain.channels, width, layers, scales)
            for k, domain in enumerate(domains)
            if given[k]
        }
    )
