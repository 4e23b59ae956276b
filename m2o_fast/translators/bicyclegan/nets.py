"""The nets of BicycleGAN (arXiv 1711.11586): generators by ways, style encoders and discriminators by domain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from m2o_fast.m2o import Domain
from m2o_fast.nn.norms import Conv2d, conv, lay_out_
from m2o_fast.nn.patch_discriminator import PatchDiscriminator
from m2o_fast.nn.recomputation import recomputed
from m2o_fast.nn.unet import Ends, StyledUNet
from m2o_fast.ops import conv3x3_down2, instance_norm_act, leaky_relu_down2
from m2o_fast.ops._choices import feature_format

if TYPE_CHECKING:
    from m2o_fast.translators.bicyclegan.settings import Size

_SLOPE = 0.2
_MOST_WIDTHS = 4


def init_xavier_(net: nn.Module, gain: float) -> None:
    """Weights of convolutions and linear layers normal by Xavier's rule; biases 0."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.xavier_normal_(module.weight, gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Generators(nn.Module):
    """A U-Net into each target domain, or one for all of them whose first and last layers are theirs.

    Args:
        size: Sizes of the nets.
        domains: Two of them.
        targets: Indices of the domains that images are translated into, each from the other one.
        styled: Those of them that have a style.
    """

    def __init__(self, size: Size, domains: Sequence[Domain], targets: Iterable[int], styled: Sequence[int]) -> None:
        super().__init__()
        ends = {str(k): Ends(domains[1 - k].channels, domains[k].channels, k in styled) for k in targets}
        ways = [ends] if size.shared_trunk else [{k: end} for k, end in ends.items()]
        init = partial(init_xavier_, gain=size.gain)
        self.nets = nn.ModuleList([StyledUNet(way, size.style_dim, size.width, size.levels, init) for way in ways])

    def into(self, target: int) -> StyledUNet:
        """The net that leads into a domain. Raises ``ValueError`` where there is none."""
        for net in self.nets:
            assert isinstance(net, StyledUNet)
            if str(target) in net.first:
                return net
        raise ValueError(f"there is no generator into domain number {target}")


class StyleEncoder(nn.Module):
    """A strided convolution, residual blocks that halve, the mean over all pixels, two linear layers.

    Args:
        channels: Of the images, whose height and width are multiples of 2^(blocks + 1).
        width: Channels of the first layer; those of block k, counted from 1, are min(k + 1, 4) times as many.
        blocks: How many residual blocks there are.
        style_dim: Length of a style.
        gain: How large first weights are.
    """

    def __init__(self, channels: int, width: int, blocks: int, style_dim: int, gain: float = 0.02) -> None:
        super().__init__()
        widths = [width * min(k + 1, _MOST_WIDTHS) for k in range(blocks + 1)]
        self.stem = Conv2d(channels, width, 4, 2, 1)
        self.blocks = nn.ModuleList([HalvingBlock(a, b) for a, b in zip(widths, widths[1:], strict=False)])
        self.mean, self.log_variance = (nn.Linear(widths[-1], style_dim) for _ in range(2))
        init_xavier_(self, gain)
        lay_out_(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images, float ``[N, channels, H, W]``, to means and logarithms of variances of styles ``[N, style_dim]``."""
        x = self.stem(x.contiguous(memory_format=feature_format(x.device.type)))
        for block in self.blocks:
            x = block(x)
        features = F.leaky_relu(x, _SLOPE).mean((2, 3))
        return self.mean(features), self.log_variance(features)


class HalvingBlock(nn.Module):
    """``halved(conv(act(norm(conv(act(norm(x))))))) + conv1x1(halved(x))``, halved by means of 2x2 pixels.

    Args:
        in_channels: Of the input, and of the first convolution's output.
        out_channels: Of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, in_channels, 3, 1, 1, norm="instance")
        self.conv2 = Conv2d(in_channels, out_channels, 3, 1, 1)
        self.conv1x1 = Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[N, in_channels, H, W]``, H and W even, to ``[N, out_channels, H / 2, W / 2]``."""
        shortcut = self.conv1x1(leaky_relu_down2(x, slope=1.0))  # with slope 1, the mean alone
        y = recomputed(self.conv1, partial(instance_norm_act, x, slope=_SLOPE))
        halve = partial(conv3x3_down2, weight=self.conv2.weight, bias=self.conv2.bias)
        return recomputed(halve, partial(instance_norm_act, y, slope=_SLOPE)) + shortcut


class Discriminator(nn.Module):
    """Patch discriminators of an image at several scales, each of half the height and width of that before.

    Args:
        channels: Of the images.
        width: Channels of the first layer; every smaller scale has half as many, rounded.
        layers: Of stride 2.
        scales: How many nets there are.
        gain: How large first weights are.
    """

    def __init__(self, channels: int, width: int, layers: int, scales: int, gain: float = 0.02) -> None:
        super().__init__()
        widths, init = [max(1, round(width / 2**k)) for k in range(scales)], partial(init_xavier_, gain=gain)
        self.scales = nn.ModuleList([PatchDiscriminator(channels, w, layers, "instance", init) for w in widths])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images, float ``[N, channels, H, W]``, to float scores ``[N, 1, H', W']`` of each scale, the finest first."""
        x = x.contiguous(memory_format=feature_format(x.device.type))
        scores = []
        for k, net in enumerate(self.scales):
            if k:
                x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
            scores.append(net(x))
        return tuple(scores)


def style_encoders(size: Size, domains: Sequence[Domain], styled: Iterable[int]) -> nn.ModuleDict:
    """By domain that has a style."""
    options = size.encoder_width, size.encoder_blocks, size.style_dim, size.gain
    return nn.ModuleDict({str(k): StyleEncoder(domains[k].channels, *options) for k in styled})


def discriminators(size: Size, domains: Sequence[Domain], judged: Mapping[str, Sequence[int]]) -> nn.ModuleDict:
    """By kind and domain, ``KIND_DOMAIN``, those of the domains that a kind judges."""
    options = size.discriminator_width, size.discriminator_layers, size.scales, size.gain
    return nn.ModuleDict(
        {
            f"{kind}_{k}": Discriminator(domains[k].channels, *options)
            for kind, targets in judged.items()
            for k in targets
        }
    )
