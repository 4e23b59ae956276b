"""The nets of UNIT: encoders and decoders around a shared latent, and discriminators, in both published forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from m2o_fast.losses import at_least_float32
from m2o_fast.m2o import Domain
from m2o_fast.nn.autoencoder import ContentEncoder, Decoder, ReflectedBlock, init_he_
from m2o_fast.nn.multi_scale_discriminator import MultiScaleDiscriminator
from m2o_fast.nn.norms import Conv2d, ConvTranspose2d, activate_, init_normal_, lay_out_
from m2o_fast.nn.style_encoder import ConvStyleEncoder
from m2o_fast.ops._choices import feature_format
from m2o_fast.translators.settings import smallest_judged_side

if TYPE_CHECKING:
    from m2o_fast.translators.unit.settings import Size

#: of the paper's form
_SLOPE = 0.01


class Generator(nn.Module):
    """An encoder and a decoder for each domain; the residual blocks next to the latent are those of both.

    Args:
        size: Sizes of the nets.
        domains: Two of them.
        styled: Indices of those that have a style: it steers the norms of the decoder's own residual blocks.
    """

    def __init__(self, size: Size, domains: Sequence[Domain], styled: Sequence[int]) -> None:
        super().__init__()
        width, own, paper = size.width, size.blocks - size.share, size.form == "paper"
        channels = {str(k): domain.channels for k, domain in enumerate(domains)}
        encoder, decoder = (PaperEncoder, PaperDecoder) if paper else (ContentEncoder, Decoder)
        block, init_ = (PaperBlock, init_normal_) if paper else (ReflectedBlock, init_he_)
        self.encoders = nn.ModuleDict({k: encoder(count, width, blocks=own) for k, count in channels.items()})
        self.shared_encoder = nn.Sequential(*(block(4 * width) for _ in range(size.share)))
        self.shared_decoder = nn.Sequential(*(block(4 * width) for _ in range(size.share)))
        self.decoders = nn.ModuleDict({k: decoder(count, width, blocks=own) for k, count in channels.items()})
        for shared in (self.shared_encoder, self.shared_decoder):
            init_(shared)
            lay_out_(shared)
        self.steering = nn.ModuleDict({str(k): Steering(size.style_dim, 4 * width, own) for k in styled})

    def encode(self, x: Tensor, k: int) -> Tensor:
        """Images of a domain, float ``[N, C, H, W]``, to means of latents ``[N, 4 * width, H/4, W/4]``."""
        return self.shared_encoder(self.encoders[str(k)](x))

    def decode(self, latent: Tensor, k: int, style: Tensor | None = None) -> Tensor:
        """Latents, and styles ``[N, style_dim]`` where the domain has one, to what tanh makes images of."""
        affines = None if style is None else self.steering[str(k)](style)
        return self.decoders[str(k)](self.shared_decoder(latent), affines)


class Steering(nn.Module):
    """Styles ``[N, style_dim]`` to shifts and scales ``[N, 4 * blocks * channels]`` of residual blocks' norms.

    Of each block those of both norms, one after the other; scales are 1 and what a linear layer makes of the style.
    Before anything is learned, drawn styles spread them around 1 with a standard deviation of sqrt(2).
    """

    def __init__(self, style_dim: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.channels = channels
        self.fc = nn.Linear(style_dim, 4 * blocks * channels)
        init_he_(self)

    def forward(self, style: Tensor) -> Tensor:
        """Float ``[N, style_dim]`` to ``[N, 4 * blocks * channels]``."""
        shifts, scales = self.fc(style).unflatten(1, (-1, 2, self.channels)).unbind(2)
        return torch.stack([shifts, 1 + scales], dim=2).flatten(1)


class PaperBlock(ReflectedBlock):
    """The same over borders of zeros."""

    kind = Conv2d


class PaperEncoder(nn.Module):
    """A convolution of 7x7, two of 3x3 with stride 2, residual blocks (arXiv 1703.00848, appendix).

    Args:
        channels: Of the images.
        width: Channels at full resolution.
        blocks: Residual blocks.
    """

    def __init__(self, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        downs = [Conv2d(a, 2 * a, 3, 2, 1) for a in (width, 2 * width)]
        self.convs = nn.ModuleList([Conv2d(channels, width, 7, 1, 3), *downs])
        self.blocks = nn.Sequential(*(PaperBlock(4 * width) for _ in range(blocks)))
        init_normal_(self)
        lay_out_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images, float ``[N, channels, H, W]``, to ``[N, 4 * width, H/4, W/4]``."""
        x = x.contiguous(memory_format=feature_format(x.device.type))
        for layer in self.convs:
            x = activate_(layer(x), _SLOPE)
        return self.blocks(x)


