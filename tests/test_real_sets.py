"""The folders of real pictures that benchmarks make: layout, pairs, and what is drawn."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from source_tree import ROOT

from m2o_fast.data.check import check_folder

sys.path.insert(0, str(ROOT / "benchmarks"))
import own_extractor
import real_sets

FONTS = Path("/usr/share/fonts")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def test_a_skeleton_is_one_pixel_wide_and_in_the_middle() -> None:
    bar = np.full((20, 20), 255, dtype=np.uint8)
    bar[7:12, 3:17] = 0
    ink = np.asarray(real_sets.skeleton(Image.fromarray(bar))) == 0
    assert ink.any() and set(np.flatnonzero(ink.any(1)).tolist()) <= {8, 9, 10}
    assert (ink.sum(0) <= 1).all() and ink.sum() >= 8


def test_letters_of_typefaces_belong_to_one_skeleton(tmp_path: Path) -> None:
    """A typeface in both formats is taken once, and what is none is left out."""
    plain = next(FONTS.rglob(real_sets.PLAIN), None)
    if plain is None:
        pytest.skip(f"{FONTS} has no {real_sets.PLAIN}")
    (tmp_path / "fonts").mkdir()
    for name in (real_sets.PLAIN, "E.ttf", "F.ttf", "G.ttf", "H.ttf"):
        shutil.copy(plain, tmp_path / "fonts" / name)
    for name in (f"{plain.stem}.otf", "Z.ttf"):
        (tmp_path / "fonts" / name).write_bytes(b"no typeface")
    real_sets.main(["typefaces", str(tmp_path / "out"), "--fonts", str(tmp_path / "fonts")])
    report = check_folder(tmp_path / "out")
    assert report.facts["uni_guess"] == ["skeleton"] and report.total == f"{26 * 5} pairs"
    assert report.facts["pairs"]["train"]["letter->skeleton"]["looks"] == {"least": 4, "mean": 4, "most": 4}
    drawn = [np.asarray(Image.open(path)) < 128 for path in sorted((tmp_path / "out/train/letter/I").iterdir())]
    assert all(np.array_equal(ink, drawn[0]) for ink in drawn)
    middle = np.argwhere(drawn[0]).mean(0)
    assert np.abs(middle - 15.5).max() < 0.6 and drawn[0].sum() > 20


def test_those_that_are_taken_are_spread_over_all() -> None:
    assert real_sets.spread(list(range(150)), 100) == [number * 3 // 2 for number in range(100)]
    assert real_sets.spread([1, 2], 100) == [1, 2]


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
    blocks = [real_sets.Block(0, n, random.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for n in range(5)]
    monkeypatch.setattr(real_sets, "blocks", lambda: iter(blocks))
    real_sets.main(["patches", str(tmp_path / "out")])
    report = check_folder(tmp_path / "out")
    assert report.total == "125 pairs" and report.facts["uni_guess"] == ["gray"]
    names = [{path.name[:4] for path in (tmp_path / "out" / split / "gray").iterdir()} for split in ("train", "val")]
    assert names == [{"0000", "0001", "0002", "0003"}, {"0004"}]
    with pytest.raises(SystemExit, match="exists already"):
        real_sets.main(["patches", str(tmp_path / "out")])


def test_patches_of_photographs_are_of_two_kinds_and_in_one_split_each() -> None:
    kinds = {split: own_extractor.patches(split) for split in ("train", "test")}
    for images, labels in kinds.values():
        assert images.shape == (1500, 3, 32, 32) and labels.unique().tolist() == [0, 1]
    # the first test block lies right of the first training block, and the first patch of each is in its corner
    photograph = torch.tensor(next(real_sets.photographs())).permute(2, 0, 1) / 255
    assert torch.equal(kinds["train"][0][0], photograph[:, :32, :32])
    assert torch.equal(kinds["test"][0][0], photograph[:, :32, 64:96])


def test_the_table_of_damages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Small: a net that learns for two steps, and few images."""
    monkeypatch.setattr("m2o_fast.metrics.own_net._STEPS", 2)
    images = torch.rand((20, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(own_extractor, "digits", lambda split: (images, torch.arange(20) % 10))
    monkeypatch.setattr(own_extractor, "patches", lambda split: (images, torch.arange(20) % 2))
    own_extractor.main()
    rows = [line.strip("|").split("|") for line in capsys.readouterr().out.splitlines()]
    assert [row[0].strip() for row in rows[2:]] == list(own_extractor.DAMAGES)
    numbers = np.array([[float(cell) for cell in row[1:]] for row in rows[2:-1]])
    assert numbers.shape == (11, 8) and np.array_equal(numbers[:-1, :4], numbers[:-1, 4:])
    assert numbers[0, 2:4].tolist() == [1, 1] and (numbers[1:, 0] > 1e-9).all(), "images compared with themselves"
    assert abs(numbers[0, 0]) < 1e-12  # a difference of traces, whose rounding depends on the processor
    assert [cell.strip() for cell in rows[-1][5:]] == ["-"] * 4 and float(rows[-1][1]) > 0
