"""What a data set takes of memory for each of its files, beside the images that are mapped."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from folder_files import write

from m2o_fast.data import open_dataset
from m2o_fast.data.check import check_folder
from m2o_fast.data.one_look import one_look

FEW, MANY = 200, 1200


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Number of files -> a folder with so many, links to a few images."""
    made = {}
    for count in (FEW, MANY):
        made[count] = tmp_path_factory.mktemp(str(count))
        for split, share in (("train", 0.4), ("val", 0.1)):
            for domain, shape in (("photo", (4, 4, 3)), ("map", (4, 4))):
                pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
                image = write(made[count] / split / domain / "000000.png", pixels)
                for number in range(1, round(share * count)):
                    os.link(image, image.with_name(f"{number:06d}.png"))
    return made


def start(root: Path) -> object:
    """As a training opens its data."""
    options = {"data_dir": root, "image_size": 4, "uni": ("map",)}
    with one_look():
        return [open_dataset("folder", split=split, **options) for split in ("train", "test")]


def most_memory(use: Callable[[Path], object], root: Path) -> int:
    """Bytes that Python and numpy have at most, where all files are known already."""
    use(root)
    tracemalloc.start()
    try:
        use(root)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("use", "most"), [(start, 400), (check_folder, 300)])
def test_bytes_for_each_file(
    use: Callable[[Path], object],
    most: int,
    roots: dict[int, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So 500,000 files take 200 MB at most beside Python and torch."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("m2o_fast.data.index._RECENT", 0)
    few, many = (most_memory(use, root) for root in roots.values())
    assert (many - few) / (MANY - FEW) < most
