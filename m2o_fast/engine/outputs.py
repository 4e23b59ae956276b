"""Where translations of image files go, and which of them are there already.

A folder may hold very many small images: each path is followed, taken apart and asked about as seldom as can be.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from m2o_fast.data.images import note_of
from m2o_fast.data.layout import Images
from m2o_fast.errors import UserError
from m2o_fast.files import real_path, real_paths


def places(images: Images, out: Path, into_folder: bool) -> dict[Path, Path]:
    """The file to write for each file to read.

    Args:
        images: What is to be read.
        out: The file to write, or the folder. Where it lies in that of the images, what is there already is left out.
        into_folder: Whether it is a folder.

    Raises:
        UserError: A file where a folder must be, or nothing is left to be read.
    """
    if not into_folder:
        return {images.paths[0]: out}
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; for a folder of images, --out must be a folder")
    found = dict(zip(images.paths, images.names, strict=True))
    if real_path(out).is_relative_to(real_path(images.folder)) and real_path(out) != real_path(images.folder):
        found = {file: name for file, name in found.items() if not real_path(file).is_relative_to(real_path(out))}
    if not found:
        raise UserError(f"all images of {images.folder} lie in {out}, where the results would go; choose another --out")
    bare = [os.path.splitext(name)[0] for name in found.values()]
    # a.png and a.jpg must not end in the same file
    names = bare if len(set(bare)) == len(bare) else found.values()
    return {file: out / f"{name}.png" for file, name in zip(found, names, strict=True)}


def keep_inputs(inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
    """Raises ``UserError`` where a file to write is one that is read, be it by a link."""
    kept, written = set(real_paths(inputs)), list(outputs)
    for output, path in zip(written, real_paths(written), strict=True):
        if path in kept:
            raise UserError(f"{output} would overwrite an image that is read; choose another --out")


def notes_of(files: Iterable[Path], note: str) -> dict[Path, str]:
    """File -> what tells its output: what tells all of them, and the file's size and time; not for one that is gone."""
    notes = {}
    for file in files:
        with suppress(OSError):
            status = file.stat()
            notes[file] = f"{note} {status.st_size} {status.st_mtime_ns}"
    return notes


def is_made(output: Path, note: str | None) -> bool:
    """Whether an output is there: whole, made by the same weights and request, and of its image as it is now."""
    return note is not None and note_of(output) == note
