"""Looking over an ADE20K scene parsing folder."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from m2o_fast.data.ade20k import CLASSES, SPLITS, class_names, scene_pairs
from m2o_fast.data.cache import Report, allowed_unreadable, named, silent
from m2o_fast.data.check_report import (
    FEW,
    CheckReport,
    ImageFacts,
    aspect_notes,
    by_kind,
    counted,
    described,
    examine_all,
    oddity_notes,
    share_option,
)
from m2o_fast.data.contact_sheet import COLUMNS, TILE
from m2o_fast.data.images import SUFFIXES, read_pixels
from m2o_fast.data.index import FileIndex
from m2o_fast.data.label_maps import read_class_numbers
from m2o_fast.data.parallel import mapped
from m2o_fast.data.representative import some_of
from m2o_fast.errors import UserError
from m2o_fast.files import composed
from m2o_fast.labels import palette
from m2o_fast.m2o import PAIRED

_COUNTED_SIZE = 256  # classes of fewer pixels than this resolves are not counted as present


def check_ade20k(root: Path, max_unreadable: float, verify: bool = False, report: Report = silent) -> CheckReport:
    """Check scenes and their label maps.

    Args:
        root: The folder with ``images`` and ``annotations``.
        max_unreadable: Share of the files that may be unusable.
        verify: Whether all photographs are read again, whatever their dates say.
        report: Called with a line of text for what takes long.

    Returns:
        Counts, sizes, modes and classes of both splits, and the command to train with; it sums up like
        ``3 pairs, 0 problems``.
    """
    problems, notes = _remarks_on_names(root)
    splits = [_look_at(root, split, verify, report) for split in SPLITS.values()]
    there = [split for split in splits if split.photos or split.maps]
    if not there:
        problems.append(f"{root / 'images'}: no images in {' and '.join(SPLITS.values())}")
    if len(there) == 1:
        notes.append(f"{root} has {there[0].name} images alone: they serve for training and testing")
    lines = [f"{root}: ADE20K scene parsing"]
    facts: dict[str, Any] = {"layout": "ade20k", "folder": str(root), "splits": {}}
    for split in there:
        described_lines, facts["splits"][split.name] = split.describe()
        bad, odd = split.remarks(root, max_unreadable)
        lines += described_lines
        problems += bad
        notes += odd
    advice: list[str] = []
    if not problems:
        words = ["m2o-fast", "train", "--variant", PAIRED, "--data", f"ade20k:{root}", *share_option(max_unreadable)]
        facts["command"] = shlex.join(words)
        advice.append(facts["command"])
    total = counted(sum(len(split.pairs()) for split in there), "pair")
    return CheckReport(lines, total, problems, notes, advice, facts, _sheet_rows(there))


class _Split(NamedTuple):
    """What was found in one split.

    Attributes:
        name: ``"training"`` or ``"validation"``.
        photos: The image files.
        facts: What was found in each of them.
        maps: The files of their label maps.
        partners: Images that can be read and the label maps of the same name.
        classes: The classes in each of these label maps, or why it cannot be used.
    """

    name: str
    photos: list[Path]
    facts: list[ImageFacts]
    maps: list[Path]
    partners: list[tuple[Path, Path]]
    classes: list[set[int] | str]

    def pairs(self) -> list[tuple[Path, Path]]:
        """Images and label maps that can be used."""
        return [pair for pair, classes in zip(self.partners, self.classes, strict=True) if isinstance(classes, set)]

    def describe(self) -> tuple[list[str], dict[str, Any]]:
        """Counts, sizes, modes and classes, as lines and as JSON values."""
        line, values = described([fact for fact in self.facts if not fact.problem])
        present = set().union(*(classes for classes in self.classes if isinstance(classes, set))) - {0}
        lines = [
            f"{self.name} images: {line}",
            f"{self.name} annotations: {counted(len(self.maps), 'file')}, {len(present)} of {CLASSES - 1} classes",
            f"{self.name}: {counted(len(self.pairs()), 'pair')}",
        ]
        values |= {"annotations": len(self.maps), "pairs": len(self.pairs()), "classes": sorted(present)}
        return lines, values | {"unusable": [*self._bad_photos(), *self._bad_maps()]}

    def remarks(self, root: Path, max_unreadable: float) -> tuple[list[str], list[str]]:
        """What ends training, and what it makes do with."""
        bad_photos, bad_maps = self._bad_photos(), self._bad_maps()
        problems = [*_alone(self.photos, self.maps, "annotation"), *_alone(self.maps, self.photos, "image")]
        problems = problems or _refused(root, self.name)
        notes = oddity_notes(f"{self.name} images", [photo.name for photo in self.photos], self.facts)
        fails = any(
            len(bad) > allowed_unreadable(count, max_unreadable) or 0 < count == len(bad)
            for bad, count in ((bad_photos, len(self.photos)), (bad_maps, len(self.partners)))
        )
        for kind in by_kind(bad_photos + bad_maps):
            text = f"{self.name}: {counted(len(kind), 'file')} that cannot be used: {named(kind)}"
            (problems if fails else notes).append(text if fails else f"{text}; training leaves them out")
        if 0 < len(self.pairs()) < FEW:
            notes.append(f"{self.name}: {counted(len(self.pairs()), 'pair')}, which is few to train or measure with")
        return problems, notes + aspect_notes(f"{self.name} images", self.facts)

    def _bad_photos(self) -> list[str]:
        return [fact.problem for fact in self.facts if fact.problem]

    def _bad_maps(self) -> list[str]:
        return [classes for classes in self.classes if isinstance(classes, str)]


def _look_at(root: Path, name: str, verify: bool, report: Report) -> _Split:
    photos, maps = (_images_of(root / folder / name) for folder in ("images", "annotations"))
    index = FileIndex(root / "images" / name, [photo.name for photo in photos], verify=verify, report=report)
    facts = examine_all(index)
    map_of = {composed(path.stem): path for path in maps}
    readable = [photo for photo, fact in zip(photos, facts, strict=True) if not fact.problem]
    partners = [(photo, map_of[stem]) for photo in readable if (stem := composed(photo.stem)) in map_of]
    words = f"reading label maps of {root / 'annotations' / name}"
    return _Split(name, photos, facts, maps, partners, list(mapped(_classes_of, partners, words, report)))


def _remarks_on_names(root: Path) -> tuple[list[str], list[str]]:
    """What ends training, and what it makes do with, of the names of the classes."""
    try:
        names = class_names(root)
    except UserError as error:
        return [str(error)], []
    return [], [f"{root}: no names of the classes (objectInfo150.txt)"] if names[1] == "class 1" else []


def _sheet_rows(splits: Sequence[_Split]) -> dict[str, list[np.ndarray]]:
    colors = palette(CLASSES).numpy()
    rows = {}
    for split in splits:
        some = some_of(split.pairs(), COLUMNS)
        maps = [colors[read_class_numbers(path, CLASSES, TILE)] for _, path in some]
        rows[f"{split.name} images"] = [read_pixels(photo, 3, TILE) for photo, _ in some]
        rows[f"{split.name} annotations"] = [drawn.transpose(2, 0, 1) for drawn in maps]
    return rows


def _refused(root: Path, split: str) -> list[str]:
    try:
        scene_pairs(root, split)
    except UserError as error:
        return [str(error)]
    return []


def _images_of(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))


def _alone(files: Sequence[Path], others: Sequence[Path], missing: str) -> list[str]:
    stems = {composed(path.stem) for path in others}
    alone = [path.name for path in files if composed(path.stem) not in stems]
    if not alone:
        return []
    return [f"{files[0].parent}: {counted(len(alone), 'file')} without {missing}: {named(alone, ', ')}"]


def _classes_of(pair: tuple[Path, Path]) -> set[int] | str:
    """The classes in a label map, or why it cannot be used."""
    photo, path = pair
    try:
        return set(np.unique(read_class_numbers(path, CLASSES, _COUNTED_SIZE, photo)).tolist())
    except UserError as error:
        return str(error)
