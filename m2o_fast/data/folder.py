"""Own images: a folder per domain."""

from __future__ import annotations

import difflib
import hashlib
import json
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor

from m2o_fast.data.cache import Decoded, Files, decoded
from m2o_fast.data.contents import Partners, contents_of, known_contents
from m2o_fast.data.dataset import Dataset, Numbers
from m2o_fast.data.images import about_range, is_gray, read_pixels
from m2o_fast.data.index import FileIndex
from m2o_fast.data.layout import Images, about_test_folder, choose_split, indices_of, list_domains, splits_of
from m2o_fast.data.near_misses import near_misses
from m2o_fast.data.parallel import many_objects
from m2o_fast.data.several import SeveralDatasets, check_apart, check_distinct
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain

_LOOKED_AT = 64  # images of a domain, for what is true of all
_FITTED = {"stretch": "stretched", "crop": "cropped", "pad": "padded"}  # in what keys the cache: never changed


class FolderDataset(Dataset):
    """Decoded images of several domains. Images of two domains that show the same content are a pair."""

    def __init__(
        self,
        domains: Sequence[Domain],
        images: Sequence[np.ndarray],
        keys: Sequence[Sequence[str]],
        *,
        split: str,
        fingerprint: str,
        seed: int = 777,
        pair_fraction: float = 1.0,
    ) -> None:
        """Wrap decoded images.

        Args:
            domains: The domains.
            images: For each domain uint8 ``[n, c, S, S]``, n at least 1.
            keys: For each domain the content that its images show, n texts. In a uni-modal domain no two images that
                have a partner may share one.
            split: Name of the split, part of the key of the choice of pairs.
            fingerprint: SHA-256, in hexadecimal, of the images.
            seed: Seed of the choice of known pairs.
            pair_fraction: Share of the contents of each direction whose pairs count as known, in [0, 1]; a larger
                share contains a smaller one.
        """
        self.domains = tuple(domains)
        self.image_size = images[0].shape[-1]
        self._images = tuple(images)
        self._contents = [_numbered(shown) for shown in keys]
        self._seed, self._split = seed, split
        numbers = range(len(self.domains))
        directions = [(source, target) for target in numbers for source in numbers if source != target]
        self._partners: dict[tuple[int, int], Partners] = {}
        for source, target in directions:
            first, second = self._counted_along(source, target)
            name = f"{split}/{self.domains[first].name}/{self.domains[second].name}"
            known = known_contents(keys[first], keys[second], pair_fraction, seed, name)
            if known:
                self._partners[source, target] = Partners(keys[source], keys[target], known)
        facts = [fingerprint, [vars(domain) for domain in self.domains], split, seed, pair_fraction, *map(list, keys)]
        self.fingerprint = hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def count(self, domain: str | int) -> int:
        """The number of images of ``domain``."""
        return len(self._images[self.domain_index(domain)])

    def images(self, domain: str | int, indices: Numbers, epochs: Numbers | int = 0) -> Tensor:
        """Images by number, see :meth:`Dataset.images`; they are the same in every epoch."""
        return self._float(self.domain_index(domain), self.checked_indices(domain, indices))

    def pair(
        self, source: str | int, target: str | int, indices: Numbers, epochs: Numbers | int = 0
    ) -> tuple[Tensor, Tensor] | None:
        """Images of the same content, see :meth:`Dataset.pair`."""
        rows = self.checked_indices(source, indices)
        direction = self.domain_index(source), self.domain_index(target)
        if (partners := self._partners.get(direction)) is None:
            return None
        purpose = f"looks/{self._split}/{self.domains[direction[0]].name}/{self.domains[direction[1]].name}"
        drawn, known = partners.draw(rows, torch.as_tensor(epochs), self._seed, purpose)
        images = torch.zeros(len(rows), self.domains[direction[1]].channels, self.image_size, self.image_size)
        images[known] = self._float(direction[1], drawn)
        return images, known

    def looks(self, source: str | int, target: str | int, index: int) -> Tensor:
        """The images of the same content, see :meth:`Dataset.looks`."""
        (row,) = self.checked_indices(source, [index]).tolist()
        partners = self._partners.get((self.domain_index(source), self.domain_index(target)))
        return super().looks(source, target, index) if partners is None else partners.of(row)

    def contents(self, domain: str | int) -> Tensor:
        """What the images of a domain show, see :meth:`Dataset.contents`."""
        return self._contents[self.domain_index(domain)]

    def has_pairs(self, directions: Collection[tuple[int, int]] | None = None) -> bool:
        """Whether any true translation is known, see :meth:`Dataset.has_pairs`."""
        return any(directions is None or direction in directions for direction in self._partners)

    def _counted_along(self, source: int, target: int) -> tuple[int, int]:
        """The direction by which the contents of a direction are chosen: the same both ways, if not uni-modal both."""
        if not self.domains[target].multimodal:
            return source, target
        return (target, source) if not self.domains[source].multimodal else (min(source, target), max(source, target))

    def _float(self, domain: int, rows: Tensor) -> Tensor:
        return torch.from_numpy(self._images[domain][rows.numpy()]).to(torch.float32) / 255


def _numbered(keys: Sequence[str]) -> Tensor:
    """int64 ``[n]``: texts as numbers, in the order in which they first come."""
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(key, len(numbers)) for key in keys], dtype=torch.int64)


# --- from files ---


