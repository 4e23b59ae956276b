"""MNIST: where its files are looked for, and how they become images.

Source: Y. LeCun, C. Cortes, C. J. C. Burges, The MNIST database of handwritten digits; CC BY-SA 3.0.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from m2o_fast.data.idx import read_idx
from m2o_fast.errors import UserError
from m2o_fast.files import user_cache

#: split -> the files of its images and labels; each may also carry the suffix ``.gz``.
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


class Published(NamedTuple):
    """Size in bytes and SHA-256 of a file's content (not of its compressed form)."""

    size: int
    sha256: str


#: The content of the published files.
PUBLISHED = {
    "train-images-idx3-ubyte": Published(47040016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    "train-labels-idx1-ubyte": Published(60008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    "t10k-images-idx3-ubyte": Published(7840016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    "t10k-labels-idx1-ubyte": Published(10008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
}
DATA_DIR_VARIABLE = "M2O_DATA_DIR"

_SIDE = 28
_PADDED = 32


def cache_directory() -> Path:
    """Where fetched MNIST files lie: ``$XDG_CACHE_HOME/m2o_fast/mnist``, by default below ``~/.cache``."""
    return user_cache() / "mnist"


def candidate_directories(data_dir: str | Path | None = None) -> list[Path]:
    """The folders in which MNIST is looked for, first one first.

    ``data_dir``, else the folder named by ``M2O_DATA_DIR`` and then the cache; of the first two the folder itself,
    ``mnist`` in it, and ``MNIST/raw`` in it (the layout of torchvision).
    """
    root = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if not root:
        return [cache_directory()]
    root = Path(root).expanduser()
    folders = [root, root / "mnist", root / "MNIST" / "raw"]
    return folders if data_dir else [*folders, cache_directory()]


def find_file(folder: Path, name: str) -> Path | None:
    """The file ``name`` or ``name.gz`` of ``folder``; the plain one if both are there."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _locate(names: tuple[str, str], data_dir: str | Path | None) -> tuple[Path, Path]:
    folders = candidate_directories(data_dir)
    for folder in folders:
        images, labels = (find_file(folder, name) for name in names)
        if images and labels:
            return images, labels
        if images or labels:
            missing = names[1] if images else names[0]
            raise UserError(f"MNIST is not complete in {folder}: {missing} (or {missing}.gz) is missing")
    raise UserError(
        f"MNIST not found: no {names[0]}(.gz) in {', '.join(map(str, folders))}. "
        f"Fetch it with `m2o-fast data fetch mnist`, or name its folder with --data-dir (or {DATA_DIR_VARIABLE})"
    )


def read_split(images_path: Path, labels_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 ``[n, 28, 28]`` and labels uint8 ``[n]``. Raises ``UserError`` if they do not fit."""
    images = read_idx(images_path, (None, _SIDE, _SIDE))
    if len(images) == 0:
        raise UserError(f"{images_path}: the file holds no image")
    labels = read_idx(labels_path, (None,))
    if len(labels) != len(images):
        raise UserError(f"{images_path} holds {len(images)} images, but {labels_path} holds {len(labels)} labels")
    if labels.max() > 9:
        raise UserError(f"{labels_path}: labels must be 0 to 9, found {labels.max()}")
    return images, labels


def load_mnist(split: str, image_size: int, data_dir: str | Path | None = None) -> tuple[Tensor, Tensor]:
    """The digits of one split: 28x28, padded with black to 32x32, enlarged bilinearly where a larger size is asked for.

    Args:
        split: ``"train"`` or ``"test"``.
        image_size: Side length S of the result, at least 32.
        data_dir: Folder with the files, see :func:`candidate_directories`.

    Returns:
        uint8 ``[n, 1, S, S]`` with black background, and the labels, int64 ``[n]``.

    Raises:
        UserError: If the files are not there (the message lists the folders searched), a file is damaged, or the
            size is too small.
    """
    if image_size < _PADDED:
        raise UserError(f"MNIST needs an image size of at least {_PADDED}, got {image_size}")
    raw_images, raw_labels = read_split(*_locate(FILES[split], data_dir))
    border = (_PADDED - _SIDE) // 2
    images = F.pad(torch.from_numpy(raw_images.copy())[:, None], (border,) * 4)
    if image_size > _PADDED:
        images = torch.cat([_enlarge(chunk, image_size) for chunk in images.split(4096)])
    return images, torch.from_numpy(raw_labels.astype(np.int64))


def _enlarge(images: Tensor, image_size: int) -> Tensor:
    large = F.interpolate(images.to(torch.float32), size=(image_size, image_size), mode="bilinear")
    return large.round().to(torch.uint8)
