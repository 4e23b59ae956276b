"""The networks of StarGAN v2 in plain torch, as published; they import nothing of ``m2o_fast``.

Parameter names are those of the published checkpoints. Any floating dtype works.

Source: Choi et al., StarGAN v2, CVPR 2020 (arXiv 1912.01865).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2
EPS = 1e-5


class InstanceNorm(nn.Module):
    """Instance norm with a learned scale and shift per channel; biased variance, no running statistics."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=EPS)


class AdaIN(nn.Module):
    """Instance norm whose scale ``1 + gamma`` and shift ``beta`` are linear in the style: ``fc(s) = [gamma, beta]``."""

    def __init__(self, style_dim: int, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(style_dim, 2 * channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        gamma, beta = self.fc(style)[:, :, None, None].chunk(2, dim=1)
        return (1 + gamma) * F.instance_norm(x, eps=EPS) + beta


class ResBlk(nn.Module):
    """Residual block of the encoders and the discriminator; the width changes in the second convolution."""

    def __init__(self, channels_in: int, channels_out: int, norm: bool = False, down: bool = False) -> None:
        super().__init__()
        self.norm, self.down = norm, down
        self.conv1 = nn.Conv2d(channels_in, channels_in, 3, 1, 1)
        self.conv2 = nn.Conv2d(channels_in, channels_out, 3, 1, 1)
        if norm:
            self.norm1 = InstanceNorm(channels_in)
            self.norm2 = InstanceNorm(channels_in)
        if channels_in != channels_out:
            self.conv1x1 = nn.Conv2d(channels_in, channels_out, 1, bias=False)

    def shortcut(self, x: Tensor) -> Tensor:
        if hasattr(self, "conv1x1"):
            x = self.conv1x1(x)
        return F.avg_pool2d(x, 2) if self.down else x

    def residual(self, x: Tensor) -> Tensor:
        if self.norm:
            x = self.norm1(x)
        x = self.conv1(F.leaky_relu(x, SLOPE))
        if self.down:
            x = F.avg_pool2d(x, 2)
        if self.norm:
            x = self.norm2(x)
        return self.conv2(F.leaky_relu(x, SLOPE))

    def forward(self, x: Tensor) -> Tensor:
        return (self.shortcut(x) + self.residual(x)) / math.sqrt(2)


class AdainResBlk(nn.Module):
    """Residual block of the decoder; the width changes in the first convolution.

    ``with_shortcut=False`` (published option ``w_hpf > 0``) returns the residual alone, unscaled; the weight of the
    1x1 convolution then exists without being used.
    """

    def __init__(
        self, channels_in: int, channels_out: int, style_dim: int, up: bool = False, with_shortcut: bool = True
    ) -> None:
        super().__init__()
        self.up, self.with_shortcut = up, with_shortcut
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, 1, 1)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1)
        self.norm1 = AdaIN(style_dim, channels_in)
        self.norm2 = AdaIN(style_dim, channels_out)
        if channels_in != channels_out:
            self.conv1x1 = nn.Conv2d(channels_in, channels_out, 1, bias=False)

    def shortcut(self, x: Tensor) -> Tensor:
        if self.up:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.conv1x1(x) if hasattr(self, "conv1x1") else x

    def residual(self, x: Tensor, style: Tensor) -> Tensor:
        x = F.leaky_relu(self.norm1(x, style), SLOPE)
        if self.up:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = self.conv1(x)
        return self.conv2(F.leaky_relu(self.norm2(x, style), SLOPE))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        residual = self.residual(x, style)
        if not self.with_shortcut:
            return residual
        return (residual + self.shortcut(x)) / math.sqrt(2)


def log2_size(size: int) -> int:
    """The binary logarithm of an image size, which must be a power of two of at least 32."""
    if size < 32 or size & (size - 1):
        raise ValueError(f"image size must be a power of two and at least 32, got {size}")
    return size.bit_length() - 1


def doubling_widths(first: int, steps: int, widest: int) -> list[int]:
    """``steps + 1`` widths: ``first``, which is not clamped, then the double of the one before, at most ``widest``."""
    widths = [first]
    for _ in range(steps):
        widths.append(min(2 * widths[-1], widest))
    return widths


