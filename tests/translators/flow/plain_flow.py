"""Conditional flow matching and its many-to-one variant in plain torch: what the fast one is tested against.

It imports nothing of ``m2o_fast``. Every sample goes through the net by itself with an image of one source and one
target domain, the first convolution sees both images at once, and all is computed as the papers write it. Any floating
dtype works.

Sources: Lipman et al. (arXiv 2210.02747), Ho et al. (arXiv 2006.11239, appendix B), Dhariwal and Nichol (arXiv
2105.05233, section 3).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """So many groups; fewer by half, again and again, where channels are not enough for two in each."""
    while groups > 1 and (channels % groups or channels // groups < 2):
        groups //= 2
    return nn.GroupNorm(groups, channels)


class Embedding(nn.Module):
    """Of time and target domain."""

    def __init__(self, width: int, domains: int) -> None:
        super().__init__()
        self.targets = nn.Parameter(torch.randn(domains, 4 * width))
        self.first, self.second = nn.Linear(width, 4 * width), nn.Linear(4 * width, 4 * width)
        self.width = width

    def forward(self, time: Tensor, target: int) -> Tensor:
        """Times ``[N]`` to ``[N, 4 width]``."""
        frequencies = [1000 / 10_000 ** (2 * k / self.width) for k in range(self.width // 2)]
        waves = [(frequency * time).cos() for frequency in frequencies]
        waves += [(frequency * time).sin() for frequency in frequencies]
        return self.second(F.silu(self.first(torch.stack(waves, dim=1)))) + self.targets[target]


class Residual(nn.Module):
    """The residual block, with its attention."""

    def __init__(self, a: int, b: int, features: int, attention: bool, groups: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(a, groups), nn.Conv2d(a, b, 3, padding=1)
        self.modulation = nn.Linear(features, 2 * b)
        self.norm2, self.conv2 = group_norm(b, groups), nn.Conv2d(b, b, 3, padding=1)
        self.shortcut = nn.Conv2d(a, b, 1) if a != b else nn.Identity()
        self.attention = Attention(b, groups) if attention else nn.Identity()

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Float ``[N, a, H, W]`` to ``[N, b, H, W]``."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(F.silu(embedded))[:, :, None, None].chunk(2, dim=1)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return self.attention(self.shortcut(x) + h)


class Attention(nn.Module):
    """Softmax of products, heads of 64 channels."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.heads = channels // 64 if channels % 64 == 0 else 1
        self.norm = group_norm(channels, groups)
        self.queries, self.out = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` to the same shape."""
        n, c, h, w = x.shape
        q, k, v = self.queries(self.norm(x)).view(n, 3, self.heads, c // self.heads, h * w).unbind(1)
        weights = torch.einsum("nhci,nhcj->nhij", q, k).div(math.sqrt(c // self.heads)).softmax(-1)
        return x + self.out(torch.einsum("nhij,nhcj->nhci", weights, v).reshape(n, c, h, w))


class UNet(nn.Module):
    """The velocity, or the image. ``noised`` are the targets that have a base noise."""

    def __init__(
        self,
        channels: Sequence[int],
        noised: Sequence[int],
        width: int,
        multipliers: Sequence[int],
        blocks: int,
        attention: Sequence[bool],
        groups: int = 32,
    ) -> None:
        super().__init__()
        self.embedding = Embedding(width, len(channels))
        self.conditions = nn.ModuleList([nn.Conv2d(c, width, 3, padding=1) for c in channels])
        self.noises = nn.ModuleDict({str(k): nn.Conv2d(channels[k], width, 3, padding=1, bias=False) for k in noised})
        down: list[nn.Module] = []
        widths, c, features = [width], width, 4 * width
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                down.append(Residual(c, width * multiplier, features, attention[level], groups))
                c = width * multiplier
                widths.append(c)
            if level + 1 < len(multipliers):
                down.append(nn.Conv2d(c, c, 3, stride=2, padding=1))
                widths.append(c)
        self.down = nn.ModuleList(down)
        self.middle = nn.ModuleList([Residual(c, c, features, there, groups) for there in (True, False)])
        up: list[nn.Module] = []
        for level in range(len(multipliers) - 1, -1, -1):
            for _ in range(blocks + 1):
                up.append(Residual(c + widths.pop(), width * multipliers[level], features, attention[level], groups))
                c = width * multipliers[level]
            if level > 0:
                up.append(nn.Conv2d(c, c, 3, padding=1))
        self.up = nn.ModuleList(up)
        self.norm = group_norm(c, groups)
        self.heads = nn.ModuleList([nn.Conv2d(c, count, 3, padding=1) for count in channels])

    def forward(self, x: Tensor, source: int, state: Tensor | None, time: Tensor, target: int) -> Tensor:
        """Images x of a source, and images on their way to a target, to velocities; without a state it is 0."""
        embedded = self.embedding(time, target)
        first = self.conditions[source]
        weight, image = first.weight, x
        if state is not None:
            weight, image = torch.cat([weight, self.noises[str(target)].weight], dim=1), torch.cat([x, state], dim=1)
        h = F.conv2d(image, weight, first.bias, padding=1)
        skips = [h]
        for layer in self.down:
            h = layer(h) if isinstance(layer, nn.Conv2d) else layer(h, embedded)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, embedded)
        for layer in self.up:
            if isinstance(layer, nn.Conv2d):
                h = layer(F.interpolate(h, scale_factor=2, mode="nearest"))
            else:
                h = layer(torch.cat((h, skips.pop()), dim=1), embedded)
        return self.heads[target](F.silu(self.norm(h)))


@dataclass
class Pairs:
    """Images of one source, what they are in one target, and the random numbers; ``known``: which pairs are."""

    source: int
    target: int
    x: Tensor
    y: Tensor
    known: Tensor
    time: Tensor
    base: Tensor


class Trainer:
    """AdamW with a moving average. ``noised`` as for :class:`UNet`; other targets are regressed.

    ``images``: the net gives images, not velocities.
    """

    def __init__(
        self,
        net: UNet,
        noised: Sequence[int],
        supervised: float = 1.0,
        images: bool = False,
        *,
        lr: float,
        decay: float,
        ema: float,
    ) -> None:
        self.net, self.noised, self.supervised, self.images = net, noised, supervised, images
        self.lr, self.ema = lr, ema
        self.average = copy.deepcopy(net)
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=decay)

    def iteration(self, pairs: Sequence[Pairs], rate: float = 1.0) -> dict[str, float]:
        """One step, at a part of the learning rate; losses by name."""
        size = sum(len(part.x) for part in pairs)
        losses = {"velocity": torch.zeros(()), "supervised": torch.zeros(())}
        for part in pairs:
            if part.target in self.noised:
                time = part.time.reshape(-1, 1, 1, 1)
                state = (1 - time) * part.base + time * part.y
                found = self.net(part.x, part.source, state, part.time, part.target)
                found = image_of(found, state, time) if self.images else found
                name, wanted = "velocity", part.y if self.images else part.y - part.base
            else:
                found = self.net(part.x, part.source, None, torch.zeros_like(part.time), part.target)
                name, wanted = "supervised", part.y
            errors = torch.stack([F.mse_loss(one, other) for one, other in zip(found, wanted, strict=True)])
            losses[name] = losses[name] + errors[part.known].sum() / size
        self.optimizer.zero_grad()
        (losses["velocity"] + self.supervised * losses["supervised"]).backward()
        self.optimizer.param_groups[0]["lr"] = rate * self.lr
        self.optimizer.step()
        with torch.no_grad():
            for mean, weight in zip(self.average.parameters(), self.net.parameters(), strict=True):
                mean.mul_(self.ema).add_((1 - self.ema) * weight)
        return {name: loss.item() for name, loss in losses.items()}


def image_of(given: Tensor, state: Tensor, time: Tensor | float) -> Tensor:
    """What EDM makes of a net's output, for images with standard deviation 1/2: arXiv 2206.00364, equation 7.

    Its noisy images are those of a way divided by the time, and its output is scaled so that 1 is left of it at noise.
    """
    variance, noise = 0.25, 1 - time
    skip = time * variance / (time * time * variance + noise * noise)
    out = noise / (time * time * variance + noise * noise) ** 0.5
    return skip * state + out * given


def velocity_of(image: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float], Tensor]:
    """Of images that a net predicts; at time 1 it is the mean of y - z, of which y is known and z has mean 0."""
    return lambda x, time: x if time == 1 else (image(x, time) - x) / (1 - time)


def solve(
    velocity: Callable[[Tensor, float], Tensor], x: Tensor, times: Sequence[float], method: str, last: str | None = None
) -> Tensor:
    """An ODE through given times, in either direction; the step to time 1 by the method ``last``, if it is another."""
    for now, then in zip(times[:-1], times[1:], strict=True):
        first = velocity(x, now)
        if (last or method if then == 1 else method) == "euler":
            x = x + (then - now) * first
        else:
            second = velocity(x + (then - now) * first, then)
            x = x + (then - now) * 0.5 * (first + second)
    return x
