"""A small net for digits and their colours: a feature extractor that needs no download.

A plain classifier of digits learns to ignore colour, and a FID of its features would be blind to what a many-to-one
translator is about. So this one tells the digit and the colour it is painted in, from the same features.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from m2o_fast.files import replacing, user_cache
from m2o_fast.metrics.weights import fill
from m2o_fast.randomness import torch_generator

INPUT_SIZE = 32
FEATURES = 64

_RECIPE = 1  # raised whenever the net or its training changes, so that cached weights of before are not used
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
    _initialise(net, seed)
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
    return TrainedDigitsCNN(net, _weights_sha256(net.state_dict()), accuracy, color_error)


def cached_digits_cnn(key: str, make_data: Callable[[], DigitsData], seed: int = 0) -> TrainedDigitsCNN:
    """The net trained on the data called ``key``: from the cache folder, or trained now and put there.

    A damaged file, or one of another recipe, is replaced. Where the cache folder cannot be written, a warning says so.

    Args:
        key: Name of the data, of letters, digits, ``.``, ``_`` and ``-``.
        make_data: Called when there are no trained weights.
        seed: See :func:`train_digits_cnn`.
    """
    if not re.fullmatch(r"[\w.-]+", key):
        raise ValueError(f"key must be of letters, digits, '.', '_' and '-', got {key!r}")
    path = user_cache() / "extractors" / f"digits-cnn-{key}-{seed}.safetensors"
    if (cached := _read(path)) is not None:
        return cached
    trained = train_digits_cnn(make_data(), seed)
    facts = {
        "recipe": _RECIPE,
        "sha256": trained.sha256,
        "accuracy": trained.accuracy,
        "color_error": trained.color_error,
    }
    try:
        with replacing(path) as file:
            file.write(save(trained.net.state_dict(), {"digits-cnn": json.dumps(facts)}))
    except OSError as error:
        warnings.warn(
            f"{path}: {error.strerror or error}; the next evaluation trains it anew, unless XDG_CACHE_HOME names "
            "another cache folder",
            RuntimeWarning,
            stacklevel=2,
        )
    return trained


def _read(path: Path) -> TrainedDigitsCNN | None:
    try:
        with safe_open(str(path), "pt") as file:
            facts = json.loads(file.metadata()["digits-cnn"])
            state = {name: file.get_tensor(name) for name in file.keys()}
        if facts["recipe"] != _RECIPE or facts["sha256"] != _weights_sha256(state):
            return None
        net = DigitsCNN()
        fill(net, state, str(path))
        net.eval().requires_grad_(False)
        return TrainedDigitsCNN(net, facts["sha256"], float(facts["accuracy"]), float(facts["color_error"]))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


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


def _initialise(net: nn.Module, seed: int) -> None:
    """Weights that depend on nothing but the seed."""
    generator = torch_generator(seed, "digits-cnn/weights")
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


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


def _weights_sha256(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
