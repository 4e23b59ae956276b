"""A small net for digits and their colours: a feature extractor that needs no download.

A plain classifier of digits learns to ignore colour, and a FID of its features would be blind to what a many-to-one
translator is about. So this one tells the digit and the colour it is painted in, from the same features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2o_fast.metrics.kept_nets import Facts, initialise, kept_net, weights_sha256
from m2o_fast.randomness import torch_generator

INPUT_SIZE = 32
FEATURES = 64

_RECIPE = 1  # raised whenever the net or its training changes, so that cached weights of before are not used
_FACTS = ("accuracy", "color_error")
_CLASSES = 10
_STEPS, _BATCH, _RATE = 600, 128, 8e-3
_COLOR_WEIGHT = 10.0
_WHITE_EVERY = 8  # so many digits apart one is white: gray domains hold such


class DigitsData(NamedTuple):
    """Gray digits to train on and to be tested with.

    Attributes:
        images: uint8 or floating point in [0, 1], ``[n, 1, S, S]``, on black.
        labels: int64 ``[n]``, 0 to 9.
        test_images: As ``images``.
        test_labels: As ``labels``.
    """

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


class DigitsSource(NamedTuple):
    """Where digits come from.

    Attributes:
        key: Name of the data, of letters, digits, ``.``, ``_`` and ``-``; trained weights are kept under it.
        load: Called when no trained weights are there.
    """

    key: str
    load: Callable[[], DigitsData]


@dataclass(frozen=True)
class TrainedDigitsCNN:
    """A trained net.

    Attributes:
        net: In evaluation mode, on the CPU.
        sha256: Of its weights, in hexadecimal.
        accuracy: Share of the test digits that it recognises, in random colours.
        color_error: Root of the mean squared error of the colours of the test digits; 0.289 without any knowledge.
    """

    net: DigitsCNN
    sha256: str
    accuracy: float
    color_error: float


class DigitsCNN(nn.Module):
    """Three convolutions, features, and two heads."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64)
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(narrow, wide, 4, stride=2, padding=1), nn.BatchNorm2d(wide), nn.ReLU())
            for narrow, wide in pairwise(widths)
        )
        self.hidden = nn.Sequential(
            nn.Linear(widths[-1] * (INPUT_SIZE // 8) ** 2, FEATURES), nn.BatchNorm1d(FEATURES), nn.ReLU()
        )
        self.digit = nn.Linear(FEATURES, _CLASSES)
        self.color = nn.Linear(FEATURES, 3)

    def features(self, images: Tensor) -> Tensor:
        """Features ``[N, 64]``, at least 0, of images ``[N, 3, 32, 32]`` in [0, 1]."""
        x = images * 2 - 1
        for conv in self.convs:
            x = conv(x)
        return self.hidden(x.flatten(1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the digits ``[N, 10]`` and colours ``[N, 3]``."""
        features = self.features(images)
        return self.digit(features), self.color(features)


def train_digits_cnn(data: DigitsData, seed: int = 0) -> TrainedDigitsCNN:
    """Trains the net on a CPU, in some seconds. The same data, seed and machine give the same weights.

    Args:
        data: Gray digits; each is painted in a new random colour whenever it is drawn.
        seed: Seed of the first weights, the order and the colours.

    Raises:
        ValueError: No digits, or tensors that do not fit each other.
    """
    images, labels = _ready(data.images, data.labels)
    net = DigitsCNN()
    initialise(net, seed, "digits-cnn/weights")
    optimizer = torch.optim.Adam(net.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_STEPS)
    with torch.enable_grad():
        for step in range(_STEPS):
            generator = torch_generator(seed, "digits-cnn/batch", step)
            rows = torch.randint(len(images), (_BATCH,), generator=generator)
            painted, colors = _paint(images[rows], generator)
            logits, found = net(painted)
            loss = F.cross_entropy(logits, labels[rows]) + _COLOR_WEIGHT * F.mse_loss(found, colors)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.eval().requires_grad_(False)
    accuracy, color_error = _test(net, *_ready(data.test_images, data.test_labels), seed)
    return TrainedDigitsCNN(net, weights_sha256(net.state_dict()), accuracy, color_error)


def cached_digits_cnn(key: str, make_data: Callable[[], DigitsData], seed: int = 0) -> TrainedDigitsCNN:
    """The net trained on the data called ``key``: from the cache folder, or trained now and put there.

    Args:
        key: Name of the data, of letters, digits, ``.``, ``_`` and ``-``.
        make_data: Called when there are no trained weights.
        seed: See :func:`train_digits_cnn`.
    """

    def train() -> tuple[DigitsCNN, Facts]:
        trained = train_digits_cnn(make_data(), seed)
        return trained.net, {name: getattr(trained, name) for name in _FACTS}

    net, digest, facts = kept_net("digits-cnn", f"{key}-{seed}", _RECIPE, _FACTS, DigitsCNN, train)
    assert isinstance(net, DigitsCNN)
    return TrainedDigitsCNN(net, digest, facts["accuracy"], facts["color_error"])


def _ready(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    if images.dim() != 4 or images.shape[1] != 1 or labels.shape != images.shape[:1] or len(images) == 0:
        raise ValueError(
            f"digits must be images [n, 1, S, S] and labels [n], got {list(images.shape)} and {list(labels.shape)}"
        )
    values = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    if values.shape[2:] != (INPUT_SIZE, INPUT_SIZE):
        size = (INPUT_SIZE, INPUT_SIZE)
        values = F.interpolate(values, size, mode="bicubic", antialias=True).clamp(0, 1)
    return values, labels.to(torch.int64)


def _paint(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Digits ``[n, 1, S, S]`` in random colours, and these ``[n, 3]``."""
    colors = torch.rand(len(images), 3, generator=generator)
    colors[::_WHITE_EVERY] = 1
    return images * colors[:, :, None, None], colors


@torch.no_grad()
def _test(net: DigitsCNN, images: Tensor, labels: Tensor, seed: int) -> tuple[float, float]:
    """Accuracy, and root mean squared error of the colour."""
    painted, colors = _paint(images, torch_generator(seed, "digits-cnn/test"))
    right, squares = 0, 0.0
    for rows in torch.arange(len(images)).split(1000):
        logits, found = net(painted[rows])
        right += int((logits.argmax(1) == labels[rows]).sum())
        squares += float((found - colors[rows]).double().square().sum())
    return right / len(images), (squares / colors.numel()) ** 0.5
