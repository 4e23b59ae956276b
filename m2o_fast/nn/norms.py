"""Convolutions, and norms by name with the activation behind them, as nets for pairs of domains take them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from m2o_fast.nn.batch_norm import BatchNorm2d
from m2o_fast.nn.recomputation import recomputed
from m2o_fast.ops import adain_act, conv2d, instance_norm_act
from m2o_fast.ops._choices import feature_format
from m2o_fast.ops.convolution import conv_transpose2d

Norm = Literal["batch", "instance", "none"]

#: slopes of the activation below 0
RELU, LINEAR = 0.0, 1.0


class NormAct(nn.Module):
    """A norm and LeakyReLU: float ``[N, C, H, W]`` to the same shape.

    Args:
        norm: ``"batch"``, ``"instance"`` (without affine map and running statistics) or ``"none"``.
        channels: C.
        slope: Of the activation below 0: 0 makes it ReLU, 1 switches it off.
    """

    def __init__(self, norm: Norm, channels: int, slope: float) -> None:
        super().__init__()
        self.norm, self.slope = norm, slope
        self.batch = BatchNorm2d(channels) if norm == "batch" else None

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` to the same shape."""
        if self.norm == "instance":
            return instance_norm_act(x, slope=self.slope)
        return activate(x, self.slope) if self.batch is None else activate_(self.batch(x), self.slope)


class StyledNormAct(nn.Module):
    """Adaptive instance norm, then LeakyReLU: ``(1 + gamma) * IN(x) + beta`` with ``gamma, beta = fc(style)``."""

    def __init__(self, style_dim: int, channels: int, slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.fc = nn.Linear(style_dim, 2 * channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` and style ``[N, style_dim]`` to the shape of ``x``."""
        return self.steered(style)(x)

    def steered(self, style: Tensor) -> Callable[[Tensor], Tensor]:
        """The same as a function of ``x`` alone."""
        gamma, beta = self.fc(style).chunk(2, dim=1)
        return partial(adain_act, gamma=gamma, beta=beta, slope=self.slope)


def norm_act(norm: Norm, channels: int, slope: float, style_dim: int) -> nn.Module:
    """A norm and its activation, steered by a style where there is one."""
    return StyledNormAct(style_dim, channels, slope) if style_dim else NormAct(norm, channels, slope)


def normalised(norm: nn.Module, x: Tensor, style: Tensor | None) -> Tensor:
    """``x`` through a layer of :func:`norm_act`."""
    return norm(x, style) if isinstance(norm, StyledNormAct) else norm(x)


def convolved(
    convolution: Callable[[Tensor], Tensor],
    norm: nn.Module,
    x: Tensor,
    style: Tensor | None = None,
    *,
    border: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """``convolution(border(normalised(norm, x, style)))``; ``None``: no border.

    Instance norm and border are computed again for the backward pass.
    """
    normalise: Callable[[Tensor], Tensor] = norm
    if isinstance(norm, StyledNormAct):
        assert style is not None
        normalise = norm.steered(style)

    def make() -> Tensor:
        y = normalise(x)
        return y if border is None else border(y)

    if isinstance(norm, NormAct) and norm.norm != "instance":
        return convolution(make())
    return recomputed(convolution, make)


def activate(x: Tensor, slope: float) -> Tensor:
    """LeakyReLU, ReLU where ``slope`` is 0, nothing where it is 1."""
    if slope == LINEAR:
        return x
    return F.relu(x) if slope == RELU else F.leaky_relu(x, slope)


def activate_(x: Tensor, slope: float) -> Tensor:
    """:func:`activate` in place, for what nobody else needs: of input and output autograd then keeps one."""
    if slope == LINEAR:
        return x
    return F.relu_(x) if slope == RELU else F.leaky_relu_(x, slope)


def has_bias(norm: Norm) -> bool:
    """Whether a convolution in front of the norm has a bias in the published nets: with instance norm alone."""
    return norm == "instance"


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` over :func:`m2o_fast.ops.conv2d`.

    Attributes:
        normed: Whether an instance norm follows, which takes any constant away: the bias is left out then. It stays
            among the parameters, as it is among the published ones.
    """

    normed: bool = False

    def forward(self, input: Tensor) -> Tensor:
        """Float ``[N, in_channels, H, W]`` to ``[N, out_channels, H', W']``."""
        bias = None if self.normed else self.bias
        return conv2d(input, self.weight, bias, stride=self.stride[0], padding=int(self.padding[0]))


class ConvTranspose2d(nn.ConvTranspose2d):
    """``nn.ConvTranspose2d``; ``normed`` as for :class:`Conv2d`."""

    normed: bool = False

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Float ``[N, in_channels, H, W]`` to ``[N, out_channels, H', W']``."""
        bias = None if self.normed else self.bias
        stride, padding, more = self.stride[0], int(self.padding[0]), self.output_padding[0]
        if not more:
            return conv_transpose2d(input, self.weight, bias, stride=stride, padding=padding)
        return F.conv_transpose2d(input, self.weight, bias, stride, padding, more)


def conv(
    a: int, b: int, kernel: int, stride: int = 1, padding: int = 0, *, norm: Norm, kind: type[Conv2d] = Conv2d
) -> Conv2d:
    """A convolution from a to b channels in front of a norm."""
    layer = kind(a, b, kernel, stride, padding, bias=has_bias(norm))
    layer.normed = norm == "instance"
    return layer


def conv_transpose(a: int, b: int, kernel: int, *, more: int = 0, norm: Norm) -> ConvTranspose2d:
    """A transposed convolution of stride 2 and padding 1 from a to b channels in front of a norm."""
    layer = ConvTranspose2d(a, b, kernel, 2, 1, more, bias=has_bias(norm))
    layer.normed = norm == "instance"
    return layer


def init_normal_(net: nn.Module, std: float = 0.02) -> None:
    """Weights of convolutions and linear layers normal around 0, of batch norms around 1; biases 0."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d)):
            nn.init.normal_(module.weight, mean=float(isinstance(module, nn.BatchNorm2d)), std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def lay_out_(net: nn.Module) -> None:
    """Puts weights of convolutions into the format of features, in which they are read without a copy.

    Those of 3x3 and stride 1 stay as they are, as Winograd's form takes them. Initialise weights first: random numbers
    are drawn in the order of memory.
    """
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and (module.kernel_size, module.stride) != (
            (3, 3),
            (1, 1),
        ):
            weight = module.weight
            weight.data = weight.data.contiguous(memory_format=feature_format(weight.device.type))
