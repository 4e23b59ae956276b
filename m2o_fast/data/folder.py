"""Own images: a folder per domain."""

from __future__ import annotations

import difflib
import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

from m2o_fast.data.cache import Decoded, Files, decoded, named
from m2o_fast.data.dataset import Dataset, Numbers, known_pairs
from m2o_fast.data.images import about_range, is_gray, read_pixels
from m2o_fast.data.layout import Images, about_test_folder, choose_split, list_domains, splits_of
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain

_THREADS = 8
_LOOKED_AT = 64  # images of a domain, for what is true of all


class FolderDataset(Dataset):
    """Decoded images of several domains. Images of the same key in two domains are a pair."""

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
            keys: For each domain what its images show, n texts. No two images of a domain that have a partner may
                share one.
            split: Name of the split, part of the key of the choice of pairs.
            fingerprint: SHA-256, in hexadecimal, of the images.
            seed: Seed of the choice of known pairs.
            pair_fraction: Share of the pairs of each direction that count as known, in [0, 1]; a larger share contains
                a smaller one.
        """
        self.domains = tuple(domains)
        self.image_size = images[0].shape[-1]
        self._images = tuple(images)
        self._partners: dict[tuple[int, int], Tensor] = {}
        for target, domain in enumerate(self.domains):
            for source in range(len(self.domains)):
                if source != target and not domain.multimodal:
                    partners = _partners(keys[source], keys[target])
                    paired = (partners >= 0).nonzero().squeeze(1)
                    direction = f"{split}/{self.domains[source].name}/{domain.name}"
                    known = known_pairs(len(paired), pair_fraction, seed, direction)
                    partners[paired[~known]] = -1
                    if known.any():
                        self._partners[source, target] = partners
        facts = [fingerprint, [vars(domain) for domain in self.domains], split, seed, pair_fraction, *map(list, keys)]
        self.fingerprint = hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def count(self, domain: str | int) -> int:
        """The number of images of ``domain``."""
        return len(self._images[self.domain_index(domain)])

    def images(self, domain: str | int, indices: Numbers, epochs: Numbers | int = 0) -> Tensor:
        """Images by number, see :meth:`Dataset.images`; they are the same in every epoch."""
        return self._float(self.domain_index(domain), self.checked_indices(domain, indices))

    def pair(self, source: str | int, target: str | int, indices: Numbers) -> tuple[Tensor, Tensor] | None:
        """The images of the same key in a uni-modal domain, see :meth:`Dataset.pair`.

        Into a multi-modal domain no translation is the only true one: ``None``.
        """
        rows = self.checked_indices(source, indices)
        target = self.domain_index(target)
        if (table := self._partners.get((self.domain_index(source), target))) is None:
            return None
        partners = table[rows]
        known = partners >= 0
        images = torch.zeros(len(rows), self.domains[target].channels, self.image_size, self.image_size)
        images[known] = self._float(target, partners[known])
        return images, known

    def has_pairs(self) -> bool:
        """Whether any true translation is known."""
        return bool(self._partners)

    def _float(self, domain: int, rows: Tensor) -> Tensor:
        return torch.from_numpy(self._images[domain][rows.numpy()]).to(torch.float32) / 255


def _partners(source: Sequence[str], target: Sequence[str]) -> Tensor:
    """int64 ``[len(source)]``: the number of the target image with the same key, -1 where there is none."""
    numbers = {key: number for number, key in enumerate(target)}
    return torch.tensor([numbers.get(key, -1) for key in source])


# --- from files ---


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
    listing = list_domains(files.root, splits)
    split = choose_split(splits, files.split, files.root)
    if split == "test" and (sentence := about_test_folder(files.root)):
        files.report(sentence)
    found = listing[split]
    _check_uni(uni, list(found))
    channels = {name: _channels([images[name] for images in listing.values()]) for name in found}
    domains = [Domain(name, channels[name], multimodal=name not in uni) for name in found]
    _check_keys(found, domains)
    results = [_decode(files, found[domain.name], domain.channels) for domain in domains]
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
    keys = [_kept_keys(found[domain.name], result) for domain, result in zip(domains, results, strict=True)]
    return FolderDataset(
        domains,
        [result.images for result in results],
        keys,
        split=split,
        fingerprint=" ".join(result.fingerprint for result in results),
        seed=files.seed,
        pair_fraction=files.pair_fraction,
    )


def _decode(files: Files, images: Images, channels: int) -> Decoded:
    size = files.image_size
    return decoded(
        images.paths,
        partial(read_pixels, channels=channels, size=size),
        (channels, size, size),
        f"images with {channels} channels, stretched to {size} x {size}",
        keep=files.cache,
        max_unreadable=files.max_unreadable,
        report=files.report,
    )


def _kept_keys(images: Images, result: Decoded) -> list[str]:
    keys = images.keys()
    return [keys[number] for number in result.kept.tolist()]


def _channels(listings: Sequence[Images]) -> int:
    """1 if all files that can be read are gray, else 3."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return 3 if False in pool.map(is_gray, (path for images in listings for path in images.paths)) else 1


def _check_uni(uni: Sequence[str], names: Sequence[str]) -> None:
    for name in uni:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"; nearest: {near[0]!r}" if near else ""
            raise UserError(f"--uni (data.uni) names no domain: {name!r}{hint} (domains: {', '.join(names)})")


def _check_keys(found: Mapping[str, Images], domains: Sequence[Domain]) -> None:
    """Raises ``UserError`` where it is not clear which images are a pair."""
    if all(domain.multimodal for domain in domains):
        return
    if problems := ambiguous(found):
        raise UserError(f"not clear which images are pairs: {named(problems)}; rename or remove one of each")


def ambiguous(found: Mapping[str, Images]) -> list[str]:
    """The files of a domain that have the same key as another one of it and as an image of another domain."""
    keys = {name: images.keys() for name, images in found.items()}
    problems = []
    for name, images in found.items():
        elsewhere = {key for other, some in keys.items() if other != name for key in some}
        twice = {key for key, times in Counter(keys[name]).items() if times > 1} & elsewhere
        for key in sorted(twice):
            same = [path for path, other in zip(images.paths, keys[name], strict=True) if other == key]
            problems.append(" and ".join([str(same[0]), *(path.name for path in same[1:])]))
    return problems
