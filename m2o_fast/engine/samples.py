"""Sample grids: the same inputs and styles at every step, translated with the averaged weights where there are some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from PIL import Image
from torch import Tensor

from m2o_fast.data.dataset import Dataset
from m2o_fast.data.images import image_grid, labelled_rows, to_pillow
from m2o_fast.data.representative import representative
from m2o_fast.labels import pictures
from m2o_fast.randomness import torch_generator
from m2o_fast.translators.base import Translator

COLUMNS = 8
STYLES = 4
#: Directions in one picture: those of four domains. Their number grows with the square of the domains.
DIRECTIONS = 12
#: the rows that show images of the source domain
OF_SOURCE = ("source", "reconstruction")
_SMALLEST_TILE = 64  # pixels; smaller images are enlarged, to be looked at


def shown_directions(translator: Translator) -> list[tuple[int, int]]:
    """(source, target): what is learned between different domains, or, of many, one for each of some targets."""
    pairs = [(a, b) for a, b in translator.directions() if a != b]
    if len(pairs) <= DIRECTIONS:
        return pairs
    domains = len(translator.domains)
    first = {b: min((a for a, to in pairs if to == b), key=lambda a: (b - 1 - a) % domains) for _, b in pairs}
    return [(first[b], b) for b in sorted(first)[:DIRECTIONS]]


def chosen_images(dataset: Dataset, domain: int, count: int) -> list[int]:
    """Numbers of at most ``count`` images of a domain that stand for all of them, see :func:`representative`."""
    return representative(dataset.contents(domain), count, dataset.domains[domain].name)


@contextmanager
def in_evaluation(translator: Translator) -> Iterator[None]:
    """Nets that are being trained are used as they will be: no dropout, batch norm with what it has learned."""
    training = translator.training
    translator.eval()
    try:
        yield
    finally:
        translator.train(training)


class SampleGrid:
    """Fixed test images and styles of a run: images that stand for the split, the same in all runs on the same data.

    Args:
        dataset: The test split.
        translator: Tells which domains there are.
        seed: Seed of the styles.

    Attributes:
        numbers: The image numbers of each domain.
        images: Those images, float ``[columns, C, S, S]`` in [-1, 1].
    """

    def __init__(self, dataset: Dataset, translator: Translator, seed: int) -> None:
        self._seed = seed
        self.images: list[Tensor] = []
        self.numbers = [chosen_images(dataset, k, COLUMNS) for k in range(len(translator.domains))]
        for k, domain in enumerate(translator.domains):
            images = dataset.images(k, self.numbers[k]) * 2 - 1
            self.images.append(images.expand(-1, domain.channels, -1, -1).contiguous())

    def translate(self, translator: Translator) -> dict[tuple[int, int], dict[str, Tensor]]:
        """The rows of the directions shown, by (source, target)."""
        return {(a, b): self.rows(translator, a, b) for a, b in shown_directions(translator)}

    def draw(self, translator: Translator, directions: Mapping[tuple[int, int], dict[str, Tensor]]) -> Image.Image:
        """One picture of what :meth:`translate` gave: labelled rows, direction by direction."""
        domains = translator.domains
        rows = {
            f"{domains[a].name} to {domains[b].name}: {label}": pictures(
                images, domains[a if label in OF_SOURCE else b]
            )
            for (a, b), rows_of_direction in directions.items()
            for label, images in rows_of_direction.items()
        }
        scale = max(1, _SMALLEST_TILE // translator.image_size)
        enlarged = [images.repeat_interleave(scale, 2).repeat_interleave(scale, 3) for images in rows.values()]
        return labelled_rows(to_pillow(image_grid(*enlarged)), [label.replace(": ", "\n") for label in rows])

    def styles(self, translator: Translator, target: int) -> Tensor:
        """The styles of a target domain, one a row of the picture: ``[STYLES, *style_shape]``."""
        return translator.sample_style(STYLES, target, torch_generator(self._seed, "samples", target))

    @torch.no_grad()
    def rows(self, translator: Translator, source: int, target: int) -> dict[str, Tensor]:
        """The rows of one direction by label, each float ``[columns, C, S, S]`` in about [-1, 1].

        ``source``; for a target with styles ``latent 1``, ... (one style a row), where they can be read off images
        ``reference`` and ``guided by it``, else ``output``; ``reconstruction`` of the source from the last translation,
        where the way back was learned and the style it needs is known.
        """
        device = next(translator.parameters()).device
        x, reference = self.images[source].to(device), self.images[target].to(device)
        reference = reference[torch.arange(len(x), device=device) % len(reference)]  # there may be fewer, or more
        rows = {"source": x}
        if translator.has_style(target):
            styles = self.styles(translator, target)
            for i in range(STYLES):
                last = rows[f"latent {i + 1}"] = translator.translate(x, source, target, style=styles[i : i + 1])
            if translator.reads_style(target):
                rows["reference"] = reference
                last = rows["guided by it"] = translator.translate(x, source, target, reference=reference)
        else:
            last = rows["output"] = translator.translate(x, source, target)
        known = translator.reads_style(source) or not translator.has_style(source)
        if known and (target, source) in translator.directions():
            style = translator.encode_style(x, source)
            rows["reconstruction"] = translator.translate(last, target, source, style=style)
        return rows
