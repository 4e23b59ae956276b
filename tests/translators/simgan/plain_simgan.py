"""SimGAN and its many-to-one variants in plain torch: what the fast one is tested against.

It imports nothing of ``m2o_fast``. A training step follows the published algorithm and computes everything by itself.
Any floating dtype works.

Source: Shrivastava et al., CVPR 2017 (arXiv 1612.07828), algorithm 1 and appendix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """The published residual block: the activation comes behind the sum."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        same = kernel // 2
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, kernel, padding=same),
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel, padding=same),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[N, C, H, W]`` to the same shape."""
        return torch.relu(self.layers(x) + x)


class Refiner(nn.Module):
    """The published refiner: 3x3 and 4 blocks for gazes, 7x7 and 10 for hands; a style comes as planes."""

    def __init__(self, a: int, b: int, width: int = 64, kernel: int = 3, blocks: int = 4) -> None:
        super().__init__()
        body = [Residual(width, kernel) for _ in range(blocks)]
        first = nn.Conv2d(a, width, kernel, padding=kernel // 2)
        self.model = nn.Sequential(first, nn.ReLU(), *body, nn.Conv2d(width, b, 1), nn.Tanh())

    def forward(self, x: Tensor, style: Tensor | None = None) -> Tensor:
        """Images ``[N, C, H, W]`` and styles ``[N, D]`` to images ``[N, b, H, W]``."""
        if style is not None:
            planes = style.reshape(*style.shape, 1, 1) * torch.ones_like(x[:, :1])
            x = torch.cat((x, planes), dim=1)
        return self.model(x)


def gaze_discriminator(channels: int, w: int = 32) -> nn.Sequential:
    """Two numbers at each of H/4 x W/4 places."""
    return nn.Sequential(
        *(nn.Conv2d(channels, 3 * w, 3, 2, 1), nn.ReLU()),
        *(nn.Conv2d(3 * w, 2 * w, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 1, 1)),
        *(nn.Conv2d(2 * w, w, 3, 1, 1), nn.ReLU(), nn.Conv2d(w, w, 1), nn.ReLU(), nn.Conv2d(w, 2, 1)),
    )


def hand_discriminator(channels: int, w: int = 32) -> nn.Sequential:
    """Two numbers at each of H/32 x W/32 places."""
    return nn.Sequential(
        *(nn.Conv2d(channels, 3 * w, 7, 4, 3), nn.ReLU()),
        *(nn.Conv2d(3 * w, 2 * w, 5, 2, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        *(nn.Conv2d(2 * w, w, 3, 2, 1), nn.ReLU(), nn.Conv2d(w, w, 1), nn.ReLU(), nn.Conv2d(w, 2, 1)),
    )


class History:
    """The buffer of refined images, as published: half a batch is drawn from it, then half a batch goes into it.

    It is appended to until it is full; then what goes in replaces images. ``numbers``: of the first image, below one
    half: the batch begins with an image of the buffer, else with one of its own; of every second image, which one of
    the buffer is drawn, and which one is replaced.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.images: list[Tensor] = []

    def shown(self, images: Tensor, numbers: Tensor) -> Tensor:
        """What the discriminator sees; current images stand in for those that the buffer does not have yet."""
        half = 1 if len(numbers) and numbers[0, 0] < 0.5 else 0
        seen, drawn = list(images), self.drawn(numbers[::2, 1])
        for k, place in zip(range(1 - half, len(images), 2), drawn, strict=False):
            seen[k] = self.images[place]
        self.add(images[half::2], self.drawn(numbers[::2, 2]))
        return torch.stack(seen) if seen else images

    def drawn(self, numbers: Tensor) -> list[int]:
        """Places in the buffer, one for each number, none twice; no more than it holds."""
        left, found = list(range(len(self.images))), []
        for number in numbers.tolist()[: len(left)]:
            k = int(number * len(left))
            found.append(left[k])
            left[k] = left[0]
            del left[0]
        return found

    def add(self, images: Tensor, replaced: list[int]) -> None:
        """Appends, and replaces when it is full."""
        free = self.size - len(self.images)
        for place, image in zip(replaced, images[free:], strict=False):
            self.images[place] = image
        self.images += images[:free]


