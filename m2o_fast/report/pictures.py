"""The pictures of a report, made anew with the nets of a checkpoint, as PNG images within the page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from m2o_fast.data import Dataset
from m2o_fast.data.images import image_grid, to_pillow
from m2o_fast.engine.samples import DIRECTIONS, OF_SOURCE, SampleGrid, chosen_images
from m2o_fast.labels import pictures
from m2o_fast.m2o import Domain
from m2o_fast.randomness import torch_generator
from m2o_fast.report.evaluation import Evaluation, direction_title
from m2o_fast.report.measures import measure
from m2o_fast.translators.base import Translator

CONTENTS = 4
STYLES = 7
WORST = 16
_TILE = 96  # pixels; larger images are shrunk, to keep the page small
_AT_ONCE = 16  # images in one pass through the nets
_WIDEST = 900  # pixels of a sample picture


@dataclass(frozen=True)
class Strip:
    """Images side by side, as one PNG.

    Attributes:
        label: What they are.
        alt: The same for those who do not see them.
        uri: ``data:image/png;base64,...``.
        width: In pixels.
        height: In pixels.
        count: Number of images.
    """

    label: str
    alt: str
    uri: str
    width: int
    height: int
    count: int


@dataclass(frozen=True)
class Figure:
    """Strips below each other with a caption."""

    title: str
    note: str
    strips: list[Strip]


class Painter:
    """Makes the pictures of one translator.

    Args:
        translator: In evaluation mode, on its device.
        dataset: The test split.
        seed: Seed of the run, for the styles of its sample grids.
        style_seed: Seed of the random styles.
    """

    def __init__(self, translator: Translator, dataset: Dataset, seed: int, style_seed: int) -> None:
        self._translator, self._data, self._style_seed = translator, dataset, style_seed
        self._grid = SampleGrid(dataset, translator, seed)
        self._device = next(translator.parameters()).device

    @property
    def count(self) -> int:
        """The number of all directions."""
        return len(self._ways())

    def directions(self) -> list[tuple[int, int]]:
        """Those that are shown, (source, target)."""
        return self._ways()[:DIRECTIONS]

    def _ways(self) -> list[tuple[int, int]]:
        return sorted((a, b) for a, b in self._translator.directions() if a != b)

    def name(self, direction: tuple[int, int]) -> str:
        """``"color->gray"``."""
        source, target = (self._translator.domains[k].name for k in direction)
        return f"{source}->{target}"

    def rows(self, direction: tuple[int, int]) -> dict[str, Strip]:
        """The rows of the run's sample grid by label: the same contents and styles as during training.

        Into a uni-modal domain there is a further one, ``truth``, where it is known.
        """
        source, target = (self._translator.domains[k] for k in direction)
        rows = self._grid.rows(self._translator, *direction)
        found = None if target.multimodal else self._data.pair(*direction, self._grid.numbers[direction[0]])
        if found is not None and bool(found[1].all()):
            rows["truth"] = (found[0] * 2 - 1).expand(-1, target.channels, -1, -1)
        strips = {}
        for label, images in rows.items():
            domain = source if label in OF_SOURCE else target
            what = f"{label}: {len(images)} {domain.name} images"
            alt = f"{what}, {direction_title(self.name(direction))}"
            strips[label] = strip(label, alt, visible(images, domain))
        return strips

    def fixed(self) -> list[Figure]:
        """Every direction with the contents and styles of the run's sample grids."""
        note = "The contents and styles of the run's sample grids; a column is one content."
        return [
            Figure(f"{direction_title(self.name(pair))}: fixed styles", note, list(self.rows(pair).values()))
            for pair in self.directions()
        ]

    def random(self) -> list[Figure]:
        """Every direction into a domain with styles: contents in new random styles."""
        note = f"Left the source, then {STYLES} random styles that the run's sample grids do not show."
        return [self._styled(pair, "random styles", note, STYLES) for pair in self._with_style()]

    def interpolated(self) -> list[Figure]:
        """Every direction into a domain with styles: from one random style to another in equal steps."""
        note = "Left the source, then from one random style to another in equal steps."
        return [self._styled(pair, "from style to style", note, 2) for pair in self._with_style()]

    def worst(self, evaluation: Evaluation) -> list[Figure]:
        """The worst translations that an evaluation names: source, output, truth."""
        figures = []
        names = [domain.name for domain in self._translator.domains]
        for direction, details in evaluation.details.items():
            source, _, target = direction.partition("->")
            if details.worst and source in names and target in names:
                pair = names.index(source), names.index(target)
                cases = [case for case in details.worst[:WORST] if case.index < self._data.count(source)]
                strips = [
                    self._case(pair, case.index, f"{measure(case.measure).label} {case.value:.4g}") for case in cases
                ]
                note = "Each: source, translation, truth. The number is that of the image in the test split."
                figures.append(Figure(direction_title(direction), note, strips))
        return figures

    # --- helpers ---

    def _with_style(self) -> list[tuple[int, int]]:
        return [pair for pair in self.directions() if self._translator.has_style(pair[1])]

    def _random_styles(self, target: int, count: int) -> Tensor:
        generator = torch_generator(self._style_seed, "report", target)
        return self._translator.sample_style(count, target, generator)

    def _source(self, domain: int, indices: Sequence[int]) -> Tensor:
        images = self._data.images(domain, indices) * 2 - 1
        return images.expand(-1, self._translator.domains[domain].channels, -1, -1).to(self._device)

    def _translated(self, x: Tensor, pair: tuple[int, int], styles: Tensor) -> Tensor:
        return torch.cat(
            [
                self._translator.translate(some, *pair, style=style)
                for some, style in zip(x.split(_AT_ONCE), styles.split(_AT_ONCE), strict=True)
            ]
        )

    @torch.no_grad()
    def _styled(self, pair: tuple[int, int], kind: str, note: str, drawn: int) -> Figure:
        """Some contents in :data:`STYLES` styles: ``drawn`` random ones, or in equal steps between two."""
        source, target = (self._translator.domains[k] for k in pair)
        styles = self._random_styles(pair[1], drawn)
        if drawn < STYLES:
            first, last = styles
            ways = torch.linspace(0, 1, STYLES).view(-1, *[1] * first.dim())
            styles = first + ways.to(first) * (last - first)
        strips = []
        for number, index in enumerate(chosen_images(self._data, pair[0], CONTENTS), 1):
            x = self._source(pair[0], [index])
            outputs = self._translated(x.expand(STYLES, -1, -1, -1), pair, styles)
            alt = f"{source.name} image {index}, then the same as {target.name}, {kind}, {STYLES} images"
            strips.append(strip(f"content {number}", alt, [*visible(x, source), *visible(outputs, target)]))
        return Figure(f"{direction_title(self.name(pair))}: {kind}", note, strips)

    @torch.no_grad()
    def _case(self, pair: tuple[int, int], index: int, value: str) -> Strip:
        source, target = (self._translator.domains[k] for k in pair)
        x = self._source(pair[0], [index])
        images = [*visible(x, source), *visible(self._translated(x, pair, self._random_styles(pair[1], 1)), target)]
        found = self._data.pair(*pair, [index])
        what = "source, translation"
        if found is not None and bool(found[1][0]):
            images += visible(found[0] * 2 - 1, target)
            what += ", truth"
        label = f"#{index}: {value}"
        return strip(label, f"{label} ({what})", images)


