"""U-Nets of strided convolutions: the generators of pix2pix (arXiv 1611.07004, appendix 6.1) and BicycleGAN."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
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
from m2o_fast.nn.recomputation import recomputed
from m2o_fast.ops import instance_norm_act, scale_bias_act
from m2o_fast.ops._choices import feature_format

_SLOPE = 0.2


def _widths(width: int, levels: int) -> list[int]:
    """Channels by level."""
    return [width * min(2**k, 8) for k in range(levels)]


def dropout_shapes(widths: Sequence[int], height: int, width: int) -> dict[int, tuple[int, int, int]]:
    """``[C, H, W]`` by level of the numbers of which the published nets drop half: behind doublings of full width."""
    return {k: (widths[k - 1], height >> k, width >> k) for k in range(4, len(widths) - 1)}


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
        widths = _widths(width, levels)
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

    def dropout_shapes(self, height: int, width: int) -> dict[int, tuple[int, int, int]]:
        """``[C, H, W]`` of the numbers of which half are dropped, by level."""
        return dropout_shapes(self.widths, height, width)

    def forward(self, x: Tensor, kept: dict[int, Tensor] | None = None) -> Tensor:
        """Translates.

        Args:
            x: Float ``[N, in_channels, H, W]``, H and W multiples of 2^levels.
            kept: For each level of :meth:`dropout_shapes`, bool or float ``[N, C, H, W]``: 1 where a number is kept, 0
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


class Ends(NamedTuple):
    """The first and the last layer of a way through a :class:`StyledUNet`.

    Attributes:
        in_channels: Of the images that come in.
        out_channels: Of those that go out.
        styled: Whether a style steers it.
    """

    in_channels: int
    out_channels: int
    styled: bool


class StyledUNet(nn.Module):
    """A U-Net of instance norms in which a style enters every level on the way down (BicycleGAN, arXiv 1711.11586).

    It enters as planes of constant numbers beside the channels, below the outermost level behind the activation of
    that level, which takes a fifth of negative ones. Several ways through it have ends of their own and share the
    levels between; a way without style is that with style 0, and its first layer takes none.

    Args:
        ends: By name, the ends of each way.
        style_dim: Length of a style.
        width: Channels of the outermost level; they double up to 8 times that.
        levels: Halvings, at least 2; images are multiples of 2^levels.
        init: Puts first weights in place.
    """

    def __init__(
        self,
        ends: Mapping[str, Ends],
        style_dim: int,
        width: int = 64,
        levels: int = 8,
        init: Callable[[nn.Module], None] = init_normal_,
    ) -> None:
        super().__init__()
        self.widths = _widths(width, levels)
        self.planes = style_dim if any(end.styled for end in ends.values()) else 0
        self.styled = {name: end.styled for name, end in ends.items()}
        taken = {name: end.in_channels + style_dim * end.styled for name, end in ends.items()}
        self.first = nn.ModuleDict({name: Conv2d(count, width, 4, 2, 1) for name, count in taken.items()})
        self.last = nn.ModuleDict(
            {name: ConvTranspose2d(2 * width, e.out_channels, 4, 2, 1) for name, e in ends.items()}
        )
        steps = list(zip(self.widths, self.widths[1:], strict=False))
        self.down = nn.ModuleList([conv(a + self.planes, b, 4, 2, 1, norm="instance") for a, b in steps[:-1]])
        self.down.append(Conv2d(steps[-1][0] + self.planes, steps[-1][1], 4, 2, 1))
        self.up = nn.ModuleList([conv_transpose(2 * b, a, 4, norm="instance") for a, b in steps[:-1]])
        self.up.append(conv_transpose(steps[-1][1], steps[-1][0], 4, norm="instance"))
        init(self)
        lay_out_(self)

    def dropout_shapes(self, height: int, width: int) -> dict[int, tuple[int, int, int]]:
        """``[C, H, W]`` of the numbers of which half are dropped, by level."""
        return dropout_shapes(self.widths, height, width)

    def forward(
        self, x: Tensor, way: str, style: Tensor | None = None, kept: Mapping[int, Tensor] | None = None
    ) -> Tensor:
        """Translates.

        Args:
            x: Float ``[N, in_channels, H, W]``, H and W multiples of 2^levels.
            way: Name of the ends.
            style: Float ``[N, style_dim]``; ``None`` where the way has none.
            kept: As of :class:`UNet`.

        Returns:
            What tanh makes images of, float ``[N, out_channels, H, W]``.
        """
        if style is None and self.styled[way]:
            raise ValueError(f"the way {way!r} of the U-Net needs a style")
        within = None
        if self.planes:
            within = x.new_zeros((x.shape[0], self.planes)) if style is None else F.leaky_relu(style, _SLOPE)
        # What convolutions give is kept for the backward pass; norms, activations and what lies side by side are made
        # again of it.
        seen = [self.first[way](_beside(x, style))]
        for k, convolution in enumerate(self.down):
            seen.append(recomputed(convolution, partial(_down_input, seen[k], k > 0, within)))
        y = recomputed(self.up[-1], partial(scale_bias_act, seen.pop(), slope=RELU))
        for k in range(len(self.up) - 1, 0, -1):
            y = recomputed(self.up[k - 1], partial(_up_input, y, seen[k], True, _scale(kept, k + 1)))
        # Rounded to bfloat16, images could be told from real ones by the rounding.
        with torch.autocast(x.device.type, enabled=False):
            y, outermost = at_least_float32(y), at_least_float32(seen[0])
            return recomputed(self.last[way], partial(_up_input, y, outermost, False, None))


def _beside(x: Tensor, style: Tensor | None) -> Tensor:
    """``x`` and planes of constant numbers behind its channels, in the format of features."""
    memory_format = feature_format(x.device.type)
    if style is None:
        return x.contiguous(memory_format=memory_format)
    planes = style.to(x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[2:])
    return torch.cat([x, planes], dim=1).contiguous(memory_format=memory_format)


def _down_input(x: Tensor, normed: bool, style: Tensor | None) -> Tensor:
    """What a level hands on to the next one."""
    y = instance_norm_act(x, slope=_SLOPE) if normed else scale_bias_act(x, slope=_SLOPE)
    return _beside(y, style)


def _up_input(y: Tensor, skipped: Tensor, normed: bool, scale: Tensor | None) -> Tensor:
    """What a level takes on the way up: what comes from within, and what the same level saw on the way down."""
    y = instance_norm_act(y, slope=RELU)
    if scale is not None:
        y = y * scale.to(y.dtype)
    skipped = instance_norm_act(skipped, slope=RELU) if normed else scale_bias_act(skipped, slope=RELU)
    return torch.cat([y, skipped], dim=1)


def _scale(kept: Mapping[int, Tensor] | None, level: int) -> Tensor | None:
    return 2 * kept[level] if kept is not None and level in kept else None
