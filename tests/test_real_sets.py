"""The folders of real pictures that benchmarks make: layout, pairs, and what is drawn."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from source_tree import ROOT

from m2o_fast.data.check import check_folder

sys.path.insert(0, str(ROOT / "benchmarks"))
import real_sets


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def test_a_skeleton_is_one_pixel_wide_and_in_the_middle() -> None:
    bar = np.full((20, 20), 255, dtype=np.uint8)
    bar[7:12, 3:17] = 0
    ink = np.asarray(real_sets.skeleton(Image.fromarray(bar))) == 0
    assert ink.any() and set(np.flatnonzero(ink.any(1)).tolist()) <= {8, 9, 10}
    assert (ink.sum(0) <= 1).all() and ink.sum() >= 8


def test_edges_are_where_colours_change() -> None:
    picture = np.zeros((6, 6, 3), dtype=np.uint8)
    picture[:, 3:] = (255, 0, 0)
    lines = np.asarray(real_sets.edges(Image.fromarray(picture)))
    assert (lines[:, 2] == 0).all() and (np.delete(lines, 2, axis=1) == 255).all()


def test_pictograms_and_their_edges_are_pairs(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(10):
        pixels = np.zeros((40, 40, 4), dtype=np.uint8)
        pixels[8:32, 8:32] = (20 * number, 200, 90, 255)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number}.png")
    real_sets.main(["pictograms", str(tmp_path / "out"), "--images", str(tmp_path / "in")])
    report = check_folder(tmp_path / "out")
    assert report.problems == [] and report.total == "10 pairs" and report.facts["uni_guess"] == ["line"]
    with Image.open(tmp_path / "out" / "train" / "color" / "0.png") as picture:
        assert picture.mode == "RGB" and picture.getpixel((0, 0)) == (255, 255, 255)


def test_patches_of_a_block_are_in_one_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    blocks = [random.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(5)]
    monkeypatch.setattr(real_sets, "blocks", lambda: iter(blocks))
    real_sets.main(["patches", str(tmp_path / "out")])
    report = check_folder(tmp_path / "out")
    assert report.total == "125 pairs" and report.facts["uni_guess"] == ["gray"]
    names = [{path.name[:4] for path in (tmp_path / "out" / split / "gray").iterdir()} for split in ("train", "val")]
    assert names == [{"0000", "0001", "0002", "0003"}, {"0004"}]
    with pytest.raises(SystemExit, match="exists already"):
        real_sets.main(["patches", str(tmp_path / "out")])
