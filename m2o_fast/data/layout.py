"""Where own images lie: ``DIR/train/<domain>/...`` and ``DIR/val/<domain>/...`` (or ``DIR/test``).

Two layouts of others are known as well, with domains ``A`` and ``B``: ``DIR/trainA`` and ``DIR/trainB``, and files in
``DIR/train`` that hold two joined images, A on the left and B on the right.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from m2o_fast.data.cache import named
from m2o_fast.data.images import SUFFIXES, Part, opened
from m2o_fast.data.index import FileIndex
from m2o_fast.data.one_look import looked
from m2o_fast.data.parallel import Report, silent
from m2o_fast.data.turned import shown_size
from m2o_fast.errors import UserError
from m2o_fast.files import composed
from m2o_fast.m2o import Domain

#: split -> names of its folder; the first one that is there is taken
FOLDERS = {"train": ("train",), "test": ("val", "test")}

Split = Literal["train", "test"]

_SYSTEM = "__MACOSX"
_A, _B = "A", "B"  # domains of the layouts that do not name them
_LOOKED_AT = 16  # image files that tell whether all are joined


@dataclass(frozen=True)
class Images:
    """The image files of a domain in one split.

    Attributes:
        folder: Folder of the domain.
        names: The paths of its image files below it, those in subfolders included, sorted.
        others: The paths of files that are no images by their suffix, and of pipes, sockets and devices.
        part: What of each file is meant.
    """

    folder: Path
    names: tuple[str, ...]
    others: tuple[str, ...] = ()
    part: Part = "whole"

    @cached_property
    def paths(self) -> tuple[Path, ...]:
        """The image files; to make as many takes a while, where there are many."""
        return tuple(self.folder / name for name in self.names)

    def keys(self) -> list[str]:
        """What pairs are found by: the path below ``folder`` without suffix, for each image."""
        bare = [name[: name.rfind(".")] for name in self.names]
        return bare if all(map(str.isascii, bare)) else list(map(composed, bare))


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is the operating system's own: ``.DS_Store``, ``._photo.jpg``, ``__MACOSX``."""
    return path.name.startswith(".") or path.name == _SYSTEM


def image_files(folder: Path, part: Part = "whole") -> Images:
    """The files below a folder; hidden ones, and what lies in hidden folders, are left out."""
    return Images(folder, *looked(("files", folder), lambda: _files_below(str(folder))), part)


