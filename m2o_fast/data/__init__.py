"""Data sets, training batches, image files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from m2o_fast.data.augment import Augment
from m2o_fast.data.colorize import ColorizedDigits, ColorLaw
from m2o_fast.data.dataset import Dataset
from m2o_fast.data.digits import load_digits
from m2o_fast.data.mnist import load_mnist
from m2o_fast.data.sampler import BatchSampler, rows_of_share
from m2o_fast.errors import UserError

__all__ = ["DATASETS", "Augment", "BatchSampler", "ColorizedDigits", "Dataset", "open_dataset", "rows_of_share"]

#: The names that :func:`open_dataset` knows.
DATASETS = ("digits", "mnist")

_SMALLEST = 8


def open_dataset(
    name: str,
    *,
    split: Literal["train", "test"],
    data_dir: str | Path | None = None,
    image_size: int = 32,
    color_law: ColorLaw = "rgb",
    seed: int = 777,
    pair_fraction: float = 1.0,
) -> ColorizedDigits:
    """One split of a built-in data set in memory.

    Args:
        name: ``"digits"``: the 1797 real digits of scikit-learn, no download. ``"mnist"``: the 70,000 of MNIST.
        split: ``"train"`` or ``"test"``.
        data_dir: Folder of the MNIST files; else the folder named by ``M2O_DATA_DIR``, else where
            `m2o-fast data fetch mnist` puts them. ``digits`` needs none.
        image_size: Side length S, a power of two: at least 8 for digits, at least 32 for MNIST.
        color_law: Distribution of the colours, see :func:`m2o_fast.data.colorize.draw_colors`.
        seed: Seed of the colours and of the choice of pairs.
        pair_fraction: Share of the coloured images whose gray image counts as known.

    Raises:
        UserError: For an unknown name or split, an unusable size or a damaged file, or if MNIST is not there (the
            message says where it was looked for and how to get it).
    """
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}; choose from {', '.join(DATASETS)}")
    if split not in ("train", "test"):
        raise UserError(f"unknown split {split!r}; choose from train, test")
    if image_size < _SMALLEST or image_size & (image_size - 1):
        raise UserError(f"image_size must be a power of two and at least {_SMALLEST}, got {image_size}")
    content, labels = load_digits(split, image_size) if name == "digits" else load_mnist(split, image_size, data_dir)
    return ColorizedDigits(content, labels, split=split, color_law=color_law, seed=seed, pair_fraction=pair_fraction)
