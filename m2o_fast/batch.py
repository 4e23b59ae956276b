"""The training batch: what data hands over and translators take in.

It lies below both of them so that neither needs to know the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """N source images, each to be translated into a target domain.

    Channel counts differ between domains, so images are tuples with one tensor per domain, in the order of the
    translator's domains; a domain without images in this batch has a tensor with 0 rows. Two orders of the same N
    samples occur: *source order* (grouped by source domain) and *target order* (grouped by target domain).

    Attributes:
        source: Per domain k, float ``[n_k, c_k, S, S]`` in [-1, 1]; together the source order.
        to_target: int64 ``[N]``: row i of the target order is row ``to_target[i]`` of the source order.
        target_counts: Per domain, the number of samples whose target it is; sums to N.
        reference: Per domain k, float ``[target_counts[k], c_k, S, S]``: a real image of each sample's target domain.
        reference2: The same, a second and different draw.
        paired: Per domain k, float ``[target_counts[k], c_k, S, S]`` in target order: the true translation where
            ``has_pair`` is set, anything finite elsewhere. Empty tuple: no pairs in this batch.
        has_pair: bool ``[N]`` in target order.
        noise: Random numbers that the translator asked for (:meth:`Translator.noise`), ``[N, ...]`` in target order.
    """

    source: tuple[Tensor, ...]
    to_target: Tensor
    target_counts: tuple[int, ...]
    reference: tuple[Tensor, ...]
    reference2: tuple[Tensor, ...]
    paired: tuple[Tensor, ...] = ()
    has_pair: Tensor | None = None
    noise: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """N, the number of source images."""
        return sum(self.target_counts)

    @property
    def source_counts(self) -> tuple[int, ...]:
        """Per domain, the number of source images."""
        return tuple(images.shape[0] for images in self.source)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Batch:
        """A copy with every tensor on ``device`` and every floating-point tensor in ``dtype``."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None, non_blocking=True)

        return replace(
            self,
            source=tuple(map(move, self.source)),
            to_target=move(self.to_target),
            reference=tuple(map(move, self.reference)),
            reference2=tuple(map(move, self.reference2)),
            paired=tuple(map(move, self.paired)),
            has_pair=None if self.has_pair is None else move(self.has_pair),
            noise={name: move(tensor) for name, tensor in self.noise.items()},
        )