@dataclass
class Direction:
    """Nets of one direction, what it knows, and the buffer.

    ``psi``: what of an image is to stay; with ``supervised`` the true image is learned instead, where it is known.
    """

    R: Refiner
    D: nn.Module
    history: History
    psi: Callable[[Tensor], Tensor] = field(default=lambda x: x)
    supervised: bool = False


@dataclass
class Share:
    """Of a batch, what one direction has: images, real ones of the target, random numbers, true images if any."""

    x: Tensor
    y: Tensor
    pool: Tensor
    z: Tensor | None = None
    z2: Tensor | None = None
    truth: Tensor | None = None
    known: Tensor | None = None


@dataclass
class Settings:
    """Weights of the losses; ``summed``: the difference of contents is a sum over an image."""

    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    regularisation: float = 5.0
    summed: bool = False
    supervised: float = 10.0
    diversity: float = 1.0
    diversity_steps: int = 1000


@dataclass
class Trainer:
    """Both optimizers of any number of directions. One with more images than the others counts for more."""

    directions: list[Direction]
    settings: Settings

    def __post_init__(self) -> None:
        refiners = [p for way in self.directions for p in way.R.parameters()]
        judges = [p for way in self.directions for p in way.D.parameters()]
        self.refiners, self.judges = self.settings.optimizer(refiners), self.settings.optimizer(judges)

    def refine(self, shares: list[Share], step: int, *, adversarial: bool = True) -> dict[str, float]:
        """A step of the refiners; without ``adversarial`` as in the pretraining."""
        s, logs, total = self.settings, {}, torch.zeros(())

        def add(name: str, value: Tensor, weight: float) -> None:
            nonlocal total
            logs[name] = logs.get(name, 0.0) + value.item()
            total = total + weight * value

        for way, of, part in zip(self.directions, shares, _parts(shares), strict=True):
            fake = way.R(of.x, of.z)
            difference = (way.psi(fake) - way.psi(of.x)).abs().flatten(1)
            changed = difference.sum(1) if s.summed else difference.mean(1)
            if way.supervised:
                assert of.known is not None
                error = (fake - of.truth).abs().mean((1, 2, 3))[of.known].sum() / len(fake)
                add("supervised", part * error, s.supervised)
                changed = changed * ~of.known
            add("regularisation", part * changed.mean(), s.regularisation)
            if not adversarial:
                continue
            real_looking = way.D(fake).log_softmax(dim=1)[:, 0]
            add("adversarial", -part * real_looking.mean(), 1.0)
            if of.z2 is not None:
                with torch.no_grad():
                    other = way.R(of.x, of.z2)
                falling = s.diversity * max(0.0, 1 - step / s.diversity_steps)
                add("diversity", part * (fake - other).abs().mean(), -falling)
        self.refiners.zero_grad()
        total.backward()
        self.refiners.step()
        return logs

    def judge(self, shares: list[Share]) -> dict[str, float]:
        """A step of the discriminators: half of the refined images are those of the buffer."""
        total, logs = torch.zeros(()), {"refined": 0.0, "real": 0.0}
        for way, of, part in zip(self.directions, shares, _parts(shares), strict=True):
            with torch.no_grad():
                refined = way.R(of.x, of.z)
            seen = way.history.shown(refined, of.pool)
            for name, images, label in (("refined", seen, 1), ("real", of.y, 0)):
                loss = -part * way.D(images).softmax(dim=1)[:, label].log().mean()
                logs[name] += loss.item()
                total = total + loss
        self.judges.zero_grad()
        total.backward()
        self.judges.step()
        return logs


def _parts(shares: list[Share]) -> list[float]:
    """How many images a direction has for each that it would have if all had as many."""
    return [len(shares) * len(of.x) / sum(len(each.x) for each in shares) for of in shares]