def _files_below(folder: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Images by their suffix, and all others."""
    images: list[str] = []
    others: list[str] = []
    links: list[str] = []
    _collect(folder, "", images, others, links)
    if links:
        what = "a subfolder that is a link is" if len(links) == 1 else f"{len(links)} subfolders that are links are"
        warnings.warn(
            f"{folder}: {what} left out, {_listed(sorted(links))}; put the folders themselves there",
            RuntimeWarning,
            stacklevel=2,
        )
    return _in_order(images), _in_order(others)


def _in_order(names: list[str]) -> tuple[str, ...]:
    """As paths are sorted: folder by folder."""
    return tuple(
        sorted(names, key=lambda name: name.split("/")) if any("/" in name for name in names) else sorted(names)
    )


def list_images(path: str | Path) -> Images:
    """The image files that ``path`` names: itself, or those below the folder, as training finds them.

    Raises:
        UserError: If ``path`` is missing or is a folder without images.
    """
    path = Path(path)
    if path.is_file():
        return Images(path.parent, (path.name,))
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    found = image_files(path)
    if not found.names:
        raise UserError(f"{path}: no image files ({', '.join(SUFFIXES)}) in this folder or below")
    return found


def _collect(folder: str, below: str, images: list[str], others: list[str], links: list[str]) -> None:
    """Adds the files of a folder, and of those below it, to ``images`` or ``others``, links to folders to ``links``.

    A link to a file that is not there counts as one: it is to be missed, not left out without a word.
    """
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".") and entry.name != _SYSTEM]
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot list the folder ({error.strerror}); make it readable, or remove it"
        ) from None
    for entry in found:
        name = entry.name
        if entry.is_file(follow_symlinks=False) or _leads_to_file_or_nothing(entry):
            dot = name.rfind(".")
            is_image = dot >= 0 and name[dot:].lower() in SUFFIXES
            (images if is_image else others).append(below + name)
        elif entry.is_dir(follow_symlinks=False):
            _collect(entry.path, f"{below}{name}/", images, others, links)
        else:
            (links if entry.is_dir() else others).append(below + name)


def _leads_to_file_or_nothing(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and (os.path.isfile(entry.path) or not os.path.exists(entry.path))


def domain_folders(split: Path) -> dict[str, tuple[Path, Part]]:
    """Domain -> its folder and the part of each file in it, in alphabetical order.

    Args:
        split: ``DIR/train``, say, whether it is there or ``DIR/trainA`` and ``DIR/trainB``.
    """
    if split.is_dir():
        folders = sorted(path for path in split.iterdir() if path.is_dir() and not is_hidden(path))
        if folders:
            return {path.name: (path, "whole") for path in folders}
        if _holds_joined(split):
            return {_A: (split, "left"), _B: (split, "right")}
    return {name: (path, "whole") for name, path in _siblings(split).items()}


def _siblings(split: Path) -> dict[str, Path]:
    """The folders ``trainA`` and ``trainB`` of ``train``, if both are there."""
    both = {name: split.with_name(split.name + name) for name in (_A, _B)}
    return both if all(path.is_dir() for path in both.values()) else {}


def _holds_joined(folder: Path) -> bool:
    """Whether the image files of a folder are twice as wide as high, as far as a few of them tell."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not is_hidden(path))
    sizes = []
    for path in files[:: max(1, len(files) // _LOOKED_AT)][:_LOOKED_AT]:
        with suppress(UserError), opened(path) as image:
            sizes.append(shown_size(image))
    return bool(sizes) and all(width == 2 * height for width, height in sizes)


def half_of_a_split(root: Path) -> str | None:
    """A sentence where ``DIR/trainA`` is there without ``DIR/trainB``, or the like."""
    for name in (name for some in FOLDERS.values() for name in some):
        a, b = root / (name + _A), root / (name + _B)
        if a.is_dir() != b.is_dir():
            there, missing = (a, b) if a.is_dir() else (b, a)
            return f"{there} is there, but no {missing}; add it, or remove the folder"
    return None


def shown_folder(split: Path) -> str:
    """How messages call the folder of a split."""
    return str(split) if split.is_dir() or not _siblings(split) else f"{split}{_A} and {split.name}{_B}"


def about_layout(splits: Mapping[Split, Path]) -> str:
    """What kind of layout a folder of own images has, in words; empty for a folder per domain in each split."""
    split = next(iter(splits.values()))
    for folder, part in domain_folders(split).values():
        if part != "whole":
            return f"two joined in each file, {_A} on the left and {_B} on the right"
        if folder.parent != split:
            return f"folders {_A} and {_B} for each split"
    return ""


def splits_of(root: Path) -> dict[Split, Path]:
    """The splits that a data folder has, with their folders."""
    splits: tuple[Split, ...] = ("train", "test")
    there = {split: [root / name for name in FOLDERS[split] if _is_there(root / name)] for split in splits}
    # an empty val is no reason to leave a test aside
    return {split: next(filter(domain_folders, folders), folders[0]) for split, folders in there.items() if folders}


def _is_there(split: Path) -> bool:
    return split.is_dir() or bool(_siblings(split))


def about_test_folder(root: Path) -> str | None:
    """A sentence where it may surprise which folder serves for testing: ``test``, or ``val`` beside a ``test``."""
    usual, other = (root / name for name in FOLDERS["test"])
    if not _is_there(other):
        return None
    shown = shown_folder(other)
    if splits_of(root)["test"] == other:
        return f"{shown} {'serves' if other.is_dir() else 'serve'} as {usual.name}"
    return f"{shown} is not used, {shown_folder(usual)} serves for testing"


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
        f"{root} has no {FOLDERS[wanted][0]} images: those of {shown_folder(folder)} serve for {use} too",
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
        if half := half_of_a_split(root):
            raise UserError(half)
        raise UserError(
            f"{root} has neither a folder train nor a folder val; put the images of each domain into "
            f"{root / 'train' / '<domain>'} and {root / 'val' / '<domain>'}"
        )
    folders = {split: domain_folders(folder) for split, folder in splits.items()}
    _check_layout(root, splits, folders)
    _check_names(splits, {split: list(domains) for split, domains in folders.items()})
    found = {
        split: {name: image_files(*place) for name, place in domains.items()} for split, domains in folders.items()
    }
    empty = [str(images.folder) for domains in found.values() for images in domains.values() if not images.names]
    if empty:
        raise UserError(
            f"no image files in {_listed(empty)}; a domain is a folder of images ({', '.join(SUFFIXES)}): put some "
            "there, or remove the folder"
        )
    return found


def indices_of(
    listing: Mapping[Split, Mapping[str, Images]], *, keep: bool = True, verify: bool = False, report: Report = silent
) -> dict[Split, dict[str, FileIndex]]:
    """Split -> domain -> what is known of its image files; the domains of joined files share one index.

    Args:
        listing: Split -> domain -> its image files.
        keep: Whether what is found out is kept for the next time.
        verify: Whether all files are read again.
        report: Called with a line of text now and then while files are read.
    """
    everywhere = [images for domains in listing.values() for images in domains.values()]
    by_folder = {images.folder: images.names for images in everywhere}
    found = {
        folder: looked(
            ("index", folder, keep, verify),
            partial(FileIndex, folder, names, keep=keep, verify=verify, report=report),
        )
        for folder, names in by_folder.items()
    }
    return {
        split: {name: found[images.folder] for name, images in domains.items()} for split, domains in listing.items()
    }


def _check_layout(
    root: Path, splits: Mapping[Split, Path], folders: Mapping[Split, Mapping[str, tuple[Path, Part]]]
) -> None:
    """Raises ``UserError`` where one split has a layout without domains of its own, and another one does not fit it."""
    if any(place.parent == root for domains in folders.values() for place, part in domains.values() if part == "whole"):
        if half := half_of_a_split(root):
            raise UserError(half)
    joined = [split for split in folders if any(part != "whole" for _, part in folders[split].values())]
    for split, domains in folders.items():
        if joined and list(domains) != [_A, _B]:
            raise UserError(
                f"{splits[joined[0]]} has files with two joined images, {splits[split]} has not: there, too, all need "
                "to be twice as wide as high; or remove the folder"
            )


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
            joined = "; joined pairs of images would be twice as wide as high" if _has_images(folder) else ""
            raise UserError(f"{folder} needs a folder for each of at least two domains, it has {has}{joined}")


def _has_images(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES for path in folder.iterdir())


def _legal(name: str) -> bool:
    try:
        Domain(name)
    except ValueError:
        return False
    return True


def _listed(things: Sequence[str]) -> str:
    return named(things, ", ")
