"""The nets of StarGAN (arXiv 1711.09020, appendix 7.2), with first and last layers for each domain, or shared ones.

Images of mixed domains come as one tensor per domain; samples are grouped by domain, ``counts[k]`` of them in domain k.
Borders are zeros: a label is a plane of one number, which an instance norm takes away but for what borders do to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2o_fast.losses import at_least_float32
from m2o_fast.m2o import Domain
from m2o_fast.nn.blocks import InstanceNormAct
from m2o_fast.nn.norms import LINEAR, RELU, Conv2d, ConvTranspose2d, activate_, convolved, lay_out_
from m2o_fast.nn.permutation import permuted
from m2o_fast.nn.recomputation import recomputed
from m2o_fast.ops import conv2d
from m2o_fast.ops._choices import feature_format
from m2o_fast.ops.convolution import conv_transpose2d
from m2o_fast.translators.stargan.settings import Size

_SLOPE = 0.01


class Generator(nn.Module):
    """Stem of 7x7, two halvings, residual blocks, two doublings, head of 7x7; any size that is a multiple of 4.

    Args:
        size: Widths and the number of blocks.
        domains: All domains.
        labels: Length of a label, style included.
        shared: Whether all domains share stem and head, or each has its own.
    """

    def __init__(self, size: Size, domains: Sequence[Domain], labels: int, *, shared: bool) -> None:
        super().__init__()
        width = size.width
        widths = [width, 2 * width, 4 * width]
        self.channels = [domain.channels for domain in domains]
        self.stems = _by_domain(domains, shared, lambda channels: LabelledStem(channels, labels, width))
        self.down = nn.ModuleList([Conv2d(a, 2 * a, 4, 2, 1, bias=False) for a in widths[:-1]])
        self.down_norm = nn.ModuleList([InstanceNormAct(channels, RELU) for channels in widths])
        self.blocks = nn.ModuleList([ResBlock(widths[-1]) for _ in range(size.blocks)])
        self.up = nn.ModuleList([ConvTranspose2d(2 * a, a, 4, 2, 1, bias=False) for a in widths[-2::-1]])
        self.up_norm = nn.ModuleList([InstanceNormAct(channels, RELU) for channels in widths[-2::-1]])
        self.heads = _by_domain(domains, shared, lambda channels: Conv2d(width, channels, 7, bias=False))
        lay_out_(self)

    def forward(
        self,
        images: Sequence[Tensor],
        labels: Tensor,
        order: Tensor | None,
        counts: Sequence[int],
        only: Sequence[int] | None = None,
    ) -> tuple[Tensor, ...]:
        """Images by their domains to what tanh or softmax makes images of, by domains of their labels.

        Args:
            images: Per domain float ``[n_k, c_k, H, W]``, not all empty.
            labels: Float ``[N, labels]``: of each image, in this order.
            order: int64 ``[N]``: row i of what comes out is row ``order[i]`` of what goes in; ``None``: the same.
            counts: By domain, how many come out.
            only: Domains that are wanted; others come out empty. ``None``: all.
        """
        x = self._stem(images, labels)
        for norm, convolution in zip(self.down_norm[:-1], self.down, strict=True):
            x = convolved(convolution, norm, x)
        if order is not None:
            x = permuted(x, order)
        if only is not None:
            parts = x.split(list(counts))
            counts = [count if k in only else 0 for k, count in enumerate(counts)]
            x = torch.cat([part if k in only else part[:0] for k, part in enumerate(parts)])
        again: Callable[[], Tensor] = partial(self.down_norm[-1], x)
        x = again()
        for block in self.blocks:
            x, again = block(x, again)
        x = convolved(self.up[1], self.up_norm[0], recomputed(self.up[0], again, x))
        # Rounded to bfloat16, images could be told from real ones by the rounding.
        with torch.autocast(x.device.type, enabled=False):
            return self._head(at_least_float32(x), counts)

    def _stem(self, images: Sequence[Tensor], labels: Tensor) -> Tensor:
        memory_format = feature_format(labels.device.type)
        parts = [part.contiguous(memory_format=memory_format) for part in images]
        if len(self.stems) == 1:
            return self.stems["0"](torch.cat(parts), labels)
        own = labels.split([part.shape[0] for part in parts])
        return torch.cat([self.stems[str(k)](part, own[k]) for k, part in enumerate(parts) if part.shape[0]])

    def _head(self, x: Tensor, counts: Sequence[int]) -> tuple[Tensor, ...]:
        if len(self.heads) == 1:
            return convolved(self.heads["0"], self.up_norm[1], x, border=_bordered).split(list(counts))
        return tuple(
            convolved(self.heads[str(k)], self.up_norm[1], part, border=_bordered)
            if part.shape[0]
            else part.new_empty((0, self.channels[k], *part.shape[2:]))
            for k, part in enumerate(x.split(list(counts)))
        )


class LabelledStem(Conv2d):
    """A convolution of 7x7 over an image and its label, each number of which is a plane, between borders of zeros.

    Planes are not made: what they add depends on the borders that a pixel sees, and on nothing else.

    Args:
        channels: Of images.
        labels: Length of a label.
        width: Channels that come out.
    """

    def __init__(self, channels: int, labels: int, width: int) -> None:
        super().__init__(channels + labels, width, 7, padding=3, bias=False)
        self.channels = channels

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        """Float ``[N, channels, H, W]`` and ``[N, labels]`` to ``[N, width, H, W]``."""
        y = conv2d(_bordered(x), self.weight[:, : self.channels])
        with torch.autocast(x.device.type, enabled=False):
            planes = of_planes(at_least_float32(labels), self.weight[:, self.channels :], (x.shape[2], x.shape[3]))
        return y + planes.to(y.dtype)


def of_planes(numbers: Tensor, weight: Tensor, size: tuple[int, int]) -> Tensor:
    """What a convolution between borders of zeros that keep the size makes of planes of one number each.

    Args:
        numbers: Float ``[N, C]``.
        weight: Float ``[O, C, k, k]`` with odd k.
        size: Height and width of the planes.

    Returns:
        Float ``[N, O, H, W]``, channels_last.
    """
    out, _, k, _ = weight.shape
    rows, columns = (_seen(side, k, numbers) for side in size)
    kernel = numbers @ weight.permute(1, 2, 3, 0).flatten(1)
    by_row = _times_each(rows, kernel.view(-1, k, k * out)).view(-1, k, out)
    return _times_each(columns, by_row).view(-1, size[0], size[1], out).permute(0, 3, 1, 2)


def _times_each(matrix: Tensor, others: Tensor) -> Tensor:
    """``matrix @ others``, one by one."""
    return matrix.expand(others.shape[0], -1, -1).bmm(others)


def _seen(side: int, k: int, like: Tensor) -> Tensor:
    """``[side, k]``: 1 where a place of the kernel lies on the image, 0 where it lies beyond its borders."""
    place = torch.arange(side, device=like.device)[:, None] + torch.arange(k, device=like.device) - k // 2
    return ((place >= 0) & (place < side)).to(like.dtype)


class ResBlock(nn.Module):
    """``x + norm(conv(ReLU(norm(conv(x)))))``, convolutions of 3x3 between borders of zeros.

    Norms keep what the convolutions give, of which all sums are made again: no sum is kept for the backward pass.

    Args:
        channels: Of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm1 = InstanceNormAct(channels, RELU)
        self.conv2 = Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = InstanceNormAct(channels, LINEAR)

    def forward(self, x: Tensor, again: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], Tensor]]:
        """Float ``[N, channels, H, W]``, and what makes it again, to the same of the same shape."""
        y = convolved(self.conv2, self.norm1, recomputed(self.conv1, again, x))
        return x + self.norm2(y), lambda: again() + self.norm2(y)