def load_folders(files: Sequence[Files], uni: Sequence[str] = ()) -> Dataset:
    """One split of own images, of one folder or of several, each of which is a data set with labels of its own.

    Args:
        files: The folders, the split and how to read it.
        uni: Names of the uni-modal domains, of whichever folder.

    Raises:
        UserError: As :func:`load_folder` says; or a folder is given twice, or two have a domain of the same name.
    """
    if len(files) == 1:
        return load_folder(files[0], uni)
    names = names_apart([each.root for each in files])
    _check_uni(uni, [name for own in names.values() for name in own])
    return SeveralDatasets([load_folder(each, [name for name in uni if name in names[each.root]]) for each in files])


def names_apart(folders: Sequence[Path]) -> dict[Path, list[str]]:
    """Folder -> its domains. Raises ``UserError`` where folders or names come twice, or a folder is of no use."""
    check_distinct(folders)
    names = {root: list(next(iter(list_domains(root, splits_of(root)).values()))) for root in folders}
    check_apart(names)
    return names


def load_folder(files: Files, uni: Sequence[str] = ()) -> FolderDataset:
    """One split of own images, ``DIR/{train,val}/<domain>/...``.

    Domains are numbered in alphabetical order. One whose files are all gray has 1 channel, else 3, in both splits.

    Args:
        files: The folder, the split and how to read it.
        uni: Names of the uni-modal domains.

    Raises:
        UserError: If the folder does not have this layout, a domain has no image that can be read or too many that
            cannot, names make pairs ambiguous, or ``uni`` names an unknown domain.
    """
    splits = splits_of(files.root)
    with many_objects():
        listing = list_domains(files.root, splits)
    split = choose_split(splits, files.split, files.root)
    if split == "test" and (sentence := about_test_folder(files.root)):
        files.report(sentence)
    found = listing[split]
    _check_uni(uni, list(found))
    with many_objects():
        contents = contents_of(files.root, listing, uni, split)
        index = indices_of(listing, keep=files.cache, verify=files.verify, report=files.report)
    own_first = sorted(index, key=lambda name: name != split)  # where that is coloured, the other one need not be read
    channels = {name: channels_of([index[which][name] for which in own_first]) for name in found}
    domains = [Domain(name, channels[name], multimodal=name not in uni) for name in found]
    results = [_decode(files, found[domain.name], index[split][domain.name], domain.channels) for domain in domains]
    for domain, result in zip(domains, results, strict=True):
        looked_at = result.images[:: max(1, len(result.images) // _LOOKED_AT)]
        if sentence := about_range(int(looked_at.max())):
            warnings.warn(f"{found[domain.name].folder}: {sentence}", RuntimeWarning, stacklevel=2)
        if len(result.images) == 1:
            warnings.warn(
                f"{found[domain.name].folder} has a single image: it comes up again and again",
                RuntimeWarning,
                stacklevel=2,
            )
    shown = {
        domain.name: list(map(contents[domain.name].__getitem__, result.kept.tolist()))
        for domain, result in zip(domains, results, strict=True)
    }
    for line in _used(splits[split].name, found, results, shown, uni):
        files.report(line)
    if contents == {name: images.keys() for name, images in found.items()}:  # names alone say what belongs together
        for sentence in near_misses(contents, uni):
            files.report(sentence)
    with many_objects():
        return FolderDataset(
            domains,
            [result.images for result in results],
            list(shown.values()),
            split=split,
            fingerprint=" ".join(result.fingerprint for result in results),
            seed=files.seed,
            pair_fraction=files.pair_fraction,
        )


def _used(
    split: str,
    found: Mapping[str, Images],
    results: Sequence[Decoded],
    shown: Mapping[str, Sequence[str]],
    uni: Collection[str],
) -> Iterator[str]:
    """Which images are used and which are not, and why."""
    for (name, images), result in zip(found.items(), results, strict=True):
        reasons = {"unreadable": len(result.unreadable), "of other kinds": len(images.others)}
        left_out = ", ".join(f"{number} {reason}" for reason, number in reasons.items() if number)
        yield f"{split}/{name}: {len(result.images)} images used" + (f"; not: {left_out}" if left_out else "")
    there = {content for name in uni for content in shown[name]}
    for name, contents in shown.items():
        if uni and name not in uni:
            paired = sum(content in there for content in contents)
            yield f"{split}: {paired} of {len(contents)} images of {name} have a pair in {' or '.join(uni)}"


def _decode(files: Files, images: Images, index: FileIndex, channels: int) -> Decoded:
    size, half = files.image_size, "" if images.part == "whole" else f"{images.part} halves of "
    return decoded(
        index,
        partial(read_pixels, channels=channels, size=size, part=images.part, fit=files.fit),
        (channels, size, size),
        f"{half}images with {channels} channels, {_FITTED[files.fit]} to {size} x {size}",
        keep=files.cache,
        max_unreadable=files.max_unreadable,
        report=files.report,
        verify=files.verify,
    )


def channels_of(indices: Sequence[FileIndex]) -> int:
    """1 if all files of a domain that can be read are gray, in whatever split, else 3."""
    column = f"gray, Pillow {PIL.__version__}"
    return 3 if any((index.column(column, _gray, "reading the heads") == _COLORED).any() for index in indices) else 1


_COLORED = b"colored"


def _gray(path: str) -> bytes:
    return {True: b"gray", False: _COLORED, None: b""}[is_gray(path)]


def _check_uni(uni: Sequence[str], names: Sequence[str]) -> None:
    for name in uni:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"; nearest: {near[0]!r}" if near else ""
            raise UserError(f"--uni (data.uni) names no domain: {name!r}{hint} (domains: {', '.join(names)})")
