"""Several data sets side by side, each with labels of its own.

An image has one label, of its own set; whether labels of the other sets fit it as well, nobody knows.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate, combinations
from pathlib import Path

from torch import Tensor

from m2o_fast.data.dataset import Dataset, Numbers
from m2o_fast.errors import UserError


def check_apart(names: Mapping[Path, Sequence[str]]) -> None:
    """Raises ``UserError`` where two data sets have a domain of the same name.

    Args:
        names: Folder -> its domains.
    """
    for (first, ours), (second, theirs) in combinations(names.items(), 2):
        if both := [name for name in ours if name in theirs]:
            raise UserError(
                f"{first} and {second} both have a domain {both[0]}: labels of two data sets are two labels; rename "
                "one, or, where they mean the same, put all images into one data set"
            )


def check_distinct(folders: Sequence[Path]) -> None:
    """Raises ``UserError`` where one folder of several data sets is given twice."""
    times = Counter(os.path.realpath(folder) for folder in folders)
    for folder in folders:
        if times[os.path.realpath(folder)] > 1:
            raise UserError(f"data folder {folder} is given twice; name each data set once")


class SeveralDatasets(Dataset):
    """Data sets as one. Its domains are those of the first, then those of the second, and so on.

    Images of two sets are never a pair.

    Args:
        parts: The data sets, of one image size and with different names of domains.
    """

    def __init__(self, parts: Sequence[Dataset]) -> None:
        self.domains = tuple(domain for part in parts for domain in part.domains)
        self.image_size = parts[0].image_size
        self.fingerprint = hashlib.sha256(json.dumps([part.fingerprint for part in parts]).encode()).hexdigest()
        self._parts = tuple(parts)
        self._places = [(part, number) for part in parts for number in range(len(part.domains))]

    @property
    def sets(self) -> tuple[int, ...]:
        """How many of the domains are of each data set."""
        return tuple(len(part.domains) for part in self._parts)

    def count(self, domain: str | int) -> int:
        """The number of images of ``domain``."""
        part, number = self._place(domain)
        return part.count(number)

    def images(self, domain: str | int, indices: Numbers, epochs: Numbers | int = 0) -> Tensor:
        """Images by number, see :meth:`Dataset.images`."""
        part, number = self._place(domain)
        return part.images(number, indices, epochs)

    def pair(
        self, source: str | int, target: str | int, indices: Numbers, epochs: Numbers | int = 0
    ) -> tuple[Tensor, Tensor] | None:
        """Images of the same content within a data set, see :meth:`Dataset.pair`."""
        (part, a), (other, b) = self._place(source), self._place(target)
        return part.pair(a, b, indices, epochs) if part is other else None

    def looks(self, source: str | int, target: str | int, index: int) -> Tensor:
        """The images of the same content, see :meth:`Dataset.looks`."""
        (part, a), (other, b) = self._place(source), self._place(target)
        return part.looks(a, b, index) if part is other else super().looks(source, target, index)

    def contents(self, domain: str | int) -> Tensor:
        """What the images of a domain show, see :meth:`Dataset.contents`."""
        part, number = self._place(domain)
        return part.contents(number)

    def has_pairs(self, directions: Collection[tuple[int, int]] | None = None) -> bool:
        """Whether any true translation is known, see :meth:`Dataset.has_pairs`."""
        for part, end in zip(self._parts, accumulate(self.sets), strict=True):
            own = range(end - len(part.domains), end)
            inside = [(a - own.start, b - own.start) for a, b in directions or () if a in own and b in own]
            if part.has_pairs(None if directions is None else inside):
                return True
        return False

    def _place(self, domain: str | int) -> tuple[Dataset, int]:
        """The data set that a domain is of, and its number there."""
        return self._places[self.domain_index(domain)]
