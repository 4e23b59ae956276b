"""Sample grids: the same inputs and styles at every step, translated with the averaged weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from m2o_fast.data.dataset import Dataset
from m2o_fast.randomness import torch_generator
from m2o_fast.translators import Translator

COLUMNS = 8
STYLES = 4


class SampleGrid:
    """Fixed test images and styles of a run.

    Args:
        dataset: The test split.
        translator: Tells which domains there are.
        seed: Seed of the styles.
    """

    def __init__(self, dataset: Dataset, translator: Translator, seed: int) -> None:
        self._seed = seed
        self._images = []
        for k, domain in enumerate(translator.domains):
            count = min(COLUMNS, dataset.count(k))
            images = dataset.images(k, range(count)) * 2 - 1
            self._images.append(images.expand(-1, domain.channels, -1, -1).contiguous())

    @torch.no_grad()
    def rows(self, translator: Translator, source: int, target: int) -> dict[str, Tensor]:
        """Named rows for one direction, each float ``[columns, C, S, S]`` in about [-1, 1].

        ``source``; for a target with styles ``latent 1``, ... (one style a row), ``reference`` and ``reference-guided``,
        else ``output``; ``reconstruction`` (of the source, from the last translation).
        """
        device = next(translator.parameters()).device
        x, reference = self._images[source].to(device), self._images[target].to(device)
        rows = {"source": x}
        if translator.rules.has_style(translator.domains[target]):
            generator = torch_generator(self._seed, "samples", target)
            styles = translator.sample_style(STYLES, target, generator)
            for i in range(STYLES):
                rows[f"latent {i + 1}"] = translator.translate(x, source, target, style=styles[i : i + 1])
            rows["reference"] = reference
            last = translator.translate(x, source, target, reference=reference)
            rows["reference-guided"] = last
        else:
            last = translator.translate(x, source, target)
            rows["output"] = last
        style = translator.encode_style(x, source)
        rows["reconstruction"] = translator.translate(last, target, source, style=style)
        return rows

    def grid(self, translator: Translator) -> list[Sequence[Tensor]]:
        """The rows of every direction between two different domains, one below the other."""
        domains = range(len(translator.domains))
        directions = [(a, b) for a in domains for b in domains if a != b]
        return [list(row.cpu()) for a, b in directions for row in self.rows(translator, a, b).values()]
