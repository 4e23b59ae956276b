"""The nets of CycleGAN (arXiv 1703.10593), one for each direction or domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from m2o_fast.m2o import Domain
from m2o_fast.nn.patch_discriminator import PatchDiscriminator
from m2o_fast.nn.resnet_generator import ResNetGenerator
from m2o_fast.nn.style_encoder import ConvStyleEncoder

if TYPE_CHECKING:
    from m2o_fast.translators.cyclegan.settings import Size


def generators(
    size: Size, domains: Sequence[Domain], styled: Sequence[int], given: Mapping[int, bool]
) -> nn.ModuleDict:
    """By target domain: nets from the other domain's images to what becomes an image of this one."""
    return nn.ModuleDict(
        {
            str(k): ResNetGenerator(
                domains[1 - k].channels,
                domain.channels,
                size.width,
                size.blocks,
                size.norm,
                size.style_dim if k in styled else 0,
            )
            for k, domain in enumerate(domains)
            if given[k]
        }
    )


def discriminators(size: Size, domains: Sequence[Domain], given: Mapping[int, bool]) -> nn.ModuleDict:
    """By domain: nets that tell its images from translations into it."""
    width, layers = size.discriminator_width, size.discriminator_layers
    return nn.ModuleDict(
        {
            str(k): PatchDiscriminator(domain.channels, width, layers, size.norm)
            for k, domain in enumerate(domains)
            if given[k]
        }
    )


def style_encoders(size: Size, domains: Sequence[Domain], styled: Sequence[int]) -> nn.ModuleDict:
    """By domain that has a style."""
    return nn.ModuleDict({str(k): ConvStyleEncoder(domains[k].channels, size.width, size.style_dim) for k in styled})