class PaperDecoder(nn.Module):
    """Residual blocks, two transposed convolutions of 3x3 with stride 2, one of 1x1.

    Args:
        channels: Of the images.
        width: Channels at full resolution.
        blocks: Residual blocks.
    """

    def __init__(self, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([PaperBlock(4 * width) for _ in range(blocks)])
        self.up = nn.ModuleList([ConvTranspose2d(a, a // 2, 3, 2, 1, 1) for a in (4 * width, 2 * width)])
        self.head = ConvTranspose2d(width, channels, 1)
        init_normal_(self)
        lay_out_(self)

    def forward(self, x: Tensor, affines: Tensor | None = None) -> Tensor:
        """Float ``[N, 4 * width, H/4, W/4]``, and what steers the blocks, to what tanh makes images of."""
        parts = [None] * len(self.blocks) if affines is None else affines.chunk(len(self.blocks), dim=-1)
        for block, part in zip(self.blocks, parts, strict=True):
            x = block(x, part)
        for layer in self.up:
            x = activate_(layer(x), _SLOPE)
        # Rounded to bfloat16, images could be told from real ones by the rounding.
        with torch.autocast(x.device.type, enabled=False):
            return self.head(at_least_float32(x))


class Discriminators(nn.Module):
    """One for each domain that is judged, at several scales.

    Args:
        channels: Of the images of each domain that is judged, by its index.
        width: Channels of the first layer.
        layers: Of stride 2.
        scales: At how many resolutions.
    """

    def __init__(self, channels: Mapping[int, int], width: int, layers: int, scales: int) -> None:
        super().__init__()
        self.smallest = smallest_judged_side(layers, scales)  #: side of an image that leaves a score
        self.own = nn.ModuleDict(
            {str(k): MultiScaleDiscriminator(count, width, layers, scales) for k, count in channels.items()}
        )

    def judges(self, k: int) -> bool:
        """Whether there is a discriminator of a domain."""
        return str(k) in self.own

    def forward(self, x: Tensor, k: int) -> tuple[Tensor, ...]:
        """Images of a domain, float ``[N, C, H, W]``, to scores ``[N, 1, h, w]`` of each scale."""
        scores: tuple[Tensor, ...] = self.own[str(k)](x)
        return scores


class PaperDiscriminators(nn.Module):
    """Convolutions of stride 2 with doubling channels, one of 1x1; the last ones are those of both domains.

    Args:
        channels: Of the images of each domain that is judged, by its index.
        width: Channels of the first layer.
        layers: Of stride 2.
        share: How many of them both domains share, with the last convolution; fewer than all. As published, the first
            one is of 7x7 where any is shared, else of 3x3.
    """

    smallest = 1

    def __init__(self, channels: Mapping[int, int], width: int, layers: int, share: int) -> None:
        super().__init__()
        first, widths = 7 if share else 3, [width * 2**layer for layer in range(layers)]
        steps = list(zip(widths, widths[1:], strict=False))
        own, shared = steps[: layers - share - 1], steps[layers - share - 1 :]

        def convolutions(steps: Sequence[tuple[int, int]], *, head: bool) -> list[nn.Module]:
            strided = [Conv2d(a, b, 3, 2, 1) for a, b in steps]
            return [*strided, Conv2d(widths[-1], 1, 1)] if head else [*strided]

        self.own = nn.ModuleDict(
            {
                str(k): nn.Sequential(Conv2d(count, width, first, 2, first // 2), *convolutions(own, head=not share))
                for k, count in channels.items()
            }
        )
        self.shared = nn.Sequential(*(convolutions(shared, head=True) if share and channels else []))
        init_normal_(self)
        lay_out_(self)

    def judges(self, k: int) -> bool:
        """Whether there is a discriminator of a domain."""
        return str(k) in self.own

    def forward(self, x: Tensor, k: int) -> tuple[Tensor, ...]:
        """Images of a domain, float ``[N, C, H, W]``, to logits of being real ``[N, 1, h, w]``."""
        own = self.own[str(k)]
        assert isinstance(own, nn.Sequential)
        *convs, head = *own, *self.shared
        x = x.contiguous(memory_format=feature_format(x.device.type))
        for layer in convs:
            x = activate_(layer(x), _SLOPE)
        return (at_least_float32(head(x)),)


def discriminators(
    size: Size, domains: Sequence[Domain], given: Sequence[bool]
) -> Discriminators | PaperDiscriminators:
    """Of the domains that have one."""
    channels = {k: domain.channels for k, domain in enumerate(domains) if given[k]}
    width, layers = size.discriminator_width, size.discriminator_layers
    if size.form == "paper":
        return PaperDiscriminators(channels, width, layers, size.discriminator_share)
    return Discriminators(channels, width, layers, size.scales)


def style_encoders(size: Size, domains: Sequence[Domain], styled: Sequence[int]) -> nn.ModuleDict:
    """By domain that has a style."""
    return nn.ModuleDict({str(k): ConvStyleEncoder(domains[k].channels, size.width, size.style_dim) for k in styled})
