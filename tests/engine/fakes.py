"""Translators whose translations are known, gray and coloured squares, and features that anybody can compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from m2o_fast.batch import Batch
from m2o_fast.data import ColorizedDigits
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.metrics import Extractor
from m2o_fast.translators.base import Iteration, Phase, Translator

SIDE = 16
#: images that passed through :func:`mean_colors`, call by call
PASSED: list[int] = []


def mean_colors(images: Tensor) -> Tensor:
    """Features: the mean of each channel and that of their squares, exact sums of 8-bit values."""
    PASSED.append(len(images))
    levels = (images.double() * 255).round()
    return torch.cat([levels.mean((2, 3)), levels.square().mean((2, 3))], dim=1).float() / 255


def mean_color_extractor() -> Extractor:
    return Extractor(mean_colors, name="mean colours", sha256="0" * 64, input_size=None)


def squares(count: int, split: str = "test") -> ColorizedDigits:
    """Image i holds noise below one half, and the level 2 i in its first pixel."""
    generator = torch.Generator().manual_seed(count + len(split))
    content = torch.randint(1, 128, (count, 1, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    content[:, 0, 0, 0] = torch.arange(count) * 2
    return ColorizedDigits(content, torch.zeros(count, dtype=torch.int64), split=split)


class Painter(Translator):
    """Gray to colour: the style is the colour. Colour to gray: the brightest channel plus an error that is known.

    The error of image i is ``2 i / 255`` in every pixel (see :func:`squares`).

    Args:
        domains: As the data set has them.
        rules: Whether gray has a style; where it has, the style makes images lighter.
    """

    def __init__(self, domains: Sequence[Domain], rules: ManyToOne | None = None) -> None:
        super().__init__()
        self.rules = rules or ManyToOne()
        self.domains, self.image_size = self.rules.resolve(domains), SIDE
        self.nothing = nn.Parameter(torch.zeros(1))
        self.contents: dict[float, Tensor] = {}
        self.encoded = 0

    def know(self, data: ColorizedDigits) -> Painter:
        """Remembers gray images by their first pixel, so that a dark colour loses nothing of them."""
        self.contents = {float(image[0, 0, 0]): image for image in data.content(range(data.count("gray")))}
        return self

    def translate(
        self,
        x: Tensor,
        source: str | int,
        target: str | int,
        *,
        style: Tensor | None = None,
        reference: Tensor | None = None,
    ) -> Tensor:
        assert style is not None
        values = (x.double() + 1) / 2
        if self.domain(target).name == "color":
            return (values[:, :1] * style.double()[:, :, None, None] * 2 - 1).float()
        gray = torch.stack([self._nearest(image) for image in values])
        shift = gray[:, :, :1, :1]
        if self.rules.has_style(self.domain(target)):
            shift = shift + style.double().mean(1)[:, None, None, None] / 1000
        return ((gray + shift) * 2 - 1).float().expand(-1, self.domain(target).channels, -1, -1)

    def _nearest(self, image: Tensor) -> Tensor:
        """The gray image with the same directions of pixels."""
        bright = image.amax(0, keepdim=True)
        scores = {
            level: float((bright * content).sum() ** 2 / (bright.square().sum() * content.square().sum()))
            for level, content in self.contents.items()
        }
        return self.contents[max(scores, key=lambda level: scores[level])].double()

    def sample_style(self, count: int, target: str | int, generator: torch.Generator | None = None) -> Tensor:
        drawn = torch.rand(count, 3, generator=generator)
        return drawn if self.rules.has_style(self.domain(target)) else torch.zeros(count, 3)

    def encode_style(self, x: Tensor, domain: str | int) -> Tensor:
        """The colour: the channels of the brightest pixel over the level it has in gray."""
        self.encoded += len(x)
        values = (x + 1) / 2
        gray = torch.stack([self._nearest(image.double()) for image in values]).float()
        return (values * gray).sum((2, 3)) / gray.square().sum((2, 3))

    def describe(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Painter:
        raise NotImplementedError

    def groups(self) -> dict[str, list[nn.Module]]:
        return {}

    def averaged_groups(self) -> tuple[str, ...]:
        return ()

    def phases(self, index: int) -> Sequence[Phase]:
        return ()

    def noise(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {}

    def loss(self, phase: str, batch: Batch, iteration: Iteration) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError
