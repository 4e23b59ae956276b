"""A small net for whatever pictures: a feature extractor that is trained on the real ones, without labels or downloads.

What is asked of its features is what a comparison of pictures is about: what a picture shows and in which colours, that
is, the picture itself at few pixels; and how much it was damaged, by blur, noise or a shift of its colours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2o_fast.metrics.kept_nets import Facts, initialise, kept_net
from m2o_fast.randomness import torch_generator

FEATURES = 64
SIZES = (32, 64)  # side lengths that images come to it in: the smaller one for images that are not larger

_RECIPE = 1  # raised whenever the net or its training changes, so that kept weights of before are not used
_FACTS = ("thumbnail_mse", "damage_mse")
_STEPS, _BATCH, _RATE = 800, 64, 4e-3
_THUMBNAIL = 8  # pixels of a side
_DAMAGES = 5  # blur, noise, and the factors of three channels
_LARGEST_BLUR, _LARGEST_NOISE, _LARGEST_SHIFT = 2.0, 0.15, 0.4


class OwnSource(NamedTuple):
    """Where the pictures come from.

    Attributes:
        key: Name of the data, of letters, digits, ``.``, ``_`` and ``-``; trained weights are kept under it.
        size: Side length of the pictures.
        load: Called when no trained weights are there; gives uint8 ``[n, 1 or 3, S, S]``, one tensor for each domain.
    """

    key: str
    size: int
    load: Callable[[], Sequence[Tensor]]


class OwnNet(nn.Module):
    """Convolutions of stride 2 down to 4 x 4, features, and two heads.

    Args:
        size: Side length of its input, one of :data:`SIZES`.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        widths = [3, 16, 32, 64, 64][: size.bit_length() - 2]
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(narrow, wide, 4, stride=2, padding=1), nn.BatchNorm2d(wide), nn.ReLU())
            for narrow, wide in pairwise(widths)
        )
        self.hidden = nn.Sequential(nn.Linear(widths[-1] * 16, FEATURES), nn.BatchNorm1d(FEATURES), nn.ReLU())
        self.thumbnail = nn.Linear(FEATURES, 3 * _THUMBNAIL**2)
        self.damage = nn.Linear(FEATURES, _DAMAGES)

    def features(self, images: Tensor) -> Tensor:
        """Features ``[N, 64]``, at least 0, of images ``[N, 3, size, size]`` in [0, 1]."""
        x = images * 2 - 1
        for conv in self.convs:
            x = conv(x)
        return self.hidden(x.flatten(1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Thumbnails ``[N, 3 * 64]`` and damages ``[N, 5]``."""
        features = self.features(images)
        return self.thumbnail(features), self.damage(features)


def input_size(size: int) -> int:
    """The side length that images of another one come to the net in."""
    return SIZES[0] if size <= SIZES[0] else SIZES[1]


def resized(images: Tensor, size: int) -> Tensor:
    """Images ``[n, C, S, S]`` in [0, 1] as they come to the net, ``[n, C, size, size]``."""
    if images.shape[2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(0, 1)


def train_own_net(domains: Sequence[Tensor], size: int, seed: int = 0) -> tuple[OwnNet, Facts]:
    """Trains the net on a CPU. The same pictures, seed and machine give the same weights.

    Args:
        domains: uint8 ``[n, 1 or 3, S, S]`` each; they get equal shares of every batch.
        size: Side length of the net's input.
        seed: Seed of the first weights, the order and the damages.

    Returns:
        The net, and the mean losses of the last tenth of its training by name.

    Raises:
        ValueError: No pictures, or of another shape.
    """
    if not domains or any(d.dim() != 4 or d.shape[1] not in (1, 3) or not len(d) for d in domains):
        raise ValueError(f"pictures must be [n >= 1, 1 or 3, S, S], got {[list(d.shape) for d in domains]}")
    net = OwnNet(size)
    initialise(net, seed, "own/weights")
    optimizer = torch.optim.Adam(net.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_STEPS)
    late = torch.zeros(2)
    with torch.enable_grad():
        for step in range(_STEPS):
            generator = torch_generator(seed, "own/batch", step)
            pictures = _drawn(domains, size, generator)
            damages = _damages(len(pictures), generator)
            shown, found = net(damaged(pictures, damages, generator))
            wanted = F.adaptive_avg_pool2d(pictures, _THUMBNAIL).flatten(1)
            losses = torch.stack((F.mse_loss(shown, wanted), F.mse_loss(found, damages)))
            optimizer.zero_grad()
            losses.sum().backward()
            optimizer.step()
            schedule.step()
            if step >= _STEPS - max(1, _STEPS // 10):
                late += losses.detach()
    return net, dict(zip(_FACTS, (late / max(1, _STEPS // 10)).tolist(), strict=True))


def kept_own_net(source: OwnSource) -> tuple[OwnNet, str]:
    """The net of some pictures and the SHA-256 of its weights: trained when it is first asked for."""
    size = input_size(source.size)
    net, digest, _ = kept_net(
        "own", source.key, _RECIPE, _FACTS, lambda: OwnNet(size), lambda: train_own_net(source.load(), size)
    )
    assert isinstance(net, OwnNet)
    return net, digest


def _drawn(domains: Sequence[Tensor], size: int, generator: torch.Generator) -> Tensor:
    """A batch of pictures, float32 ``[n, 3, size, size]`` in [0, 1]."""
    share = -(-_BATCH // len(domains))
    parts = []
    for domain in domains:
        chosen = domain[torch.randint(len(domain), (share,), generator=generator)].float() / 255
        parts.append(resized(chosen, size).expand(-1, 3, -1, -1))
    return torch.cat(parts)


def _damages(count: int, generator: torch.Generator) -> Tensor:
    """How much each picture is damaged, float32 ``[count, 5]``: every other one not, of each kind."""
    amounts = torch.rand((count, _DAMAGES), generator=generator)
    amounts[:, 2:] = amounts[:, 2:] * 2 - 1
    absent = torch.rand((count, 3), generator=generator) < 0.5
    return amounts * ~absent[:, [0, 1, 2, 2, 2]]


def damaged(pictures: Tensor, damages: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures ``[n, 3, S, S]`` in [0, 1] after blur, a shift of their colours, and noise of the given amounts."""
    blurred = blur(pictures, damages[:, 0] * _LARGEST_BLUR)
    shifted = blurred * (1 + damages[:, 2:, None, None] * _LARGEST_SHIFT)
    noise = torch.randn(pictures.shape, generator=generator) * _LARGEST_NOISE
    return (shifted + noise * damages[:, 1, None, None, None]).clamp(0, 1)


def blur(pictures: Tensor, sigmas: Tensor) -> Tensor:
    """Pictures ``[n, C, S, S]``, each blurred by a Gaussian of its own standard deviation, in pixels, ``[n]``."""
    radius = max(1, round(2.5 * _LARGEST_BLUR))
    offsets = torch.arange(-radius, radius + 1, dtype=pictures.dtype)
    weights = torch.exp(-(offsets**2) / (2 * sigmas.clamp(min=0.05)[:, None] ** 2))
    weights = weights / weights.sum(1, keepdim=True)
    count, channels = pictures.shape[:2]
    padded = F.pad(pictures, (radius,) * 4, mode="reflect").flatten(0, 1)[None]
    kernels = weights.repeat_interleave(channels, 0)[:, None, None]
    rows = F.conv2d(padded, kernels, groups=count * channels)
    return F.conv2d(rows, kernels.transpose(2, 3), groups=count * channels)[0].unflatten(0, (count, channels))
