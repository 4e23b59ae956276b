"""Inception-v3 (arXiv 1512.00567) for its pooled features, with either of the two sets of weights that FID is known by.

``torchvision``: trained on ImageNet, 1000 classes; the weights of StarGAN v2's FID. ``fid``: the net of December 2015
that the first FID (arXiv 1706.08500) used, 1008 classes; it averages without counting the padding, and its last block
takes a maximum in place of the average.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2o_fast.errors import UserError
from m2o_fast.metrics.weights import fill, read_weights

Weights = Literal["torchvision", "fid"]
Pool = Literal["average", "average of pixels", "maximum", "stride"]

FEATURES = 2048
#: number of classes -> whose weights
_CLASSES: dict[int, Weights] = {1000: "torchvision", 1008: "fid"}
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class Conv(NamedTuple):
    """A convolution without bias, batch norm and ReLU; padded to keep the size unless it has a stride."""

    name: str
    channels: int
    kernel: tuple[int, int]
    stride: int = 1


#: Chains of convolutions of a block, each from the block's input; ``(a, b)`` at the end of a chain: two side by side.
Chain = tuple[Conv | tuple[Conv, Conv], ...]


def _block_a(pool: int) -> tuple[Chain, ...]:
    return (
        (Conv("branch1x1", 64, (1, 1)),),
        (Conv("branch5x5_1", 48, (1, 1)), Conv("branch5x5_2", 64, (5, 5))),
        (
            Conv("branch3x3dbl_1", 64, (1, 1)),
            Conv("branch3x3dbl_2", 96, (3, 3)),
            Conv("branch3x3dbl_3", 96, (3, 3)),
        ),
        (Conv("branch_pool", pool, (1, 1)),),
    )


def _block_c(inner: int) -> tuple[Chain, ...]:
    return (
        (Conv("branch1x1", 192, (1, 1)),),
        (Conv("branch7x7_1", inner, (1, 1)), Conv("branch7x7_2", inner, (1, 7)), Conv("branch7x7_3", 192, (7, 1))),
        (
            Conv("branch7x7dbl_1", inner, (1, 1)),
            Conv("branch7x7dbl_2", inner, (7, 1)),
            Conv("branch7x7dbl_3", inner, (1, 7)),
            Conv("branch7x7dbl_4", inner, (7, 1)),
            Conv("branch7x7dbl_5", 192, (1, 7)),
        ),
        (Conv("branch_pool", 192, (1, 1)),),
    )


_BLOCK_B: tuple[Chain, ...] = (
    (Conv("branch3x3", 384, (3, 3), 2),),
    (Conv("branch3x3dbl_1", 64, (1, 1)), Conv("branch3x3dbl_2", 96, (3, 3)), Conv("branch3x3dbl_3", 96, (3, 3), 2)),
)
_BLOCK_D: tuple[Chain, ...] = (
    (Conv("branch3x3_1", 192, (1, 1)), Conv("branch3x3_2", 320, (3, 3), 2)),
    (
        Conv("branch7x7x3_1", 192, (1, 1)),
        Conv("branch7x7x3_2", 192, (1, 7)),
        Conv("branch7x7x3_3", 192, (7, 1)),
        Conv("branch7x7x3_4", 192, (3, 3), 2),
    ),
)
_BLOCK_E: tuple[Chain, ...] = (
    (Conv("branch1x1", 320, (1, 1)),),
    (Conv("branch3x3_1", 384, (1, 1)), (Conv("branch3x3_2a", 384, (1, 3)), Conv("branch3x3_2b", 384, (3, 1)))),
    (
        Conv("branch3x3dbl_1", 448, (1, 1)),
        Conv("branch3x3dbl_2", 384, (3, 3)),
        (Conv("branch3x3dbl_3a", 384, (1, 3)), Conv("branch3x3dbl_3b", 384, (3, 1))),
    ),
    (Conv("branch_pool", 192, (1, 1)),),
)


class _ConvNorm(nn.Module):
    def __init__(self, channels: int, plan: Conv, *, pad: bool = True) -> None:
        super().__init__()
        keeps_size = pad and plan.stride == 1
        padding = (plan.kernel[0] // 2, plan.kernel[1] // 2) if keeps_size else (0, 0)
        self.conv = nn.Conv2d(channels, plan.channels, plan.kernel, plan.stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(plan.channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Block(nn.Module):
    """Chains side by side, their results stacked. A pooling precedes the last chain; with a stride, it is one more."""

    def __init__(self, channels: int, chains: tuple[Chain, ...], pool: Pool) -> None:
        super().__init__()
        self._chains, self._pool = chains, pool
        self.channels = channels if pool == "stride" else 0
        for chain in chains:
            width = channels
            for step in chain:
                parts = step if not isinstance(step, Conv) else (step,)
                for part in parts:
                    self.add_module(part.name, _ConvNorm(width, part))
                width = sum(part.channels for part in parts)
            self.channels += width

    def forward(self, x: Tensor) -> Tensor:
        pooled = _pooled(x, self._pool)
        results = []
        for chain in self._chains:
            y = pooled if chain is self._chains[-1] and self._pool != "stride" else x
            for step in chain:
                parts = step if not isinstance(step, Conv) else (step,)
                y = torch.cat([self.get_submodule(part.name)(y) for part in parts], dim=1)
            results.append(y)
        return torch.cat(results + ([pooled] if self._pool == "stride" else []), dim=1)


def _pooled(x: Tensor, pool: Pool) -> Tensor:
    if pool == "stride":
        return F.max_pool2d(x, 3, stride=2)
    if pool == "maximum":
        return F.max_pool2d(x, 3, stride=1, padding=1)
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=pool == "average")


class InceptionV3(nn.Module):
    """Inception-v3 without its auxiliary classifier.

    Args:
        weights: Whose weights it is for: decides poolings, number of classes and normalisation.
    """

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self._weights = weights
        average: Pool = "average" if weights == "torchvision" else "average of pixels"
        self.Conv2d_1a_3x3 = _ConvNorm(3, Conv("", 32, (3, 3), 2))
        self.Conv2d_2a_3x3 = _ConvNorm(32, Conv("", 32, (3, 3)), pad=False)
        self.Conv2d_2b_3x3 = _ConvNorm(32, Conv("", 64, (3, 3)))
        self.Conv2d_3b_1x1 = _ConvNorm(64, Conv("", 80, (1, 1)))
        self.Conv2d_4a_3x3 = _ConvNorm(80, Conv("", 192, (3, 3)), pad=False)
        blocks: list[tuple[str, tuple[Chain, ...], Pool]] = [
            ("Mixed_5b", _block_a(32), average),
            ("Mixed_5c", _block_a(64), average),
            ("Mixed_5d", _block_a(64), average),
            ("Mixed_6a", _BLOCK_B, "stride"),
            ("Mixed_6b", _block_c(128), average),
            ("Mixed_6c", _block_c(160), average),
            ("Mixed_6d", _block_c(160), average),
            ("Mixed_6e", _block_c(192), average),
            ("Mixed_7a", _BLOCK_D, "stride"),
            ("Mixed_7b", _BLOCK_E, average),
            ("Mixed_7c", _BLOCK_E, average if weights == "torchvision" else "maximum"),
        ]
        self._blocks = [name for name, _, _ in blocks]
        width = 192
        for name, chains, pool in blocks:
            block = _Block(width, chains, pool)
            self.add_module(name, block)
            width = block.channels
        self.fc = nn.Linear(width, next(count for count, name in _CLASSES.items() if name == weights))

    def forward(self, images: Tensor) -> Tensor:
        """Features ``[N, 2048]`` of images ``[N, 3, 299, 299]`` in [0, 1]: means over the pixels of the last block."""
        x = self._normalised(images)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, stride=2)
        for name in self._blocks:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))

    def _normalised(self, images: Tensor) -> Tensor:
        if self._weights == "fid":
            return (images * 255 - 128) / 128
        mean, std = (images.new_tensor(values)[:, None, None] for values in (_IMAGENET_MEAN, _IMAGENET_STD))
        return (images - mean) / std


def open_inception(path: Path) -> tuple[InceptionV3, Weights]:
    """The net with the weights of a file, in evaluation mode, and whose they are.

    Raises:
        UserError: Weights of another net; says which names or shapes do not fit.
    """
    state = {name: tensor for name, tensor in read_weights(path).items() if not name.startswith("AuxLogits.")}
    head = state.get("fc.weight")
    classes = 0 if head is None or head.dim() != 2 or head.shape[1] != FEATURES else len(head)
    if classes not in _CLASSES:
        raise UserError(
            f"{path}: not Inception-v3; its fc.weight must be [1000, 2048] (torchvision) or [1008, 2048] (FID), got "
            f"{'none' if head is None else list(head.shape)}"
        )
    net = InceptionV3(_CLASSES[classes])
    counters = {name: tensor for name, tensor in net.state_dict().items() if name.endswith("num_batches_tracked")}
    fill(net, {**counters, **state}, str(path))  # older files lack the counters, which features do not depend on
    return net.eval().requires_grad_(False), _CLASSES[classes]
