"""A history of generated images, from which a discriminator learns beside the newest ones.

Source: arXiv 1612.07828, section 2.3; in this form arXiv 1703.10593.
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
        capacity = len(self.images)
        full = self.filled >= capacity
        exchanged = full & (draws[:, 0] < 0.5)
        place = torch.where(full, (draws[:, 1] * capacity).long().clamp(max=capacity - 1), self.filled)
        old = self.images.index_select(0, place).to(image.dtype)
        kept = (exchanged | ~full) & image.isfinite().all()
        self.images.index_copy_(0, place, torch.where(_as_rows(kept), image, old).to(self.images.dtype))
        self.filled += (kept & ~full).sum()
        return torch.where(_as_rows(exchanged), old, image)


def _as_rows(mask: Tensor) -> Tensor:
    return mask[:, None, None, None]
