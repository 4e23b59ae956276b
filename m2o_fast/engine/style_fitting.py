"""Random styles are made to reach what real images show: the affine maps behind a mapping network are fitted.

Nothing is drawn from the randomness of training. What is fitted depends on the averaged weights, the training images
and how many of them training has seen, not on when it was fitted before: training goes on as if it had not been.
"""

from __future__ import annotations

import torch
from torch import Tensor

from m2o_fast.data.dataset import Dataset
from m2o_fast.nn.style_fit import Moments, StyleFit
from m2o_fast.randomness import torch_generator
from m2o_fast.translators.base import Translator

IMAGES = 4096  # real ones of a domain, whose styles are read
TRANSLATIONS, ROUNDS = 2048, 4  # of each round
FEWEST = 8  # images for each dimension of a style: fewer say too little of a covariance


class StyleFitting:
    """Fits the styles of averaged nets in evaluation mode.

    Args:
        dataset: The training images.
        seed: Of the run.
        batch_size: Images that go through the nets at a time.
    """

    def __init__(self, dataset: Dataset, seed: int, batch_size: int) -> None:
        self._dataset, self._seed, self._batch_size = dataset, seed, batch_size

    @torch.no_grad()
    def fit(self, translator: Translator, at_most: int = IMAGES) -> None:
        """Fits the maps of all domains that have one.

        Translations by random styles get, as the style encoder reads them, the mean and covariance of real images: the
        map takes random styles to these moments; then, round by round, translations are made and read, and styles are
        moved on as far as what was read is off. Of all rounds the nearest stays, or what was there before any.

        Args:
            translator: The nets.
            at_most: Images to read at a time. Those that training has seen so far, in the first steps: a short one is
                not to wait for this.
        """
        for target in range(len(translator.domains)):
            fit = translator.style_fit(target)
            if fit is not None and min(TRANSLATIONS, at_most) >= FEWEST * len(fit.shift):
                self._fit(translator, target, fit, at_most)

    def _fit(self, translator: Translator, target: int, fit: StyleFit, at_most: int) -> None:
        generator, count = torch_generator(self._seed, "style fit", target), min(TRANSLATIONS, at_most)
        wanted = Moments.of(self._styles_of_images(translator, target, min(IMAGES, at_most), generator))
        found = Moments.of(self._styles_of_translations(translator, target, count, generator))
        if not (wanted.is_usable() and found.is_usable()):  # nets that have gone wrong, or are not there yet
            return
        nearest, kept = found.distance(wanted), _copied(fit)
        found = Moments.of(translator.sample_style(IMAGES, target, generator))
        try:
            for _ in range(ROUNDS):
                if not found.is_usable():
                    break
                fit.move(found, wanted)
                found = Moments.of(self._styles_of_translations(translator, target, count, generator))
                if found.is_usable() and (distance := found.distance(wanted)) < nearest:
                    nearest, kept = distance, _copied(fit)
        finally:
            fit.load_state_dict(kept)

    def _styles_of_images(self, translator: Translator, domain: int, count: int, generator: torch.Generator) -> Tensor:
        numbers, epochs = self._drawn(domain, count, generator)
        return torch.cat(
            [
                translator.encode_style(self._images(translator, domain, some, epoch), domain)
                for some, epoch in zip(numbers.split(self._batch_size), epochs.split(self._batch_size), strict=True)
            ]
        )

    def _styles_of_translations(
        self, translator: Translator, target: int, count: int, generator: torch.Generator
    ) -> Tensor:
        sources = [a for a, b in translator.directions() if b == target and a != target] or [target]
        read = []
        for source in sources:
            numbers, epochs = self._drawn(source, -(-count // len(sources)), generator)
            for some, epoch in zip(numbers.split(self._batch_size), epochs.split(self._batch_size), strict=True):
                x = self._images(translator, source, some, epoch)
                style = translator.sample_style(len(x), target, generator)
                read.append(translator.encode_style(translator.translate(x, source, target, style=style), target))
        return torch.cat(read)

    def _drawn(self, domain: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Numbers and epochs of so many images: all of them in a random order, as often as it takes."""
        there = self._dataset.count(domain)
        orders = [torch.randperm(there, generator=generator) for _ in range(-(-count // there))]
        return torch.cat(orders)[:count], torch.arange(count) // there

    def _images(self, translator: Translator, domain: int, numbers: Tensor, epochs: Tensor) -> Tensor:
        """Float ``[n, C, S, S]`` in [-1, 1], as the nets take them, on their device."""
        images = self._dataset.images(domain, numbers, epochs) * 2 - 1
        channels = translator.domains[domain].channels
        return images.expand(-1, channels, -1, -1).contiguous().to(next(translator.parameters()).device)


def _copied(fit: StyleFit) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in fit.named_buffers()}
