"""Measures of directions into multi-modal domains that need neither weights nor pairs, of whatever pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from m2o_fast.data import Dataset
from m2o_fast.engine.evaluation.measures import Measure, Outputs, Value
from m2o_fast.engine.evaluation.options import SEED
from m2o_fast.m2o import Domain
from m2o_fast.metrics.following import ContentKept, ReferencesFollowed, color_statistics
from m2o_fast.metrics.pixel_colors import PixelColors, pixel_color_report
from m2o_fast.metrics.variety import LookVariety, variety_report
from m2o_fast.randomness import torch_generator

STRUCTURE_PAIRS = 500  # so many pairs of images at most are compared by structure, which takes long
MOST_LOOKS = 32  # of a content, whose variety is measured: all are in memory at once


class RealPictures:
    """What outputs are compared with: test images of their domain, as many as there are sources of it.

    Args:
        domain: The domain as the networks see it.
        numbers: Image numbers, int64 ``[n]``.

    Attributes:
        variety: Of pairs of images: each with the one after it in a shuffled order.
        colors: Of every second image in that order, and of the others, as two groups; ``None``: gray ones.
    """

    def __init__(self, domain: Domain, numbers: Tensor) -> None:
        self._domain = domain
        self._order = numbers[torch.randperm(len(numbers), generator=torch_generator(SEED, "real pictures"))]
        self.variety = LookVariety()
        self.colors = PixelColors(2) if domain.channels == 3 else None

    def look_at(self, dataset: Dataset, places: range, device: torch.device) -> None:
        """Adds the images at some places of the shuffled order."""
        around = self._order[torch.arange(places.start, places.stop + 1) % len(self._order)]
        channels = self._domain.channels
        images = dataset.images(self._domain.name, around).expand(-1, channels, -1, -1).to(device)
        if len(self._order) > 1:
            pairs = torch.stack((images[:-1], images[1:]), dim=1)
            compared = _by_structure(torch.arange(places.start, places.stop), len(self._order))
            self.variety.update(pairs[compared.to(device)], pairs=1)
            self.variety.update(pairs[~compared.to(device)])
        if self.colors is not None:
            self.colors.update(images[:-1], torch.arange(places.start, places.stop) % 2)

    def state(self) -> dict[str, Tensor]:
        """Everything seen, for :meth:`merge_state` of another process."""
        colors = {} if self.colors is None else self.colors.state()
        return {**self.variety.state(), **colors}

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """Adds what another process has seen."""
        self.variety.merge_state(state)
        if self.colors is not None:
            self.colors.merge_state(state)


class Variety(Measure):
    """``pixel_variety`` and ``structure_variety``: how different the translations of one source are.

    Args:
        real: Real images; filled before :meth:`values` is called.
        looks: Image number of a source -> all looks of its content to measure, ``[L, 1 or C, S, S]`` in [0, 1].
        sources: How many sources there are in all.
    """

    def __init__(self, real: LookVariety, looks: Callable[[int], Tensor], sources: int) -> None:
        self._real, self._looks, self._sources = real, looks, sources
        self._made, self._true = LookVariety(), LookVariety()

    def update(self, outputs: Outputs) -> None:
        """Adds translations, at least two of each source."""
        pairs = max(1, STRUCTURE_PAIRS // self._sources)
        compared = _by_structure(outputs.numbers, self._sources)
        chosen = compared.to(outputs.images.device)
        self._made.update(outputs.images[chosen], pairs)
        self._made.update(outputs.images[~chosen])
        for index, structure in zip(outputs.indices.tolist(), compared.tolist(), strict=True):
            looks = self._looks(index)
            if len(looks) > 1:
                looks = looks.expand(-1, outputs.images.shape[2], -1, -1)
                self._true.update(looks[None].to(outputs.images.device), pairs * structure)

    def state(self) -> dict[str, Tensor]:
        """See :meth:`Measure.state`."""
        return {"made": self._made.state()["sums"], "true": self._true.state()["sums"]}

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """See :meth:`Measure.merge_state`."""
        self._made.merge_state({"sums": state["made"]})
        self._true.merge_state({"sums": state["true"]})

    def values(self) -> dict[str, Value]:
        """See :func:`m2o_fast.metrics.variety.variety_report`."""
        return dict(variety_report(self._made, self._real, self._true))


class Colorfulness(Measure):
    """``pixel_color_recall`` with its ceiling, of groups of translations about as large as those of real images.

    Args:
        real: Two halves of real images; filled before :meth:`values` is called.
        parts: How many groups the sources are divided into; each of their translations is in a group of its own.
        outputs: Number of translations of each source.
    """

    def __init__(self, real: PixelColors, parts: int, outputs: int) -> None:
        self._real, self._parts, self._made = real, parts, PixelColors(parts * outputs)

    def update(self, outputs: Outputs) -> None:
        """Adds translations."""
        draws = torch.arange(outputs.images.shape[1])
        groups = outputs.numbers[:, None] % self._parts + draws * self._parts
        self._made.update(outputs.images.flatten(0, 1), groups.flatten())

    def state(self) -> dict[str, Tensor]:
        """See :meth:`Measure.state`."""
        return self._made.state()

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """See :meth:`Measure.merge_state`."""
        self._made.merge_state(state)

    def values(self) -> dict[str, Value]:
        """Empty where real images have no colours."""
        return dict(pixel_color_report(self._made, self._real))


class Following(Measure):
    """``references_followed``: how often a translation is nearer to its own reference, by colours, than to another.

    Args:
        references: Numbers of sources in the list of those translated -> :func:`color_statistics` of the references of
            their translations, ``[n, M, D]``.
    """

    def __init__(self, references: Callable[[Tensor], Tensor]) -> None:
        self._references, self._followed = references, ReferencesFollowed()

    def update(self, outputs: Outputs) -> None:
        """Adds translations, at least two of each source."""
        made = color_statistics(outputs.images.flatten(0, 1)).unflatten(0, outputs.images.shape[:2])
        self._followed.update(made, self._references(outputs.numbers))

    def state(self) -> dict[str, Tensor]:
        """See :meth:`Measure.state`."""
        return self._followed.state()

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """See :meth:`Measure.merge_state`."""
        self._followed.merge_state(state)

    def values(self) -> dict[str, Value]:
        """One share; nothing where all references are the same."""
        return {"references_followed": self._followed.compute()} if self._followed.sources else {}


class Content(Measure):
    """``cycle_mse`` and ``content_kept``: the first translation of each source, translated back.

    Args:
        back: Translations and the image numbers of their sources -> what is made of them in the source domain, and the
            sources, both ``[n, C, S, S]`` in [0, 1].
    """

    def __init__(self, back: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        self._back, self._kept = back, ContentKept()

    def update(self, outputs: Outputs) -> None:
        """Adds the first translation of each source."""
        self._kept.update(*self._back(outputs.exact[:, 0], outputs.indices))

    def state(self) -> dict[str, Tensor]:
        """See :meth:`Measure.state`."""
        return self._kept.state()

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """See :meth:`Measure.merge_state`."""
        self._kept.merge_state(state)

    def values(self) -> dict[str, Value]:
        """See :class:`m2o_fast.metrics.following.ContentKept`."""
        return dict(self._kept.compute())


def _by_structure(places: Tensor, count: int) -> Tensor:
    """Which of ``count`` things, given by their places, are among the :data:`STRUCTURE_PAIRS` at most; bool ``[n]``."""
    return places % -(-count // STRUCTURE_PAIRS) == 0
