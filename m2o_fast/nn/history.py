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

    def _exchanged(self, image: Tensor, draws: Tensor) -> Tensor:
        place, stored, given = self._decided(draws, self.filled >= len(self.images))
        old = self.images.index_select(0, place).to(image.dtype)
        kept = stored & image.isfinite().all()
        self.images.index_copy_(0, place, torch.where(_as_rows(kept), image, old).to(self.images.dtype))
        self.filled += (kept & (self.filled < len(self.images))).sum()
        return torch.where(_as_rows(given), old, image)

    def _decided(self, draws: Tensor, full: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A place, whether the image is stored there, and whether what was there is given out instead; each ``[1]``."""
        exchanged = full & (draws[:, 0] < 0.5)
        return torch.where(full, self._place(draws), self.filled), exchanged | ~full, exchanged

    def _place(self, draws: Tensor) -> Tensor:
        capacity = len(self.images)
        return (draws[:, 1] * capacity).long().clamp(0, capacity - 1)


class HalfPool(HistoryPool):
    """The same in exact halves: one of a batch is stored and given back, the other gives way to stored images.

    While it fills, stored images are added, and one that would give way to an image that is not there yet is given
    back. Afterwards as many are replaced as are given out. Source: SimGAN, arXiv 1612.07828, section 2.3.
    """

    @staticmethod
    def draw(count: int, capacity: int, generator: torch.Generator) -> Tensor:
        """The numbers for a batch, float ``[count, 2]``: every second image is stored, all have different places.

        So none is replaced twice, and, once the pool is full, none given out in the batch that it was stored in. (A
        batch of more images than there are places begins anew with them.)
        """
        rounds = -(-count // capacity)
        places = torch.cat([torch.randperm(capacity, generator=generator) for _ in range(rounds)])[:count]
        return torch.stack([torch.arange(count) % 2, (places + 0.5) / capacity], dim=1).float()

    def _decided(self, draws: Tensor, full: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stored, place = draws[:, 0] < 0.5, self._place(draws)
        given = ~stored & (place < self.filled)
        return torch.where(full | ~stored, place, self.filled), stored, given


def _as_rows(mask: Tensor) -> Tensor:
    return mask[:, None, None, None]
