"""The velocity of a flow: a U-Net (arXiv 2006.11239, appendix B) that knows time and target domain.

Residual blocks of group norm, SiLU and 3x3 convolution, of which the second norm is scaled and shifted by time and
target domain (arXiv 2105.05233, section 3); self-attention where images are small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2o_fast.losses import at_least_float32
from m2o_fast.nn.blocks import Linear
from m2o_fast.nn.norms import Conv2d, lay_out_
from m2o_fast.nn.permutation import permuted
from m2o_fast.ops import up2_conv3x3
from m2o_fast.ops._choices import feature_format
from m2o_fast.translators.flow.norms import NormSiLU, groups_of

#: Channels of a head of attention, where they divide all.
_HEAD = 64
#: Of the frequencies of time, which lies between 0 and 1.
_SCALE, _LONGEST = 1000.0, 10_000.0


class Velocity(nn.Module):
    """From images on their way to a target domain, and what they are made of, to their velocity.

    Args:
        conditions: Channels of the images that they are made of, by source domain.
        noises: Channels of the images on their way, by target domain; one that is left out starts at zeros and is
            there in one step, so it has no first layer.
        targets: Channels of the velocities, by target domain.
        width: Channels at full resolution.
        multipliers: The channels of each level in widths.
        blocks: Residual blocks of a level on the way down.
        attention: By level, whether it has self-attention.
        groups: Of the norms, at most.
    """

    def __init__(
        self,
        conditions: Sequence[int],
        noises: dict[int, int],
        targets: Sequence[int],
        width: int,
        multipliers: Sequence[int],
        blocks: int,
        attention: Sequence[bool],
        groups: int = 32,
    ) -> None:
        super().__init__()
        self.embedding = Embedding(width, len(targets))
        features = self.embedding.features
        self.conditions = nn.ModuleList([Conv2d(channels, width, 3, padding=1) for channels in conditions])
        # Beside the condition's bias theirs would be a second one; so a velocity from zeros needs no layer at all.
        self.noises = nn.ModuleDict(
            {str(k): Conv2d(channels, width, 3, padding=1, bias=False) for k, channels in noises.items()}
        )
        widths = [width * multiplier for multiplier in multipliers]
        self.down, kept, channels = nn.ModuleList(), [width], width
        for level, out in enumerate(widths):
            for _ in range(blocks):
                self.down.append(Block(channels, out, features, attention[level], groups))
                channels = out
                kept.append(channels)
            if level < len(widths) - 1:
                self.down.append(Halving(channels))
                kept.append(channels)
        self.middle = nn.ModuleList([Block(channels, channels, features, there, groups) for there in (True, False)])
        self.up = nn.ModuleList()
        for level, out in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(Block(channels + kept.pop(), out, features, attention[level], groups))
                channels = out
            if level:
                self.up.append(Doubling(channels))
        self.norm = NormSiLU(channels, groups)
        self.heads = nn.ModuleList([Conv2d(channels, count, 3, padding=1) for count in targets])
        for parameter in self.heads.parameters():
            nn.init.zeros_(parameter)
        lay_out_(self)

    def forward(
        self, conditions: Sequence[Tensor], order: Tensor | None, noises: Sequence[Tensor], times: Tensor
    ) -> list[Tensor]:
        """Velocities, by target domain.

        Args:
            conditions: What the images are made of: per source domain, float ``[n_k, c_k, S, S]``.
            order: int64 ``[N]``: row i of the targets, grouped by domain, is row ``order[i]`` of the conditions;
                ``None``: the same.
            noises: The images on their way: per target domain, float ``[m_k, c_k, S, S]``; of one that has no first
                layer they are zeros, of which the number of rows counts alone.
            times: Float ``[N]`` in [0, 1], by target.

        Returns:
            Per target domain, float ``[m_k, c_k, S, S]``.
        """
        counts = [part.shape[0] for part in noises]
        embedded = self.embedding(times, counts)
        x = self._first(conditions, order, noises)
        kept = [x]
        for layer in self.down:
            x = layer(x, embedded)
            kept.append(x)
        for layer in self.middle:
            x = layer(x, embedded)
        for layer in self.up:
            x = layer(x if isinstance(layer, Doubling) else torch.cat([x, kept.pop()], dim=1), embedded)
        with torch.autocast(x.device.type, enabled=False):
            return self._last(at_least_float32(x), counts)

    def _first(self, conditions: Sequence[Tensor], order: Tensor | None, noises: Sequence[Tensor]) -> Tensor:
        known = _features({self.conditions[k]: part for k, part in enumerate(conditions)})
        known = known if order is None else permuted(known, order)
        if not self.noises:
            return known
        return known + torch.cat([self._of_noise(k, part, known) for k, part in enumerate(noises) if part.shape[0]])

    def _of_noise(self, k: int, x: Tensor, like: Tensor) -> Tensor:
        if str(k) in self.noises:
            return _features({self.noises[str(k)]: x})
        return like.new_zeros(()).expand(x.shape[0], *like.shape[1:])

    def _last(self, x: Tensor, counts: Sequence[int]) -> list[Tensor]:
        parts = zip(x.split(list(counts)), self.heads, strict=True)
        return [self.norm(part, head) if part.shape[0] else head(part) for part, head in parts]


def _features(images: dict[nn.Module, Tensor]) -> Tensor:
    """Features of images by their first layers, in the memory format that what follows keeps."""
    present = [
        layer(part.contiguous(memory_format=feature_format(part.device.type)))
        for layer, part in images.items()
        if part.shape[0]
    ]
    return present[0] if len(present) == 1 else torch.cat(present)


class Embedding(nn.Module):
    """Time and target domain as features of each sample, in float32 at least.

    Args:
        width: Of the features are four times as many.
        domains: How many targets there are.
    """

    def __init__(self, width: int, domains: int) -> None:
        super().__init__()
        self.width, self.features = width, 4 * width
        self.first, self.second = Linear(width, self.features), Linear(self.features, self.features)
        self.targets = nn.Parameter(torch.randn(domains, self.features))

    def forward(self, times: Tensor, counts: Sequence[int]) -> Tensor:
        """Times, float ``[N]`` in [0, 1], and the numbers of samples of each target, to float ``[N, features]``."""
        with torch.autocast(times.device.type, enabled=False):
            half = self.width // 2
            steps = torch.arange(half, device=times.device, dtype=times.dtype) / half
            angles = _SCALE * times[:, None] * torch.exp(-math.log(_LONGEST) * steps)
            waves = torch.cat([angles.cos(), angles.sin()], dim=1)
            targets = [self.targets[k].expand(count, -1) for k, count in enumerate(counts)]
            return F.silu(self.second(F.silu(self.first(waves))) + torch.cat(targets))


class Block(nn.Module):
    """Two convolutions behind norms, beside a shortcut; then, where there is one, self-attention.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        features: Of the embedding of time and target.
        attention: Whether there is self-attention.
        groups: Of the norms, at most.
    """

    def __init__(self, in_channels: int, out_channels: int, features: int, attention: bool, groups: int) -> None:
        super().__init__()
        self.norm1 = NormSiLU(in_channels, groups)
        self.conv1 = Conv2d(in_channels, out_channels, 3, padding=1)
        self.modulation = Linear(features, 2 * out_channels)
        self.norm2 = NormSiLU(out_channels, groups)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None
        self.attention = Attention(out_channels, groups) if attention else None

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Float ``[N, in_channels, H, W]`` and ``[N, features]`` to ``[N, out_channels, H, W]``."""
        y = self.norm1(x, self.conv1)
        y = self.norm2(y, self.conv2, self.modulation(embedded))
        y = y + (x if self.shortcut is None else self.shortcut(x))
        return y if self.attention is None else self.attention(y)


class Attention(nn.Module):
    """Self-attention of all pixels behind a group norm, added to its input.

    Args:
        channels: Of input and output.
        groups: Of the norm, at most.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.heads = channels // _HEAD if channels % _HEAD == 0 else 1
        self.norm = nn.GroupNorm(groups_of(channels, groups), channels)
        self.queries = Linear(channels, 3 * channels)
        self.out = Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` to the same shape."""
        rows, channels, height, width = x.shape
        pixels = self.norm(x).to(x.dtype).permute(0, 2, 3, 1).reshape(rows, height * width, channels)
        parts = self.queries(pixels).view(rows, height * width, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(*parts).transpose(1, 2).reshape(pixels.shape)
        return x + self.out(found).view(rows, height, width, channels).permute(0, 3, 1, 2)


class Halving(nn.Module):
    """A convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, 2, padding=1)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` to ``[N, C, H/2, W/2]``; the embedding is not looked at."""
        return self.conv(x)


class Doubling(nn.Module):
    """Nearest neighbours and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` to ``[N, C, 2H, 2W]``; the embedding is not looked at."""
        return up2_conv3x3(x, self.conv.weight, self.conv.bias)