def generator_widths(size: int, base_width: int | None, max_width: int, extra: int = 0) -> list[int]:
    """Widths along the generator's encoder, from the stem to the bottleneck."""
    return doubling_widths(base_width or 2**14 // size, log2_size(size) - 4 + extra, max_width)


def classifier_trunk(size: int, base_width: int | None, max_width: int) -> tuple[list[nn.Module], int]:
    """What follows the first convolution of the style encoder and of the discriminator, and its output width."""
    widths = doubling_widths(base_width or 2**14 // size, log2_size(size) - 2, max_width)
    blocks = [ResBlk(a, b, down=True) for a, b in zip(widths, widths[1:], strict=False)]
    width = widths[-1]
    return [*blocks, nn.LeakyReLU(SLOPE), nn.Conv2d(width, width, 4), nn.LeakyReLU(SLOPE)], width


class Generator(nn.Module):
    """``[N, 3, S, S]`` and styles ``[N, style_dim]`` -> ``[N, 3, S, S]``; no tanh at the end."""

    def __init__(
        self, size: int, style_dim: int = 64, max_width: int = 512, w_hpf: float = 0, base_width: int | None = None
    ) -> None:
        super().__init__()
        widths = generator_widths(size, base_width, max_width, extra=1 if w_hpf > 0 else 0)
        shortcut = w_hpf == 0
        last = widths[-1]
        self.from_rgb = nn.Conv2d(3, widths[0], 3, 1, 1)
        self.encode = nn.ModuleList()
        self.decode = nn.ModuleList()
        for a, b in zip(widths, widths[1:], strict=False):
            self.encode.append(ResBlk(a, b, norm=True, down=True))
            self.decode.insert(0, AdainResBlk(b, a, style_dim, up=True, with_shortcut=shortcut))
        for _ in range(2):
            self.encode.append(ResBlk(last, last, norm=True))
            self.decode.insert(0, AdainResBlk(last, last, style_dim, with_shortcut=shortcut))
        self.to_rgb = nn.Sequential(InstanceNorm(widths[0]), nn.LeakyReLU(SLOPE), nn.Conv2d(widths[0], 3, 1))
        initialise(self)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        x = self.from_rgb(x)
        for block in self.encode:
            x = block(x)
        for block in self.decode:
            x = block(x, style)
        return self.to_rgb(x)


def pick(heads: Tensor, labels: Tensor) -> Tensor:
    """Row n of head ``labels[n]``: ``[N, K, ...]`` -> ``[N, ...]``. The other heads get zero gradients, not none."""
    return heads[torch.arange(labels.shape[0]), labels]


def mapping_shared(latent_dim: int, hidden_dim: int) -> nn.Sequential:
    """The layers of the mapping network that all domains share."""
    layers: list[nn.Module] = [nn.Linear(latent_dim, hidden_dim), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Linear(hidden_dim, hidden_dim), nn.ReLU()]
    return nn.Sequential(*layers)


def mapping_head(hidden_dim: int, style_dim: int) -> nn.Sequential:
    """The layers of the mapping network that belong to one domain."""
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Linear(hidden_dim, hidden_dim), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden_dim, style_dim))


class MappingNetwork(nn.Module):
    """Latents ``[N, latent_dim]`` and labels ``[N]`` -> styles ``[N, style_dim]``."""

    def __init__(self, latent_dim: int = 16, style_dim: int = 64, domains: int = 2, hidden_dim: int = 512) -> None:
        super().__init__()
        self.shared = mapping_shared(latent_dim, hidden_dim)
        self.unshared = nn.ModuleList(mapping_head(hidden_dim, style_dim) for _ in range(domains))
        initialise(self)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        hidden = self.shared(z)
        return pick(torch.stack([head(hidden) for head in self.unshared], dim=1), labels)


class StyleEncoder(nn.Module):
    """Images ``[N, 3, S, S]`` and labels ``[N]`` -> styles ``[N, style_dim]``."""

    def __init__(
        self, size: int, style_dim: int = 64, domains: int = 2, max_width: int = 512, base_width: int | None = None
    ) -> None:
        super().__init__()
        trunk, width = classifier_trunk(size, base_width, max_width)
        self.shared = nn.Sequential(nn.Conv2d(3, base_width or 2**14 // size, 3, 1, 1), *trunk)
        self.unshared = nn.ModuleList(nn.Linear(width, style_dim) for _ in range(domains))
        initialise(self)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        hidden = self.shared(x).flatten(1)
        return pick(torch.stack([head(hidden) for head in self.unshared], dim=1), labels)


class Discriminator(nn.Module):
    """Images ``[N, 3, S, S]`` and labels ``[N]`` -> logits ``[N]``."""

    def __init__(self, size: int, domains: int = 2, max_width: int = 512, base_width: int | None = None) -> None:
        super().__init__()
        trunk, width = classifier_trunk(size, base_width, max_width)
        stem = nn.Conv2d(3, base_width or 2**14 // size, 3, 1, 1)
        self.main = nn.Sequential(stem, *trunk, nn.Conv2d(width, domains, 1))
        initialise(self)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return pick(self.main(x).flatten(1), labels)


@torch.no_grad()
def initialise(net: nn.Module) -> None:
    """Every convolution and linear layer: weights normal with std ``sqrt(2 / fan_in)``, biases 0."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            module.weight.normal_(0, math.sqrt(2 / fan_in))
            if module.bias is not None:
                module.bias.zero_()


@dataclass
class Nets:
    """The four networks of a model."""

    generator: nn.Module
    mapping: nn.Module
    style_encoder: nn.Module
    discriminator: nn.Module
