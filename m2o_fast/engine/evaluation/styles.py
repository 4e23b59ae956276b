"""The styles of an evaluation's translations: the same for every batch size and number of processes."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from m2o_fast.data import Dataset
from m2o_fast.engine.evaluation.options import SEED
from m2o_fast.metrics.following import color_statistics
from m2o_fast.randomness import torch_generator
from m2o_fast.translators.base import Translator

_BLOCK, _IMAGE_BLOCK = 1000, 10  # styles drawn at a time, whatever the batch size: vectors, images of noise


class Styles(ABC):
    """Styles of the translations of numbered sources."""

    @abstractmethod
    def rows(self, numbers: range) -> Tensor:
        """The styles of sources, float ``[n, M, *style_shape]``."""


class LatentStyles(Styles):
    """Styles of random latents.

    Args:
        translator: Maps latents to styles.
        source: Index of the source domain, which has latents of its own.
        target: Index of the target domain.
        outputs: M.
    """

    def __init__(self, translator: Translator, source: int, target: int, outputs: int) -> None:
        self._translator, self._source, self._target, self._outputs = translator, source, target, outputs
        self._size = _BLOCK if len(translator.style_shape(target)) == 1 else _IMAGE_BLOCK
        self._block, self._styles = -1, torch.empty(0)

    def rows(self, numbers: range) -> Tensor:
        """See :meth:`Styles.rows`."""
        parts = []
        for block in range(numbers.start // self._size, (numbers.stop - 1) // self._size + 1):
            start = block * self._size
            inside = slice(max(numbers.start - start, 0), min(numbers.stop - start, self._size))
            parts.append(self._drawn(block)[inside])
        return torch.cat(parts)

    def _drawn(self, block: int) -> Tensor:
        if block != self._block:
            draws = [
                self._translator.sample_style(
                    self._size,
                    self._target,
                    torch_generator(SEED, "evaluation", self._source, self._target, draw, block),
                )
                for draw in range(self._outputs)
            ]
            self._block, self._styles = block, torch.stack(draws, dim=1)
        return self._styles


class ReferenceStyles(Styles):
    """Styles of the target's own images, in a shuffled order for each of the M translations; each is encoded once.

    Args:
        translator: Encodes styles.
        dataset: Where the references come from.
        target: Index of the target domain in the translator.
        outputs: M.
        batch: Images encoded at a time.
        sources: How many sources there are at most: references that none of them has are not encoded.
    """

    def __init__(
        self, translator: Translator, dataset: Dataset, target: int, outputs: int, batch: int, sources: int
    ) -> None:
        domain = translator.domains[target]
        count = dataset.count(domain.name)
        orders = [
            torch.randperm(count, generator=torch_generator(SEED, "references", target, draw))[:sources]
            for draw in range(outputs)
        ]
        #: image numbers, and for each source those of its references among them
        used, self._orders = torch.stack(orders, dim=1).unique(return_inverse=True)
        encoded, colors = [], []
        for chosen in used.split(batch):
            images = dataset.images(domain.name, chosen).expand(-1, domain.channels, -1, -1)
            encoded.append(translator.encode_style(images * 2 - 1, target))
            colors.append(color_statistics(images))
        self._encoded, self._colors = torch.cat(encoded), torch.cat(colors)

    def rows(self, numbers: range) -> Tensor:
        """See :meth:`Styles.rows`; with more sources than references, references come again."""
        chosen = self._chosen(torch.arange(numbers.start, numbers.stop))
        return self._encoded[chosen.to(self._encoded.device)]

    def colors(self, numbers: Tensor) -> Tensor:
        """:func:`color_statistics` of the references of some sources, float64 ``[n, M, 2 C]``."""
        return self._colors[self._chosen(numbers)]

    def _chosen(self, numbers: Tensor) -> Tensor:
        """The references of sources, ``[n, M]``, among those that are used."""
        return self._orders[numbers % len(self._orders)]


class MadeUpStyles(Styles):
    """For targets without style: the zero style and a random one, to see that it changes nothing.

    Of a system that has no styles at all there is one translation.

    Args:
        translator: Knows the length of a style.
        target: Index of the target domain.

    Attributes:
        count: M, 2 or 1.
    """

    def __init__(self, translator: Translator, target: int) -> None:
        generator = torch_generator(SEED, "no style", target)
        none = translator.sample_style(1, target, generator)
        made_up = [none, torch.randn(none.shape, generator=generator).to(none)]
        self.count = 2 if none.numel() else 1
        self._styles = torch.stack(made_up[: self.count], dim=1)

    def rows(self, numbers: range) -> Tensor:
        """See :meth:`Styles.rows`."""
        return self._styles.expand(len(numbers), *self._styles.shape[1:])
