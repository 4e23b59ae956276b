"""ADE20K scene parsing: photographs of scenes, and their label maps with 150 classes and void.

One scene has one label map, but one label map is that of many scenes: ``scene`` is multi-modal, ``labels`` uni-modal.
Source: B. Zhou et al., Scene Parsing through ADE20K Dataset, CVPR 2017; the layout is that of ADEChallengeData2016.zip.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from m2o_fast.data.cache import Decoded, Files, decoded, named
from m2o_fast.data.dataset import Dataset, Numbers, known_pairs
from m2o_fast.data.images import SUFFIXES, read_pixels
from m2o_fast.data.label_maps import read_class_numbers
from m2o_fast.errors import UserError
from m2o_fast.files import composed
from m2o_fast.labels import draw_labels
from m2o_fast.m2o import Domain

#: 150 classes and void, which is 0: pixels of other objects, never scored.
CLASSES = 151
#: Our names of the splits and the folders that hold them.
SPLITS = {"train": "training", "test": "validation"}

_NAMES_FILE = "objectInfo150.txt"
_LARGEST_NAMES_FILE = 1 << 20  # bytes
_ARCHIVE = "ADEChallengeData2016"
_LAYOUT = (
    "images/{training,validation}/*.jpg and annotations/{training,validation}/*.png with equal names, "
    f"as in {_ARCHIVE}.zip"
)


def load_ade20k(files: Files, labels: Literal["palette", "onehot"] = "palette") -> Dataset:
    """One split of ADE20K, all pictures as squares: photographs scaled antialiased, label maps by nearest pixels.

    Args:
        files: Where and how to read. Where the split is missing, the other one is taken, with a warning.
        labels: How label maps become images, see :mod:`m2o_fast.labels`.

    Raises:
        UserError: If the folder holds no such data set or files of the split do not fit; names the first five.
    """
    root = scene_parsing_folder(files.root)
    split = _split_there(root, SPLITS[files.split])
    pairs = scene_pairs(root, split)
    size, fit = files.image_size, files.fit
    kept = partial(
        decoded, keep=files.cache, max_unreadable=files.max_unreadable, report=files.report, verify=files.verify
    )
    photos = kept(
        [photo for photo, _ in pairs],
        partial(read_pixels, channels=3, size=size, fit=fit),
        (3, size, size),
        f"RGB {size}" if fit == "stretch" else f"RGB {size}, {fit}",
    )
    photo_of = {pairs[i][1]: pairs[i][0] for i in photos.kept}

    def read_map(path: Path) -> np.ndarray:
        return read_class_numbers(path, CLASSES, size, photo_of[path], fit)

    # Whether a label map has the size of its photograph depends on both; the photographs' fingerprint knows the fit.
    recipe = f"labels {size} of {photos.fingerprint}"
    maps = kept(list(photo_of), read_map, (size, size), recipe)
    unreadable = len(photos.unreadable) + len(maps.unreadable)
    left_out = f"; not: {unreadable} with an unreadable file" if unreadable else ""
    files.report(f"{split}: {len(maps.images)} scenes with their label maps used{left_out}")
    return LabelledScenes(photos, maps, files, labels, class_names(root))


class LabelledScenes(Dataset):
    """Scenes and label maps that number the same pairs: label map i is that of scene i.

    Pixels and class numbers are kept as they come from the cache, a byte each; label maps are drawn when asked for.
    """

    def __init__(
        self,
        photos: Decoded,
        maps: Decoded,
        files: Files,
        kind: Literal["palette", "onehot"],
        names: tuple[str, ...],
    ) -> None:
        """Join decoded files.

        Args:
            photos: uint8 ``[n, 3, S, S]``.
            maps: uint8 ``[n', S, S]``, classes in [0, len(names)): the label maps of ``photos``, but for unreadable
                ones, whose photographs are left out.
            files: Size, split, and which pairs count as known.
            kind: How label maps are drawn.
            names: Names of the classes, void first.

        Raises:
            UserError: If the share of known pairs is out of range.
        """
        channels = 3 if kind == "palette" else len(names)
        self.domains = (
            Domain("scene", 3, multimodal=True),
            Domain("labels", channels, multimodal=False, kind=kind, classes=len(names)),
        )
        self.image_size = files.image_size
        self.fingerprint = hashlib.sha256(f"{kind}/{maps.fingerprint}".encode()).hexdigest()
        self.class_names = names
        self._kind: Literal["palette", "onehot"] = kind
        self._photos, self._photo_rows = photos.images, maps.kept
        self._maps = maps.images
        self._pair_known = known_pairs(len(self._maps), files.pair_fraction, files.seed, files.split)

    def count(self, domain: str | int) -> int:
        """The number of images of ``domain``: the number of pairs."""
        self.domain_index(domain)
        return len(self._maps)

    def label_ids(self, indices: Numbers) -> Tensor:
        """The label maps by number, see :meth:`Dataset.label_ids`; those of the scenes with the same numbers."""
        return torch.from_numpy(self._maps[self.checked_indices("labels", indices).numpy()]).to(torch.int64)

    def images(self, domain: str | int, indices: Numbers, epochs: Numbers | int = 0) -> Tensor:
        """Images by number, see :meth:`Dataset.images`; the same in every epoch."""
        indices = self.checked_indices(domain, indices)
        if self.domain_index(domain) == 1:
            return draw_labels(self.label_ids(indices), self._kind, len(self.class_names))
        return torch.from_numpy(self._photos[self._photo_rows[indices.numpy()]]).to(torch.float32) / 255

    def pair(
        self, source: str | int, target: str | int, indices: Numbers, epochs: Numbers | int = 0
    ) -> tuple[Tensor, Tensor] | None:
        """The label maps of scenes and the other way round, see :meth:`Dataset.pair`."""
        if self.domain_index(source) == self.domain_index(target):
            return None
        known = self._pair_known[self.checked_indices(source, indices)]
        return self.images(target, indices) * known[:, None, None, None], known

    def looks(self, source: str | int, target: str | int, index: int) -> Tensor:
        """The image of the same number, see :meth:`Dataset.looks`."""
        rows = self.checked_indices(source, [index])
        return rows[self._pair_known[rows] & (self.domain_index(source) != self.domain_index(target))]

    def has_pairs(self, directions: Collection[tuple[int, int]] | None = None) -> bool:
        """Whether any pair counts as known; draws no images, of which one-hot ones are large."""
        return bool(self._pair_known.any()) and (directions is None or any(a != b for a, b in directions))


# --- the folder ---


def scene_parsing_folder(root: Path) -> Path:
    """``root`` or the unpacked archive in it.

    Raises:
        UserError: It holds no ADE20K scene parsing data; says what it holds instead where that is known.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    for folder in (root, root / _ARCHIVE):
        if (folder / "images").is_dir() and (folder / "annotations").is_dir():
            return folder
    if is_full_release(root):
        raise UserError(
            f"{root}: this is the full ADE20K release, whose *_seg.png files number over 3000 classes; needed is its "
            f"scene parsing version with 150 classes: {_LAYOUT}"
        )
    raise UserError(f"{root}: no ADE20K scene parsing data; needed is {_LAYOUT}")


def is_full_release(root: Path) -> bool:
    """By its index file, or by its folders images/ADE/training (2021) or images/training/a (2016)."""
    marks = ("index_ade20k.pkl", "index_ade20k.mat", "images/ADE", "images/training/a", "images/validation/a")
    folders = [root, *(entry for entry in root.iterdir() if entry.name.startswith("ADE20K"))]
    return any((folder / mark).exists() for folder in folders for mark in marks)


def _split_there(root: Path, wanted: str) -> str:
    """The split, or the other one where it has no images."""
    (other,) = (split for split in SPLITS.values() if split != wanted)
    if _by_stem(root / "images" / wanted):
        return wanted
    if not _by_stem(root / "images" / other):
        raise UserError(f"{root / 'images'}: no images in training/ and validation/; needed is {_LAYOUT}")
    warnings.warn(
        f"{root / 'images' / wanted} has no images; the {other} split is taken in its place",
        RuntimeWarning,
        stacklevel=4,
    )
    return other


def scene_pairs(root: Path, split: str) -> list[tuple[Path, Path]]:
    """Photographs with their label maps, by name.

    Args:
        root: The folder with ``images`` and ``annotations``.
        split: ``"training"`` or ``"validation"``.

    Raises:
        UserError: If a photograph has no label map, or the other way round; names the first five.
    """
    photos, maps = (_by_stem(root / folder / split) for folder in ("images", "annotations"))
    for found, others, problem in (
        (photos, maps, f"without an annotation in {root / 'annotations' / split}"),
        (maps, photos, f"without an image in {root / 'images' / split}"),
    ):
        if alone := [found[stem].name for stem in found if stem not in others]:
            folder = next(iter(found.values())).parent
            raise UserError(f"{folder}: {len(alone)} of {len(found)} files {problem}: {named(alone)}")
    return [(photo, maps[stem]) for stem, photo in photos.items()]


def _by_stem(folder: Path) -> dict[str, Path]:
    """The image files of a folder by their names without suffix, sorted; nothing if there is no such folder."""
    if not folder.is_dir():
        return {}
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
    by_stem = {composed(file.stem): file for file in files}
    if len(by_stem) < len(files):
        twice = [file.name for file in files if by_stem[composed(file.stem)] != file]
        raise UserError(f"{folder}: names that differ in their suffix only: {named(twice)}; keep one file of each")
    return by_stem


def class_names(root: Path) -> tuple[str, ...]:
    """``"void"`` and the first name of each class in ``objectInfo150.txt``; numbers where there is no such file.

    Raises:
        UserError: If the file does not hold the 150 classes.
    """
    path = root / _NAMES_FILE
    if not path.is_file():
        return ("void", *(f"class {number}" for number in range(1, CLASSES)))
    if path.stat().st_size > _LARGEST_NAMES_FILE:
        raise UserError(f"{path}: {path.stat().st_size} bytes are too many for 150 names; replace or remove it")
    try:
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:] if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); replace or remove it") from None
    numbers = [row[0].strip() for row in rows]
    names = [row[-1].partition(",")[0].strip() for row in rows]
    if numbers != [str(number) for number in range(1, CLASSES)] or not all(names):
        raise UserError(
            f"{path}: must have a heading and a line for each of the classes 1 to {CLASSES - 1}, "
            "number first and name last, with tabs between them; replace or remove it"
        )
    return ("void", *names)
