"""Where own images lie: ``DIR/train/<domain>/...`` and ``DIR/val/<domain>/...`` (or ``DIR/test``)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from m2o_fast.data.cache import named
from m2o_fast.data.images import SUFFIXES
from m2o_fast.errors import UserError
from m2o_fast.files import composed
from m2o_fast.m2o import Domain

#: split -> names of its folder; the first one that is there is taken
FOLDERS = {"train": ("train",), "test": ("val", "test")}

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Images:
    """The image files of a domain in one split.

    Attributes:
        folder: Folder of the domain.
        paths: Its image files, those in subfolders included, sorted.
        others: Files that are no images by their suffix.
    """

    folder: Path
    paths: tuple[Path, ...]
    others: tuple[Path, ...] = ()

    def keys(self) -> list[str]:
        """What pairs are found by: the path below ``folder`` without suffix, for each image."""
        return [composed(path.relative_to(self.folder).with_suffix("").as_posix()) for path in self.paths]


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is the operating system's own: ``.DS_Store``, ``._photo.jpg``, ``__MACOSX``."""
    return path.name.startswith(".") or path.name == "__MACOSX"


def image_files(folder: Path) -> Images:
    """The files below a folder; hidden ones, and what lies in hidden folders, are left out."""
    found = sorted(_visible_files(folder))
    images = tuple(path for path in found if path.suffix.lower() in SUFFIXES)
    return Images(folder, images, tuple(path for path in found if path.suffix.lower() not in SUFFIXES))


def list_images(path: str | Path) -> Images:
    """The image files that ``path`` names: itself, or those below the folder, as training finds them.

    Raises:
        UserError: If ``path`` is missing or is a folder without images.
    """
    path = Path(path)
    if path.is_file():
        return Images(path.parent, (path,))
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    found = image_files(path)
    if not found.paths:
        raise UserError(f"{path}: no image files ({', '.join(SUFFIXES)}) in this folder or below")
    return found


def _visible_files(folder: Path) -> Iterator[Path]:
    """Files, and links to files that are not there: those are to be missed, not left out without a word."""
    for here, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not is_hidden(Path(name))]
        paths = (Path(here, name) for name in files)
        yield from (path for path in paths if not is_hidden(path) and (path.is_file() or not path.exists()))


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot list the folder ({error.strerror}); make it readable, or remove it")


def domain_folders(folder: Path) -> list[Path]:
    """The folders of the domains of a split, in alphabetical order. Files are no domains."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path))


def splits_of(root: Path) -> dict[Split, Path]:
    """The splits that a data folder has, with their folders."""
    splits: tuple[Split, ...] = ("train", "test")
    there = {split: [root / name for name in FOLDERS[split] if (root / name).is_dir()] for split in splits}
    # an empty val is no reason to leave a test aside
    return {split: next(filter(domain_folders, folders), folders[0]) for split, folders in there.items() if folders}


def about_test_folder(root: Path) -> str | None:
    """A sentence where it may surprise which folder serves for testing: ``test``, or ``val`` beside a ``test``."""
    usual, other = (root / name for name in FOLDERS["test"])
    if not other.is_dir():
        return None
    taken = splits_of(root)["test"]
    return f"{other} serves as {usual.name}" if taken == other else f"{other} is not used, {usual} serves for testing"


def choose_split(splits: Mapping[Split, Path], wanted: Split, root: Path) -> Split:
    """``wanted`` if it is there; else the other split, with a warning.

    Args:
        splits: The splits that are there, with their folders.
        wanted: The split asked for.
        root: Folder of the data set.
    """
    if wanted in splits:
        return wanted
    ((other, folder),) = splits.items()
    use = "training" if wanted == "train" else "testing"
    warnings.warn(
        f"{root} has no {FOLDERS[wanted][0]} images: those of {folder} serve for {use} too",
        RuntimeWarning,
        stacklevel=4,
    )
    return other


def list_domains(root: Path, splits: Mapping[Split, Path]) -> dict[Split, dict[str, Images]]:
    """split -> domain -> its image files.

    Raises:
        UserError: If the folder cannot be trained on as it lies: no split, fewer than two domains, a domain without a
            legal name, without images or in one split alone; names the first five.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    if not splits:
        raise UserError(
            f"{root} has neither a folder train nor a folder val; put the images of each domain into "
            f"{root / 'train' / '<domain>'} and {root / 'val' / '<domain>'}"
        )
    names = {split: [path.name for path in domain_folders(folder)] for split, folder in splits.items()}
    _check_names(splits, names)
    found = {
        split: {name: image_files(splits[split] / name) for name in names_of_split}
        for split, names_of_split in names.items()
    }
    empty = [str(images.folder) for domains in found.values() for images in domains.values() if not images.paths]
    if empty:
        raise UserError(
            f"no image files in {_listed(empty)}; a domain is a folder of images ({', '.join(SUFFIXES)}): put some "
            "there, or remove the folder"
        )
    return found


def _check_names(splits: Mapping[Split, Path], names: Mapping[Split, Sequence[str]]) -> None:
    illegal = [str(splits[split] / name) for split in splits for name in names[split] if not _legal(name)]
    if illegal:
        raise UserError(f"not the name of a domain: {_listed(illegal)}; use letters, digits, '-' and '_' only")
    if len(splits) == 2:
        other: dict[Split, Split] = {"train": "test", "test": "train"}
        alone = [
            f"{splits[split] / name} (no {splits[other[split]] / name})"
            for split in splits
            for name in names[split]
            if name not in names[other[split]]
        ]
        if alone:
            raise UserError(f"every domain needs images in both splits; in one alone: {_listed(alone)}")
    for split, folder in splits.items():
        if len(names[split]) < 2:
            has = f"one, {names[split][0]}" if names[split] else "none"
            raise UserError(f"{folder} needs a folder for each of at least two domains, it has {has}")


def _legal(name: str) -> bool:
    try:
        Domain(name)
    except ValueError:
        return False
    return True


def _listed(things: Sequence[str]) -> str:
    return named(things, ", ")
