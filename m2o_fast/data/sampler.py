"""Training batches as a pure function of (seed, step).

Nothing about the position in the data has to be saved: any step can be computed directly, in any process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from m2o_fast.batch import Batch
from m2o_fast.data.augment import Augment, Views, apply_views
from m2o_fast.data.dataset import Dataset
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain
from m2o_fast.randomness import numpy_generator

_SOURCE, _REFERENCE, _REFERENCE2 = "source", "reference", "reference2"


@lru_cache(maxsize=64)  # roles x domains x the one or two epochs that are under way
def _order(seed: int, role: str, domain: int, epoch: int, count: int) -> np.ndarray:
    """The order in which a role goes through the images of a domain in one epoch, int32 ``[count]``."""
    if role == _REFERENCE2:
        return _second_order(seed, domain, epoch, count)
    return numpy_generator(seed, f"order/{role}", domain, epoch).permutation(count).astype(np.int32)


def _second_order(seed: int, domain: int, epoch: int, count: int) -> np.ndarray:
    """A permutation that differs from that of the first reference in every place (if there are two images)."""
    first = _order(seed, _REFERENCE, domain, epoch, count)
    second = numpy_generator(seed, f"order/{_REFERENCE2}", domain, epoch).permutation(count).astype(np.int32)
    equal = np.flatnonzero(first == second)
    if len(equal) == 1 and count > 1:  # a place that can take part in the exchange, whatever it holds
        equal = np.array([equal[0], (equal[0] + 1) % count])
    second[equal] = np.roll(second[equal], 1)
    return second


@dataclass(frozen=True)
class _Plan:
    """Which samples make up a batch.

    Attributes:
        samples: int64 ``[N]``: global sample numbers, first one first.
        sources: int64 ``[N]``: source domain of each sample.
        targets: int64 ``[N]``: target domain of each sample.
        source_draws: int64 ``[N]``: how many samples before it have the same source domain.
        target_draws: int64 ``[N]``: how many samples before it have the same target domain.
    """

    samples: np.ndarray
    sources: np.ndarray
    targets: np.ndarray
    source_draws: np.ndarray
    target_draws: np.ndarray


Directions = Sequence[tuple[int, int]]


def _plan(first: int, count: int, directions: Directions) -> _Plan:
    samples = np.arange(first, first + count, dtype=np.int64)
    cycle, place = np.divmod(samples, len(directions))
    sources, targets = np.array(directions, dtype=np.int64).T
    source_draws, target_draws = (_draws(cycle, place, domains) for domains in (sources, targets))
    return _Plan(samples, sources[place], targets[place], source_draws, target_draws)


def _draws(cycle: np.ndarray, place: np.ndarray, domains: np.ndarray) -> np.ndarray:
    """How often the domain of each sample came up before it: in whole cycles, and in its own."""
    equal = domains[:, None] == domains[None, :]
    return cycle * equal.sum(1)[place] + np.tril(equal, -1).sum(1)[place]


def rows_of_share(step: int, batch_size: int, directions: Directions, share: int, shares: int) -> Tensor:
    """The rows of a batch's target order that belong to one of its equal shares, in that share's own target order.

    Args:
        step: Training step.
        batch_size: N of the whole batch, a multiple of ``shares``.
        directions: (source, target) of the samples of a cycle.
        share: Number of the share.
        shares: How many there are.

    Returns:
        int64 ``[N / shares]``.
    """
    order = np.argsort(_plan(step * batch_size, batch_size, directions).targets, kind="stable")
    return torch.from_numpy(np.flatnonzero(order // (batch_size // shares) == share))


class BatchSampler:
    """Draws the batch of any training step.

    Sample number ``j = step * batch_size + i`` translates from ``s`` to ``t`` with ``(s, t) = directions[j % D]``: each
    of the D directions has the same share (exactly so if D divides the batch size; then the counts per domain are the
    same in every step). Images are drawn without replacement: each
    role (source, reference, second reference) goes through each domain in an order of its own that is shuffled anew
    in every epoch. The epoch is also what the data set takes its colours from. The second reference is never the
    same image as the first, unless the domain has one image only.

    Several processes share a batch without a seam: the batch of ``batch_size / W`` at step ``step * W + rank`` is the
    rank-th part of the batch of ``batch_size`` at ``step``.
    """

    def __init__(
        self,
        dataset: Dataset,
        domains: Sequence[Domain],
        batch_size: int,
        seed: int,
        *,
        directions: Directions | None = None,
        pairs: Directions | None = (),
        references: int = 2,
        augment: Augment | None = None,
    ) -> None:
        """Prepare to draw; no image is touched yet.

        Args:
            dataset: Where the images come from.
            domains: The domains as the networks see them (:meth:`ManyToOne.resolve`): those of the data set in the
                same order, where a 1-channel domain may have more channels; its channel is then repeated.
            batch_size: N, at least 1.
            seed: Seed of all orders and augmentations.
            directions: (source, target) of the samples, by index; ``None``: every ordered pair of domains, each with
                itself included.
            pairs: Those of them in which the true translations that the data set knows are handed over; ``None``: all.
                Into a multi-modal domain that is one of the looks of the source image's content, drawn anew in every
                epoch.
            references: How many real images of its target domain come with each sample: 0, 1 or 2.
            augment: Crops and flips; a source image and its pair get the same ones. ``None``: none.

        Raises:
            UserError: If the domains do not fit the data set, a domain is empty, or the batch size is below 1.
        """
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        if [d.name for d in domains] != [d.name for d in dataset.domains]:
            raise UserError(
                f"the domains must be those of the data set, {', '.join(d.name for d in dataset.domains)}, "
                f"got {', '.join(d.name for d in domains)}"
            )
        for stored, seen in zip(dataset.domains, domains, strict=True):
            if stored.channels not in (1, seen.channels):
                raise UserError(f"domain {stored.name!r} has {stored.channels} channels, asked for {seen.channels}")
            if dataset.count(stored.name) == 0:
                raise UserError(f"domain {stored.name!r} has no images")
        self.dataset = dataset
        self.domains = tuple(domains)
        self.batch_size = batch_size
        self.seed = seed
        numbers = range(len(self.domains))
        self.directions = tuple((a, b) for a in numbers for b in numbers) if directions is None else tuple(directions)
        between = [(a, b) for a, b in self.directions if a != b]
        self.pairs = frozenset(between if pairs is None else pairs)
        self.references = references
        self.augment = augment if augment is not None and augment.enabled else None
        self._counts = [dataset.count(k) for k in range(len(self.domains))]

    def __call__(self, step: int) -> Batch:
        """The batch of a step, counted from 0, on the CPU in float32; its ``noise`` is empty."""
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        plan = _plan(step * self.batch_size, self.batch_size, self.directions)
        source_order = np.argsort(plan.sources, kind="stable")
        target_order = np.argsort(plan.targets, kind="stable")
        place_in_source = np.empty(self.batch_size, dtype=np.int64)
        place_in_source[source_order] = np.arange(self.batch_size)
        paired, has_pair = self._pairs(plan, target_order) if self.pairs else ((), None)
        roles = (_REFERENCE, _REFERENCE2)[: self.references]
        references = [self._images(role, plan.samples, plan.targets, plan.target_draws) for role in roles]
        return Batch(
            source=self._images(_SOURCE, plan.samples, plan.sources, plan.source_draws),
            to_target=torch.from_numpy(place_in_source[target_order]),
            target_counts=tuple(np.bincount(plan.targets, minlength=len(self.domains)).tolist()),
            reference=references[0] if references else (),
            reference2=references[1] if len(references) > 1 else (),
            paired=paired,
            has_pair=has_pair,
        )

    def _numbers(self, role: str, domain: int, draws: np.ndarray) -> tuple[Tensor, Tensor]:
        """The image numbers of the given draws of a domain and the epochs in which they fall."""
        count = self._counts[domain]
        epochs, places = np.divmod(draws, count)
        numbers = np.empty_like(draws)
        for epoch in np.unique(epochs).tolist():
            chosen = epochs == epoch
            numbers[chosen] = _order(self.seed, role, domain, epoch, count)[places[chosen]]
        return torch.from_numpy(numbers), torch.from_numpy(epochs)

    def _images(self, role: str, samples: np.ndarray, domains: np.ndarray, draws: np.ndarray) -> tuple[Tensor, ...]:
        """Per domain the images that a role draws, in the order of the samples."""
        result = []
        for k in range(len(self.domains)):
            chosen = domains == k
            images = self.dataset.images(k, *self._numbers(role, k, draws[chosen]))
            result.append(self._finish(images, k, self._views(role, samples[chosen])))
        return tuple(result)

    def _pairs(self, plan: _Plan, target_order: np.ndarray) -> tuple[tuple[Tensor, ...], Tensor]:
        """Per target domain the true translations (0 where unknown), and which samples have one, in target order."""
        size = self.dataset.image_size
        has_pair = torch.zeros(self.batch_size, dtype=torch.bool)
        result = []
        for target, domain in enumerate(self.domains):
            rows = target_order[plan.targets[target_order] == target]
            paired = torch.zeros(len(rows), domain.channels, size, size)
            known = torch.zeros(len(rows), dtype=torch.bool)
            for source in sorted({s for s in plan.sources[rows].tolist() if (s, target) in self.pairs}):
                chosen = plan.sources[rows] == source
                drawn = self._numbers(_SOURCE, source, plan.source_draws[rows[chosen]])
                if (found := self.dataset.pair(source, target, *drawn)) is not None:
                    truth = self._finish(found[0], target, self._views(_SOURCE, plan.samples[rows[chosen]]))
                    where = torch.from_numpy(chosen)
                    paired[where] = truth * found[1][:, None, None, None]
                    known[where] = found[1]
            has_pair[torch.from_numpy(np.flatnonzero(plan.targets[target_order] == target))] = known
            result.append(paired)
        return tuple(result), has_pair

    def _views(self, role: str, samples: np.ndarray) -> Views | None:
        return None if self.augment is None else self.augment.views(self.seed, role, samples)

    def _finish(self, images: Tensor, domain: int, views: Views | None) -> Tensor:
        """Images in [0, 1] as the networks take them: augmented, in [-1, 1], with the channels of the domain."""
        if views is not None:
            images = apply_views(images, views, nearest=self.domains[domain].kind != "continuous")
        images = images * 2 - 1
        channels = self.domains[domain].channels
        return images if images.shape[1] == channels else images.repeat(1, channels, 1, 1)
