"""Contents: what images show. Images of several domains that show the same are pairs.

A content is a text, the key of an image. In a uni-modal domain it has one image, in a multi-modal one any number: its
looks.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from m2o_fast.data.cache import named
from m2o_fast.data.dataset import known_pairs
from m2o_fast.data.layout import Images, Split
from m2o_fast.data.pairs_table import TABLE, Listing, contents_by_table
from m2o_fast.errors import UserError
from m2o_fast.randomness import numpy_generator


def contents_of(root: Path, listing: Listing, uni: Collection[str], split: Split) -> dict[str, list[str]]:
    """Domain -> the content of each image of a split: by the table ``pairs.csv`` where there is one, else by names.

    Args:
        root: Folder of the data set.
        listing: Split -> domain -> its image files.
        uni: Names of the uni-modal domains.
        split: The split.

    Raises:
        UserError: The table is of no use, or names do not say which images are pairs.
    """
    if os.path.lexists(root / TABLE):
        return contents_by_table(root / TABLE, listing, uni)[split]
    names = {name: images.keys() for name, images in listing[split].items()}
    contents = contents_by_name(names, uni)
    if uni and (problems := _ambiguous(listing[split], names, contents)):
        raise UserError(f"not clear which images are pairs: {named(problems)}; rename or remove one of each")
    return contents


def _ambiguous(
    found: Mapping[str, Images], keys: Mapping[str, Sequence[str]], contents: Mapping[str, Sequence[str]]
) -> list[str]:
    """The files of a domain that have the same key, where an image of another domain shows what is named so."""
    problems = []
    for name, images in found.items():
        if len(set(keys[name])) == len(keys[name]):
            continue
        elsewhere = {content for other, some in contents.items() if other != name for content in some}
        twice = {key for key, times in Counter(keys[name]).items() if times > 1} & elsewhere
        for key in sorted(twice):
            same = [path for path, other in zip(images.paths, keys[name], strict=True) if other == key]
            problems.append(" and ".join([str(same[0]), *(path.name for path in same[1:])]))
    return problems


def contents_by_name(names: Mapping[str, Sequence[str]], uni: Collection[str]) -> dict[str, list[str]]:
    """Domain -> the content of each of its images, by their names.

    An image shows what the image of equal name in a uni-modal domain shows. In a multi-modal domain, one without such a
    partner shows what an image of a uni-modal domain shows that is named like the nearest of its folders; without that,
    what images of equal name show.

    Args:
        names: Domain -> the paths of its images below the domain's folder, without suffix.
        uni: Names of the uni-modal domains.
    """
    single = {name for domain in uni for name in names[domain]}
    return {
        domain: list(images) if domain in uni else [_shown_by(name, single) for name in images]
        for domain, images in names.items()
    }


def _shown_by(name: str, single: Collection[str]) -> str:
    """``name`` or the nearest of its folders that an image is named like; ``name`` where there is none."""
    shown = name
    while shown not in single:
        shown, slash, _ = shown.rpartition("/")
        if not slash:
            return name
    return shown


def named_by_folders(names: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The domains with an image that a subfolder of another domain is named like, as for its looks.

    Args:
        names: Domain -> the paths of its images below the domain's folder, without suffix.
    """
    in_folders = {domain: [name for name in images if "/" in name] for domain, images in names.items()}
    singles = {domain: set(images) for domain, images in names.items()}
    return tuple(
        domain
        for domain, single in singles.items()
        if any(_shown_by(name, single) != name for other in names if other != domain for name in in_folders[other])
    )


def shared_contents(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """The contents that two domains share, in the order of the first one's images."""
    there = set(second)
    return [content for content in dict.fromkeys(first) if content in there]


def known_contents(first: Sequence[str], second: Sequence[str], share: float, seed: int, name: str) -> set[str]:
    """The share of the contents of two domains that count as known, see :func:`known_pairs`."""
    contents = shared_contents(first, second)
    known = known_pairs(len(contents), share, seed, name)
    return {contents[number] for number in known.nonzero().squeeze(1).tolist()}


class Partners:
    """For each image of a domain, those of another one that show the same content.

    Attributes:
        counts: int64 ``[n]``: how many each image has.
    """

    def __init__(self, source: Sequence[str], target: Sequence[str], known: Collection[str]) -> None:
        """Join two domains.

        Args:
            source: The content of each of the n images.
            target: The content of each image of the other domain.
            known: The contents that count.
        """
        by_content: dict[str, list[int]] = defaultdict(list)
        for number, content in enumerate(target):
            if content in known:
                by_content[content].append(number)
        found: list[Sequence[int]] = [by_content.get(content, ()) for content in source]
        self.counts = torch.from_numpy(np.fromiter(map(len, found), dtype=np.int64, count=len(found)))
        self._ends = self.counts.cumsum(0)
        self._numbers = torch.from_numpy(np.fromiter(chain.from_iterable(found), dtype=np.int64))

    def of(self, row: int) -> Tensor:
        """The partners of one image, int64 ``[counts[row]]``, ascending."""
        end = int(self._ends[row])
        return self._numbers[end - int(self.counts[row]) : end]

    def draw(self, rows: Tensor, epochs: Tensor | int, seed: int, purpose: str) -> tuple[Tensor, Tensor]:
        """One partner of each image, drawn anew in every epoch.

        Args:
            rows: Image numbers, int64 ``[n]``.
            epochs: One epoch for all or int64 ``[n]``.
            seed: Seed of the draws.
            purpose: What else they depend on.

        Returns:
            int64 ``[k]``, partners of those images that have one, and bool ``[n]``, which these are.
        """
        counts = self.counts[rows]
        known = counts > 0
        places = (self._ends[rows] - counts)[known]
        if bool((counts > 1).any()):
            coins = _coins_of(
                rows[known], torch.as_tensor(epochs).expand(len(rows))[known], len(self.counts), seed, purpose
            )
            places = places + (coins * counts[known]).to(torch.int64)
        return self._numbers[places], known


def _coins_of(rows: Tensor, epochs: Tensor, count: int, seed: int, purpose: str) -> Tensor:
    """float64 ``[n]`` in [0, 1)."""
    coins = torch.empty(len(rows), dtype=torch.float64)
    for epoch in epochs.unique().tolist():
        chosen = epochs == epoch
        coins[chosen] = torch.from_numpy(_coins(seed, purpose, epoch, count))[rows[chosen]]
    return coins


@lru_cache(maxsize=16)  # directions x the one or two epochs that are under way
def _coins(seed: int, purpose: str, epoch: int, count: int) -> np.ndarray:
    return numpy_generator(seed, purpose, epoch).random(count)
