"""The training batch: what data hands over and translators take in.

It lies below both of them so that neither needs to know the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
            Empty tuple: the translator asked for none.
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

        return self.mapped(move)

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory, from where a GPU fetches it while the host goes on."""
        return self.mapped(lambda tensor: tensor.pin_memory())

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """A copy with ``function`` of every tensor in its place."""
        return replace(
            self,
            source=tuple(map(function, self.source)),
            to_target=function(self.to_target),
            reference=tuple(map(function, self.reference)),
            reference2=tuple(map(function, self.reference2)),
            paired=tuple(map(function, self.paired)),
            has_pair=None if self.has_pair is None else function(self.has_pair),
            noise={name: function(tensor) for name, tensor in self.noise.items()},
        )

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor, in an order that depends on the numbers of domains and kinds of noise alone."""
        yield from (*self.source, self.to_target, *self.reference, *self.reference2, *self.paired)
        if self.has_pair is not None:
            yield self.has_pair
        yield from self.noise.values()


def images_by_target(batch: Batch) -> dict[int, Tensor]:
    """Of two domains that are translated into each other: by target with samples, the images to be translated.

    They are those of the other domain. The second target comes first: of the first domain's images come its.
    """
    rows, first = batch.to_target.split(list(batch.target_counts)), batch.source_counts[0]
    found = {1: batch.source[0][rows[1]], 0: batch.source[1][rows[0] - first]}
    return {k: images for k, images in found.items() if images.shape[0]}