class Discriminator(nn.Module):
    """Convolutions of 4x4 and stride 2 with LeakyReLU, without norm; behind them scores of patches, and classes.

    Args:
        size: Widths, the number of layers, and the side length of images.
        domains: All domains.
        classes: How many there are.
        shared: Whether all domains share the first layer, or each has its own.
    """

    def __init__(self, size: Size, domains: Sequence[Domain], classes: int, *, shared: bool) -> None:
        super().__init__()
        widths = [size.discriminator_width << k for k in range(size.discriminator_layers)]
        self.stems = _by_domain(domains, shared, lambda channels: Conv2d(channels, widths[0], 4, 2, 1))
        self.convs = nn.ModuleList([Conv2d(a, 2 * a, 4, 2, 1) for a in widths[:-1]])
        self.score = Conv2d(widths[-1], 1, 3, 1, 1, bias=False)
        self.classes = Conv2d(widths[-1], classes, size.image_size >> size.discriminator_layers, bias=False)
        lay_out_(self)

    def features(self, images: Sequence[Tensor]) -> Tensor:
        """Per domain float ``[n_k, c_k, H, W]``, not all empty, to ``[N, C, H / 2^layers, W / 2^layers]``."""
        x = self._stem(images)
        for convolution in self.convs:
            x = convolution(activate_(x, _SLOPE))
        return activate_(x, _SLOPE)

    def scores(self, features: Tensor) -> Tensor:
        """How real patches look: ``[N, 1, h, w]``, higher is more so."""
        return at_least_float32(self.score(features))

    def logits(self, features: Tensor) -> Tensor:
        """Of images of side S: ``[N, classes]``."""
        return at_least_float32(self.classes(features).flatten(1))

    def penalty(self, images: Sequence[Tensor]) -> Tensor:
        """Mean squared distance to 1 of the norms of the slopes of all images."""
        slopes = [slope.flatten(1) for slope in self.slopes(images) if len(slope)]
        return (torch.cat([torch.linalg.vector_norm(slope, dim=1) for slope in slopes]) - 1).square().mean()

    def slopes(self, images: Sequence[Tensor]) -> list[Tensor]:
        """The gradient by each image of the sum of its scores, of the shape of ``images``; a function of the weights.

        Between the kinks of its activations the net is linear: the gradient is a product of its layers, transposed, and
        of the activations' slopes, which no small change of the weights changes. So its derivatives by the weights are
        those of this product, and the net need not be differentiated twice.
        """
        with torch.no_grad():
            x = self._stem(images)
            rising = [x > 0]
            for convolution in self.convs:
                x = convolution(activate_(x, _SLOPE))
                rising.append(x > 0)
        gradient = _transposed(torch.ones_like(x[:1, :1]), self.score.weight, x.shape[2:], stride=1)
        layers: Any = self.convs[::-1]
        for convolution, risen, before in zip(layers, rising[:0:-1], rising[-2::-1], strict=True):
            gradient = _transposed(_times_slope(gradient, risen), convolution.weight, before.shape[2:])
        parts = _times_slope(gradient, rising[0]).split([part.shape[0] for part in images])
        return [
            _transposed(part, self._stem_of(k).weight, image.shape[2:]) if part.shape[0] else image
            for k, (part, image) in enumerate(zip(parts, images, strict=True))
        ]

    def _stem(self, images: Sequence[Tensor]) -> Tensor:
        memory_format = feature_format(images[0].device.type)
        parts = [part.contiguous(memory_format=memory_format) for part in images]
        if len(self.stems) == 1:
            return self.stems["0"](torch.cat(parts))
        return torch.cat([self._stem_of(k)(part) for k, part in enumerate(parts) if part.shape[0]])

    def _stem_of(self, domain: int) -> Any:
        return self.stems[str(domain if len(self.stems) > 1 else 0)]


def _by_domain(domains: Sequence[Domain], shared: bool, layer: Callable[[int], nn.Module]) -> nn.ModuleDict:
    """A layer for the channels of each domain, or one for all, whose channels are alike."""
    return nn.ModuleDict(
        {str(k): layer(domain.channels) for k, domain in enumerate(domains[:1] if shared else domains)}
    )


def _bordered(x: Tensor) -> Tensor:
    """``x`` with the three zeros on each side that a convolution of 7x7 sees beyond an image."""
    return F.pad(x, (3,) * 4)


def _times_slope(gradient: Tensor, rising: Tensor) -> Tensor:
    """A gradient behind LeakyReLU to that in front of it."""
    return torch.where(rising, gradient, _SLOPE * gradient)


def _transposed(gradient: Tensor, weight: Tensor, side: Sequence[int], stride: int = 2) -> Tensor:
    """The gradient by the input, of that height and width, of a convolution with padding 1."""
    more = [n - ((m - 1) * stride + weight.shape[2] - 2) for n, m in zip(side, gradient.shape[2:], strict=True)]
    if any(more):  # the last row was not seen
        return F.conv_transpose2d(gradient, weight, None, stride, 1, more)
    return conv_transpose2d(gradient, weight, stride=stride, padding=1)
