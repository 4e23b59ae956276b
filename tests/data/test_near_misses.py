"""What is said of images that are used, of those that are not, and of names that are nearly pairs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from folder_files import color_of, gray_of, write, write_damaged

from m2o_fast.data import open_dataset
from m2o_fast.data.check import check_folder
from m2o_fast.data.near_misses import near_misses


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_named(root: Path, photo: str, sketch: str, count: int = 6) -> Path:
    for split in ("train", "val"):
        for number in range(count):
            write(root / split / "photo" / f"{photo.format(number)}.png", color_of(number))
            write(root / split / "sketch" / f"{sketch.format(number)}.png", gray_of(number + 10 * (split == "val")))
    return root


def said(root: Path, **options) -> list[str]:
    lines: list[str] = []
    open_dataset("folder", split="train", data_dir=root, image_size=16, uni=("sketch",), report=lines.append, **options)
    return lines


@pytest.mark.parametrize(
    ("photo", "sketch", "what"),
    [
        ("Place{}", "place{}", "letter case"),
        ("{}_real", "{}_fake", "endings such as _real and _fake"),
        ("{}-B", "{}-A", "endings such as _real and _fake"),
        ("x/P{}_Real", "x/p{}", "letter case and endings such as _real and _fake"),
        ("{}_photo", "{}-sketch", "endings such as _real and _fake"),
        ("IMG_{}", "img_{}_sketch", "letter case and endings such as _real and _fake"),
        ("00{}", "{}", "zeros in front"),
        ("x/{}", "{}", "subfolders"),
    ],
)
def test_names_that_are_nearly_pairs_are_told(tmp_path: Path, photo: str, sketch: str, what: str) -> None:
    root = write_named(tmp_path / "d", photo, sketch)
    sentence = (
        f"0 of 6 images of photo have the name of an image of sketch, but 6 would without {what}, such as "
        f"{photo.format(0)!r} and {sketch.format(0)!r}: rename one of each, or say it in pairs.csv"
    )
    assert said(root)[-1] == sentence
    assert [note for note in check_folder(root).notes if "would" in note] == [
        f"train: {sentence}",
        f"val: {sentence}",
    ]


def test_nothing_is_said_where_names_fit_or_are_not_even_near(tmp_path: Path) -> None:
    assert near_misses({"photo": ["a", "b", "C"], "sketch": ["a", "b", "c"]}, ["sketch"]) == [], "most of them fit"
    assert near_misses({"photo": ["a", "b"], "sketch": ["x", "y"]}, ["sketch"]) == []
    assert near_misses({"photo": ["A"], "sketch": ["a"]}, []) == []
    root = write_named(tmp_path / "d", "A{}", "a{}")
    (root / "pairs.csv").write_text("photo,sketch\nA0,a1\n")
    assert not any("would" in line for line in [*said(root), *check_folder(root).notes]), "names pair nothing"


def test_images_of_one_name_count_each_and_are_no_near_miss(tmp_path: Path) -> None:
    assert near_misses({"photo": ["a", "a", "b", "c", "d"], "map": ["a", "x", "y", "z", "w"]}, ["map"]) == []
    (sentence,) = near_misses({"photo": ["a", "b", "C", "d"], "map": ["A", "a", "c", "z"]}, ["map"])
    assert sentence.startswith("1 of 4") and "but 2 would" in sentence and "'C' and 'c'" in sentence
    root = write_named(tmp_path / "d", "p{}", "s{}")
    write(root / "train" / "sketch" / "a.png", gray_of(40))
    for suffix in ("png", "jpg"):
        write(root / "train" / "photo" / f"a.{suffix}", color_of(40))
    (problem,) = check_folder(root).problems
    assert "not clear which images are pairs" in problem


def test_a_start_says_which_images_are_used_and_which_are_not(tmp_path: Path) -> None:
    root = write_named(tmp_path / "d", "{}", "{}", 5)
    write_damaged(root / "train" / "photo")
    (root / "train" / "photo" / "readme.txt").write_text("x")
    os.mkfifo(root / "train" / "photo" / "pipe.png")
    (root / "train" / "photo" / "device.png").symlink_to("/dev/zero")
    (root / "train" / "sketch" / "4.png").unlink()
    with pytest.warns(RuntimeWarning, match="3 of 8 image files cannot be read"):
        lines = said(root, max_unreadable=0.5)
    assert lines[-3:] == [
        "train/photo: 5 images used; not: 3 unreadable, 3 of other kinds",
        "train/sketch: 4 images used",
        "train: 4 of 5 images of photo have a pair in sketch",
    ]


def test_a_range_that_is_far_below_that_of_the_file_is_told(tmp_path: Path) -> None:
    root = write_named(tmp_path / "d", "{}", "{}")
    for split in ("train", "val"):
        for number in range(6):
            twelve = gray_of(number).astype("uint16") * 16  # up to 4080 of 65535
            write(root / split / "sketch" / f"{number}.png", twelve)
    with pytest.warns(RuntimeWarning, match="no value above 1[56] of 255: nearly black .* scale the images"):
        said(root)
    assert any("train/sketch: no value above 16 of 255" in note for note in check_folder(root).notes)
