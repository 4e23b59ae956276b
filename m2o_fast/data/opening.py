"""Opening a data set by its name."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from m2o_fast.data.ade20k import load_ade20k
from m2o_fast.data.cache import Files, Report, silent
from m2o_fast.data.colorize import ColorizedDigits, ColorLaw
from m2o_fast.data.dataset import Dataset
from m2o_fast.data.digits import load_digits
from m2o_fast.data.fit import Fit
from m2o_fast.data.folder import load_folders
from m2o_fast.data.mnist import load_mnist
from m2o_fast.data.settings import DATASETS
from m2o_fast.errors import UserError


def open_dataset(
    name: str,
    *,
    split: Literal["train", "test"],
    data_dir: str | Path | None = None,
    also: Sequence[str | Path] = (),
    image_size: int = 32,
    color_law: ColorLaw = "rgb",
    seed: int = 777,
    pair_fraction: float = 1.0,
    uni: Sequence[str] = (),
    labels: Literal["palette", "onehot"] = "palette",
    cache: bool = True,
    max_unreadable: float = 0.01,
    verify: bool = False,
    fit: Fit = "stretch",
    report: Report = silent,
) -> Dataset:
    """One split of a data set.

    Args:
        name: ``"digits"``: the 1797 real digits of scikit-learn, no download. ``"mnist"``: the 70,000 of MNIST.
            ``"ade20k"``: scenes and their label maps. ``"folder"``: own images, a folder per domain (docs/data.md).
        split: ``"train"`` or ``"test"``. Of ade20k and own folders, ``"test"`` is the validation split; where a split
            is missing, the other one is taken, with a warning.
        data_dir: Folder of the data set. MNIST: else the folder named by ``M2O_DATA_DIR``, else where
            `m2o-fast data fetch mnist` puts it. ``digits`` needs none.
        also: Of own images: folders of further data sets, each with labels of its own.
        image_size: Side length S: at least 8 for digits, at least 32 for MNIST.
        color_law: Distribution of the digits' colours, see :func:`m2o_fast.data.colorize.draw_colors`.
        seed: Seed of the colours and of the choice of pairs.
        pair_fraction: Share of the pairs that count as known.
        uni: Names of the uni-modal domains of own folders.
        labels: How label maps become images.
        cache: Whether decoded images are kept in the cache folder.
        max_unreadable: Share of a domain's image files that may be unreadable.
        verify: Whether all image files are read again, whatever their dates say.
        fit: What becomes of image files that are not square, see :func:`m2o_fast.data.fit.squared`.
        report: Called with a line of text for what takes long.

    Raises:
        UserError: For an unknown name or split, an unusable size, a damaged file or a folder that does not hold the
            data set; the message says what was found where, and what to do.
    """
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}; choose from {', '.join(DATASETS)}")
    if split not in ("train", "test"):
        raise UserError(f"unknown split {split!r}; choose from train, test")
    if image_size < 1:
        raise UserError(f"image_size must be at least 1, got {image_size}")
    if name in ("ade20k", "folder"):
        if data_dir is None:
            raise UserError(f"data set {name!r} needs its folder: --data {name}:DIR")
        rest = (split, image_size, seed, pair_fraction, cache, max_unreadable, report, verify, fit)
        files = [Files(Path(root).expanduser(), *rest) for root in (data_dir, *also)]
        return load_folders(files, uni) if name == "folder" else load_ade20k(files[0], labels)
    if name == "digits" and data_dir is not None:
        warnings.warn(
            f"data set 'digits' needs no folder; {data_dir} (--data-dir, data.dir) is not read",
            RuntimeWarning,
            stacklevel=2,
        )
    content, digits = load_digits(split, image_size) if name == "digits" else load_mnist(split, image_size, data_dir)
    return ColorizedDigits(content, digits, split=split, color_law=color_law, seed=seed, pair_fraction=pair_fraction)
