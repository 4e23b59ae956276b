"""What every data set is to the sampler, the metrics and the command line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain
from m2o_fast.randomness import numpy_generator

#: Image numbers or epochs: one-dimensional, whole numbers.
Numbers = Sequence[int] | np.ndarray | Tensor

_LOOKED_AT = 64  # images at a time


def as_numbers(numbers: Numbers, name: str = "indices") -> Tensor:
    """``numbers`` as an int64 tensor ``[n]``.

    Raises:
        ValueError: If they are not one-dimensional whole numbers.
    """
    tensor = torch.as_tensor(numbers)
    if tensor.numel() == 0:
        tensor = tensor.to(torch.int64)
    if tensor.ndim != 1 or tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"{name} must be one-dimensional whole numbers, got {tensor.dtype} {list(tensor.shape)}")
    return tensor.to(torch.int64)


def known_pairs(count: int, share: float, seed: int, split: str) -> Tensor:
    """Which of ``count`` pairs count as known: a choice fixed by the seed, in which a larger share contains a smaller.

    Returns:
        bool ``[count]``.

    Raises:
        UserError: If ``share`` is not in [0, 1].
    """
    if not 0.0 <= share <= 1.0:
        raise UserError(f"pair_fraction must be in [0, 1], got {share}")
    known = torch.zeros(count, dtype=torch.bool)
    chosen = numpy_generator(seed, f"pairs/{split}").permutation(count)[: round(share * count)]
    known[torch.from_numpy(chosen)] = True
    return known


class Dataset(ABC):
    """Images of several domains, some of which may be pairs.

    Everything it returns is a pure function of its arguments, so two processes see the same images.

    Attributes:
        domains: The domains with the channel counts of the stored images.
        image_size: Side length S of the square images, in pixels.
        fingerprint: SHA-256, in hexadecimal, of everything that determines its images.
        class_names: Names of the classes of its label maps, by class number; class 0 is void. Empty: no label maps.
    """

    domains: tuple[Domain, ...]
    image_size: int
    fingerprint: str
    class_names: tuple[str, ...] = ()

    @property
    def sets(self) -> tuple[int, ...]:
        """How many of the domains, in their order, are of each data set that this one is made of; usually of one."""
        return (len(self.domains),)

    @abstractmethod
    def count(self, domain: str | int) -> int:
        """The number of images of ``domain``."""

    @abstractmethod
    def images(self, domain: str | int, indices: Numbers, epochs: Numbers | int = 0) -> Tensor:
        """Images by number.

        Args:
            domain: Name or index of the domain.
            indices: n image numbers, each in [0, count(domain)).
            epochs: One epoch for all images or one for each; a data set that makes an image up anew in every epoch
                (its colour, say) takes it from here.

        Returns:
            float32 ``[n, c, S, S]`` in [0, 1].

        Raises:
            ValueError: For an unknown domain or image numbers out of range.
        """

    @abstractmethod
    def pair(
        self, source: str | int, target: str | int, indices: Numbers, epochs: Numbers | int = 0
    ) -> tuple[Tensor, Tensor] | None:
        """The true translations of images of ``source`` into ``target``.

        Into a multi-modal domain there are many; it is one of those that the data set has, drawn anew in every epoch.

        Args:
            source: Name or index of the domain that ``indices`` number.
            target: Name or index of another domain.
            indices: n image numbers, each in [0, count(source)).
            epochs: One epoch for all images or one for each.

        Returns:
            float32 ``[n, c_target, S, S]`` in [0, 1] and bool ``[n]``, which says where the translation is known
            (the images are 0 elsewhere); or ``None`` if it is known for no image of this direction.
        """

    def looks(self, source: str | int, target: str | int, index: int) -> Tensor:
        """All true translations of one image of ``source`` that ``target`` has and that count as known.

        Args:
            source: Name or index of a domain.
            target: Name or index of another domain.
            index: Image number, in [0, count(source)).

        Returns:
            int64 ``[L]``: image numbers of ``target``. Empty: none is known, or they are too many to list, as the
            colours of a digit are.
        """
        return torch.zeros(0, dtype=torch.int64)

    def has_pairs(self, directions: Collection[tuple[int, int]] | None = None) -> bool:
        """Whether :meth:`pair` knows any true translation; images are looked at until one is found.

        Args:
            directions: (source, target) by index that count; ``None``: all from one domain to another.
        """
        domains = range(len(self.domains))
        between = [(source, target) for source in domains for target in domains if source != target]
        parts = (
            (source, target, range(start, min(start + _LOOKED_AT, self.count(source))))
            for source, target in (between if directions is None else directions)
            for start in range(0, self.count(source), _LOOKED_AT)
        )
        return any((found := self.pair(*part)) is not None and bool(found[1].any()) for part in parts)

    def contents(self, domain: str | int) -> Tensor:
        """What the images of a domain show, as numbers: the same for two that are known to show the same.

        Args:
            domain: Name or index of the domain.

        Returns:
            int64 ``[count(domain)]``.
        """
        return torch.arange(self.count(domain))

    def content(self, indices: Numbers) -> Tensor | None:
        """How much foreground each pixel of images has that all domains share the content of; ``None``: not known.

        Args:
            indices: n image numbers.

        Returns:
            float32 ``[n, 1, S, S]`` in [0, 1], or ``None``.
        """
        return None

    def label_ids(self, indices: Numbers) -> Tensor | None:
        """Label maps by number, before they are drawn as images; ``None``: the data set has none.

        Args:
            indices: n image numbers of the domain of label maps.

        Returns:
            int64 ``[n, S, S]``, classes in [0, len(class_names)), or ``None``.
        """
        return None

    def domain_index(self, domain: str | int) -> int:
        """Index of a domain given by name or index. Raises ``ValueError`` for an unknown one."""
        names = [d.name for d in self.domains]
        if isinstance(domain, str):
            if domain in names:
                return names.index(domain)
        elif 0 <= domain < len(names):
            return int(domain)
        raise ValueError(f"unknown domain {domain!r}; the domains are {', '.join(names)}")

    def checked_indices(self, domain: str | int, indices: Numbers) -> Tensor:
        """``indices`` as int64 ``[n]``. Raises ``ValueError`` if one is not an image number of ``domain``."""
        tensor = as_numbers(indices)
        count = self.count(domain)
        if tensor.numel() and not (0 <= int(tensor.min()) and int(tensor.max()) < count):
            raise ValueError(
                f"image numbers must be in [0, {count}) for domain {domain!r}, "
                f"got {int(tensor.min())} to {int(tensor.max())}"
            )
        return tensor
