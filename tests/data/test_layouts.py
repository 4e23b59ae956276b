"""Layouts that people have: trainA and trainB, joined A|B images, train and test."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from folder_files import SIDE, color_of, gray_of, write
from PIL import Image

from m2o_fast.data import open_dataset
from m2o_fast.data.check import check_folder
from m2o_fast.data.folder import FolderDataset
from m2o_fast.data.images import read_pixels
from m2o_fast.errors import UserError

SIZE = 16


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def open_it(root: Path, split: str = "train", uni: tuple[str, ...] = ("B",), **options) -> FolderDataset:
    dataset = open_dataset("folder", split=split, data_dir=root, image_size=SIZE, uni=uni, **options)
    assert isinstance(dataset, FolderDataset)
    return dataset


def write_apart(root: Path) -> Path:
    for split, numbers in (("train", range(5)), ("test", range(5, 8))):
        for number in numbers:
            write(root / f"{split}A" / f"{number}.png", color_of(number))
            write(root / f"{split}B" / f"{number + 1}.png", gray_of(number))
    return root


def joined_of(number: int) -> np.ndarray:
    return np.concatenate([color_of(number), color_of(50 + number)], axis=1)


def write_joined(root: Path) -> Path:
    for split, numbers in (("train", range(5)), ("val", range(5, 8))):
        for number in numbers:
            write(root / split / f"{number}.png", joined_of(number))
    return root


def test_a_and_b_apart_are_two_domains(tmp_path: Path) -> None:
    data, held_out = open_it(write_apart(tmp_path)), open_it(tmp_path, "test")
    assert [(domain.name, domain.channels) for domain in data.domains] == [("A", 3), ("B", 1)]
    assert data.count("A") == data.count("B") == 5 and held_out.count("A") == 3
    wanted = read_pixels(tmp_path / "testA" / "6.png", 3, SIZE)
    assert np.array_equal((held_out.images("A", [1])[0] * 255).round().numpy(), wanted)
    assert data.pair("A", "B", range(5))[1].tolist() == [False, True, True, True, True], "by equal names"


def test_the_check_recognises_them_and_prints_the_command(tmp_path: Path) -> None:
    report = check_folder(write_apart(tmp_path))
    assert report.lines[0] == f"{tmp_path}: own images: folders A and B for each split"
    assert "train/A: 5 images, all 12x12, RGB 5" in report.lines
    assert report.facts["command"] == (
        f"m2o-fast train --variant hms --data folder:{tmp_path} --uni B --set data.image_size=32"
    )
    assert f"{tmp_path}/testA and testB serve as val" in report.notes and report.problems == []


def test_joined_images_are_pairs_without_being_copied(tmp_path: Path) -> None:
    data = open_it(write_joined(tmp_path))
    assert [(domain.name, domain.channels) for domain in data.domains] == [("A", 3), ("B", 3)]
    right, known = data.pair("A", "B", [3, 0])
    assert known.all()
    for row, number in enumerate((3, 0)):
        for name, half, images in (
            ("A", color_of(number), data.images("A", [number])),
            ("B", color_of(50 + number), right[row : row + 1]),
        ):
            alone = read_pixels(write(tmp_path / "alone" / f"{name}.png", half), 3, SIZE)
            assert np.array_equal((images[0] * 255).round().numpy(), alone), "as if the half were a file of its own"
    assert not torch.equal(data.images("A", [0]), data.images("B", [0])), "the halves are kept apart in the cache"
    assert torch.equal(open_it(tmp_path).images("B", range(5)), data.images("B", range(5))), "and found there again"


def test_the_check_shows_halves(tmp_path: Path) -> None:
    for number in range(5):
        flat = np.concatenate([color_of(number), np.full_like(color_of(0), 40 * number)], axis=1)
        write(tmp_path / "train" / f"{number}.png", flat)
        write(tmp_path / "test" / f"{number}.png", flat[::-1].copy())
    report = check_folder(tmp_path, sheet=tmp_path / "sheet.png")
    assert report.lines[0] == f"{tmp_path}: own images: two joined in each file, A on the left and B on the right"
    assert "train/B: 5 images, all 12x12, RGB 5" in report.lines
    assert report.facts["uni_guess"] == ["B"] and "10 pairs" in report.total
    assert not any("in no domain" in note for note in report.notes)
    assert all((tile == 40 * number).all() for number, tile in enumerate(report.rows["train/B"]))
    assert (Image.open(tmp_path / "sheet.png").size)[0] > 0


def test_deep_and_turned_joined_images(tmp_path: Path) -> None:
    deep = np.concatenate([gray_of(1), gray_of(2)], axis=1).astype(np.uint16) * 257
    for number in range(2):
        write(tmp_path / "train" / f"{number}.png", deep)
    data = open_it_alone(tmp_path)
    for name, gray in (("A", gray_of(1)), ("B", gray_of(2))):
        alone = read_pixels(write(tmp_path / "alone" / f"{name}.png", gray.astype(np.uint16) * 257), 1, SIZE)
        assert np.array_equal((data.images(name, [0])[0] * 255).round().numpy(), alone)
    exif = Image.Exif()
    exif[0x0112] = 6
    standing = np.rot90(joined_of(3), 1)
    path = write(tmp_path / "turned" / "train" / "0.png", np.ascontiguousarray(standing), exif=exif)
    write(tmp_path / "turned" / "train" / "1.png", joined_of(3))
    data = open_it_alone(path.parent.parent)
    assert torch.equal(data.images("A", [0]), data.images("A", [1]))


def open_it_alone(root: Path) -> FolderDataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return open_it(root)


def test_a_file_of_another_shape_among_joined_ones_is_unreadable(tmp_path: Path) -> None:
    write_joined(tmp_path)
    for number in range(100, 160):
        write(tmp_path / "train" / f"{number}.png", joined_of(number))
    write(tmp_path / "train" / "9.png", color_of(9))  # the last one, which nobody looks at before
    with pytest.warns(RuntimeWarning, match=r"9.png: 12 x 12 pixels; two joined images are twice as wide as high"):
        assert open_it(tmp_path).count("A") == 65


def test_images_of_other_shapes_are_no_layout(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "train" / f"{number}.png", color_of(number))
    with pytest.raises(UserError, match="it has none; joined pairs of images would be twice as wide as high"):
        open_it(tmp_path)
    (tmp_path / "trainA").mkdir()
    with pytest.raises(UserError, match="it has none"):
        open_it(tmp_path)


def test_half_of_a_split_is_not_overlooked(tmp_path: Path) -> None:
    for number in range(3):
        for name in ("trainA", "trainB", "testA"):
            write(tmp_path / name / f"{number}.png", color_of(number))
    told = f"{tmp_path / 'testA'} is there, but no {tmp_path / 'testB'}; add it, or remove the folder"
    with pytest.raises(UserError) as error:
        open_it(tmp_path)
    assert str(error.value) == told and check_folder(tmp_path).problems == [told]


@pytest.mark.parametrize(("there", "missing"), [("trainA", "trainB"), ("trainB", "trainA"), ("valA", "valB")])
def test_a_half_alone_is_told(tmp_path: Path, there: str, missing: str) -> None:
    write(tmp_path / there / "1.png", color_of(1))
    told = f"{tmp_path / there} is there, but no {tmp_path / missing}; add it, or remove the folder"
    with pytest.raises(UserError) as error:
        open_it(tmp_path)
    assert str(error.value) == told and check_folder(tmp_path).problems == [told]


@pytest.mark.parametrize("inside", ["", "photo"])
def test_a_split_that_is_not_joined_as_the_other_one_is_named(tmp_path: Path, inside: str) -> None:
    for number in range(3):
        write(tmp_path / "train" / f"{number}.png", joined_of(number))
        write(tmp_path / "test" / inside / f"{number}.png", color_of(number))
    told = f"{tmp_path / 'train'} has files with two joined images, {tmp_path / 'test'} has not: there, too, all need"
    with pytest.raises(UserError) as error:
        open_it(tmp_path)
    assert str(error.value).startswith(told) and str(tmp_path / "train" / "A") not in str(error.value)


def test_folders_of_domains_come_before_other_layouts(tmp_path: Path) -> None:
    write_joined(tmp_path)
    for split in ("train", "val"):
        for number in range(3):
            write(tmp_path / split / "photo" / f"{number}.png", color_of(number))
            write(tmp_path / split / "map" / f"{number}.png", gray_of(number))
    report = check_folder(tmp_path)
    assert report.lines[0] == f"{tmp_path}: own images"
    assert "train: 5 files in no domain, ignored: 0.png, 1.png, 2.png, 3.png, 4.png" in report.notes
    assert SIDE == 12


def test_a_table_of_pairs_for_a_and_b(tmp_path: Path) -> None:
    write_apart(tmp_path)
    (tmp_path / "pairs.csv").write_text("A,B\n0,4\n1,4\n7,6\n")
    data = open_it(tmp_path)
    assert data.looks("B", "A", 3).tolist() == [0, 1] and data.looks("A", "B", 2).tolist() == []
    assert len(open_it(tmp_path, "test").looks("A", "B", 2)) == 1
