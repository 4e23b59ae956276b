"""A history of generated images, from which a discriminator learns beside the newest ones.

Source: arXiv 1612.07828, section 2.3, as :class:`HalfPool`; as :class:`HistoryPool` arXiv 1703.10593.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _alone(rows: Tensor) -> tuple[Tensor, slice]:
    return rows, slice(None)


class HistoryPool:
    """Images of earlier steps. While it fills, it keeps every image and gives it back.

    Afterwards each image is, with probability one half, exchanged for a random one of the pool. Which ones is a
    function of numbers that the caller draws; processes that train together put all their images into the pool that
    each of them has. An image that is not finite is not kept. Nothing waits for the device.

    Args:
        capacity: How many images it holds.
        shape: Of one image, (C, H, W).

    Attributes:
        images: Float ``[capacity, C, H, W]``.
        filled: int64, 0-dimensional: how many of them there are by now.
        gather: The rows of all processes, in the order of the samples, and which of them are this one's own.
    """

    def __init__(self, capacity: int, shape: tuple[int, int, int]) -> None:
        if capacity < 1:
            raise ValueError(f"a history pool holds at least 1 image, got {capacity}")
        self.images = torch.zeros((capacity, *shape))
        self.filled = torch.zeros((), dtype=torch.int64)
        self.gather: Callable[[Tensor], tuple[Tensor, slice]] = _alone

    def to(self, like: Tensor) -> HistoryPool:
        """Moves it to the device and the dtype of a tensor, in place."""
        self.images, self.filled = self.images.to(like), self.filled.to(like.device)
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Takes images in and gives as many out, without a graph.

        Args:
            images: Float ``[n, C, H, W]``; n may be 0.
            numbers: Float ``[n, 2]``, uniform in [0, 1): whether each is exchanged, and for which one.

        Returns:
            Float ``[n, C, H, W]``, in place of the images.
        """
        everyone, own = self.gather(images.detach())
        draws, _ = self.gather(numbers)
        given = [self._exchanged(*row) for row in zip(everyone.split(1), draws.split(1), strict=True)]
        return torch.cat(given)[own] if given else images.detach()

    def settle(self) -> None:
        """All parts of a batch have been through."""

    def _exchanged(self, image: Tensor, draws: Tensor) -> Tensor:
        capacity = len(self.images)
        full = self.filled >= capacity
        exchanged = full & (draws[:, 0] < 0.5)
        place = torch.where(full, (draws[:, 1] * capacity).long().clamp(0, capacity - 1), self.filled)
        old = self.images.index_select(0, place).to(image.dtype)
        kept = (exchanged | ~full) & image.isfinite().all()
        self.images.index_copy_(0, place, torch.where(_as_rows(kept), image, old).to(self.images.dtype))
        self.filled += (kept & ~full).sum()
        return torch.where(_as_rows(exchanged), old, image)


class HalfPool(HistoryPool):
    """The same in exact halves: every second image of a batch is shown and stored, the others give way to stored ones.

    Which half begins is drawn for each batch. What is given out was there before the batch; where that is less than
    half of it, the rest of the batch's own images stay. Stored images are added until the pool is full, and then
    replace others, in :meth:`settle`. All places are drawn anew for each batch, those of either half all different.

    Source: SimGAN, arXiv 1612.07828, section 2.3.
    """

    def __init__(self, capacity: int, shape: tuple[int, int, int]) -> None:
        super().__init__(capacity, shape)
        self._batch: list[tuple[Tensor, Tensor]] = []  # the parts so far, and their numbers
        self._given = torch.arange(capacity)  # places of what is given out, in order as far as numbers have come

    @torch.no_grad()
    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Takes the images of a part of a batch in and gives as many out, without a graph.

        Args:
            images: Float ``[n, C, H, W]``; n may be 0.
            numbers: Float ``[n, 3]``, uniform in [0, 1): which half begins (of the first image of a batch), which image
                is given out and which one is replaced (of every second image).

        Returns:
            Float ``[n, C, H, W]``, in place of the images.
        """
        everyone, own = self.gather(images.detach())
        draws, _ = self.gather(numbers)
        if not self._batch:
            self._given = torch.arange(len(self.images), device=draws.device)
        self._batch.append((everyone, draws))
        return self._shown(everyone)[own] if len(everyone) else images.detach()

    @torch.no_grad()
    def settle(self) -> None:
        """Stores half of the batch."""
        parts, self._batch = self._batch, []
        if not sum(len(numbers) for _, numbers in parts):
            return
        images, draws = (torch.cat(halves) for halves in zip(*parts, strict=True))
        rows = torch.arange(0, len(images), 2, device=images.device) + _starts_old(draws)
        new = images.index_select(0, rows.clamp(max=len(images) - 1))
        kept = (rows < len(images)) & new.isfinite().flatten(1).all(1)
        first = kept.int().argsort(descending=True, stable=True)[: len(self.images)]  # those that are kept
        kept, new = kept.index_select(0, first), new.index_select(0, first)
        rank, free = torch.arange(len(first), device=images.device), len(self.images) - self.filled
        replaced = torch.arange(len(self.images), device=images.device)
        self._draw(replaced, draws[::2, 2])
        replaced = replaced.index_select(0, (rank - free).clamp(min=0))
        places = torch.where(rank < free, self.filled + rank, replaced)
        old = self.images.index_select(0, places)
        self.images.index_copy_(0, places, torch.where(_as_rows(kept), new.to(old.dtype), old))
        self.filled.copy_((self.filled + kept.sum()).clamp(max=len(self.images)))

    def _shown(self, images: Tensor) -> Tensor:
        """What a part of the batch, the last one so far, gives way to."""
        draws = torch.cat([numbers for _, numbers in self._batch])
        before = len(draws) - len(images)
        self._draw(self._given, draws[::2, 1], first=(before + 1) // 2)
        rows = torch.arange(before, len(draws), device=images.device)
        given = ((rows + _starts_old(draws)) % 2 == 1) & (rows // 2 < self.filled)
        old = self.images.index_select(0, self._given.index_select(0, (rows // 2).clamp(max=len(self.images) - 1)))
        return torch.where(_as_rows(given), old.to(images.dtype), images)

    def _draw(self, places: Tensor, numbers: Tensor, first: int = 0) -> None:
        """Orders places of stored images by numbers, from the ``first`` one on: all different (Fisher and Yates)."""
        for k in range(first, min(len(numbers), len(places))):
            left = (self.filled - k).clamp(min=1)
            chosen = k + torch.minimum((numbers[k : k + 1] * left).long().clamp(min=0), left - 1)
            place = places.index_select(0, chosen)
            places.index_copy_(0, chosen, places[k : k + 1].clone())
            places[k : k + 1] = place


def _starts_old(draws: Tensor) -> Tensor:
    """1 where the first image of a batch gives way to a stored one, else 0; 0-dimensional."""
    return (draws[0, 0] < 0.5).long()


def _as_rows(mask: Tensor) -> Tensor:
    return mask[:, None, None, None]