# --- from tensors to images of a page ---


def visible(images: Tensor, domain: Domain) -> list[Tensor]:
    """Images ``[N, c, S, S]`` in about [-1, 1] to be shown: 1 or 3 channels, classes in colours, not too large."""
    shown = pictures(torch.nan_to_num(images.detach().float().cpu(), 0.0, 1.0, -1.0), domain)
    shrink = math.ceil(shown.shape[-1] / _TILE)
    if shrink > 1:  # classes cannot be averaged
        continuous = domain.kind == "continuous"
        shown = torch.nn.functional.avg_pool2d(shown, shrink) if continuous else shown[..., ::shrink, ::shrink]
    return list(shown)


def strip(label: str, alt: str, images: Sequence[Tensor]) -> Strip:
    """Images side by side."""
    picture = to_pillow(image_grid(images, gap=1))
    return Strip(label, alt, png_uri(picture), *picture.size, len(images))


def sample_picture(image: Image.Image, alt: str) -> Strip:
    """A sample grid that training has drawn, not wider than a page."""
    picture = image.convert("RGB")
    if picture.width > _WIDEST:
        picture = picture.resize((_WIDEST, max(1, picture.height * _WIDEST // picture.width)))
    return Strip("", alt, png_uri(picture), *picture.size, 1)


def png_uri(picture: Image.Image) -> str:
    """A picture as a ``data:`` address that needs no file."""
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
