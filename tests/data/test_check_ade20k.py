from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ade20k_files import write_ade20k, write_names
from folder_files import color_of, gray_of, write
from PIL import Image

from m2o_fast.data import open_dataset
from m2o_fast.data.check import check_folder
from m2o_fast.errors import UserError
from m2o_fast.labels import palette

STRETCHED = (
    "images: 8 of 10 images would be stretched by more than 10% (width / height from 0.69 to 2.5); "
    "take --set data.fit=crop, which takes the middle of each, or pad, which keeps all of each"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_names(write_ade20k(tmp_path / "ade", count=10))
    return tmp_path / "ade"


def test_a_sound_folder(root: Path) -> None:
    report = check_folder(root)
    lines = report.text()
    assert lines[1] == "training images: 10 images, 50x20 to 64x64, median 33x48, RGB 10"
    assert lines[2].startswith("training annotations: 10 files, ") and lines[3] == "training: 10 pairs"
    assert lines[-2:] == [f"m2o-fast train --variant hms --data ade20k:{root}", "20 pairs, 0 problems"]
    assert report.notes == [f"training {STRETCHED}", f"validation {STRETCHED}"]
    assert len(report.facts["splits"]["training"]["classes"]) > 50
    assert 0 not in report.facts["splits"]["training"]["classes"], "void is no class"


def test_one_split_alone_and_no_names(root: Path) -> None:
    shutil.rmtree(root / "images" / "training")
    shutil.rmtree(root / "annotations" / "training")
    (root / "objectInfo150.txt").unlink()
    report = check_folder(root)
    assert report.text()[-1] == "10 pairs, 0 problems"
    assert report.notes == [
        f"{root}: no names of the classes (objectInfo150.txt)",
        f"{root} has validation images alone: they serve for training and testing",
        f"validation {STRETCHED}",
    ]


def first(root: Path, folder: str) -> Path:
    return min((root / folder / "training").iterdir())


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no annotation": (lambda root: first(root, "annotations").unlink(), "training: 1 file without annotation: ADE_tr"),
    "no image": (lambda root: first(root, "images").unlink(), "training: 1 file without image: ADE_train_00000001.png"),
    "twice": (
        lambda root: shutil.copy(first(root, "images"), first(root, "images").with_suffix(".png")),
        "names that differ in their suffix only",
    ),
    "names": (lambda root: (root / "objectInfo150.txt").write_text("x\n"), "objectInfo150.txt: must have a heading"),
    "no images": (
        lambda root: [shutil.rmtree(root / "images" / s) for s in ("training", "validation")],
        "without image",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_training_refuses_is_a_problem(root: Path, kind: str) -> None:
    damage, message = DAMAGE[kind]
    damage(root)
    report = check_folder(root)
    assert any(message in problem for problem in report.problems), report.problems
    assert report.advice == []
    with pytest.raises(UserError):
        open_dataset("ade20k", split="train", data_dir=root, cache=False)


def spoil(root: Path) -> None:
    """Three files of one kind, and one each of three more."""
    maps = sorted((root / "annotations" / "training").iterdir())
    for path in maps[:3]:
        pixels = np.asarray(Image.open(path)).copy()
        pixels[0, 0] = 151 + maps.index(path)
        write(path, pixels)
    write(maps[3], color_of(1))
    write(maps[4], gray_of(1, 7) // 2)
    sorted((root / "images" / "training").iterdir())[5].write_bytes(b"")


def test_unusable_files_are_named_by_kind(root: Path) -> None:
    spoil(root)
    report = check_folder(root)
    assert report.text()[-1] == "14 pairs, 4 problems"
    empty, classes, mode, size = report.problems
    assert "1 file that cannot be used: " in empty and "the file is empty" in empty
    assert (
        classes.startswith("training: 3 files that cannot be used: ")
        and "class 151, but classes are 0 to 150" in classes
    )
    assert "mode RGB" in mode and "7 x 7 pixels, but ADE_train_00000005.jpg has 40 x 30" in size
    report = check_folder(root, max_unreadable=0.5)
    assert report.problems == [] and all("training leaves them out" in note for note in report.notes[:4])
    assert report.text()[-1] == "14 pairs, 0 problems"


def test_more_than_five_are_counted(root: Path) -> None:
    for path in (root / "annotations" / "training").iterdir():
        write(path, color_of(1))
    (problem,) = check_folder(root).problems
    assert problem.startswith("training: 10 files that cannot be used: ") and problem.endswith("; and 5 more")


def test_other_releases_and_folders(tmp_path: Path) -> None:
    (tmp_path / "full" / "images" / "training" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match=r"the full ADE20K release, .* over 3000 classes; needed is"):
        check_folder(tmp_path / "full")
    (tmp_path / "half" / "images").mkdir(parents=True)
    with pytest.raises(UserError, match="no data set recognised"):
        check_folder(tmp_path / "half")
    archive = tmp_path / "unpacked" / "ADEChallengeData2016"
    write_ade20k(archive, count=1, splits=("validation",))
    assert check_folder(tmp_path / "unpacked").text()[-1] == "1 pair, 0 problems"


def test_the_contact_sheet_draws_label_maps_in_colours(root: Path, tmp_path: Path) -> None:
    check_folder(root, sheet=tmp_path / "sheet.png")
    tiles = np.asarray(Image.open(tmp_path / "sheet.png"))[100 : 100 + 96, 152 : 152 + 96].reshape(-1, 3)
    known = {tuple(color) for color in palette(151).tolist()}
    off = [tuple(color) for color in np.unique(tiles, axis=0).tolist() if tuple(color) not in known]
    assert off == []


def test_the_real_samples(real_mnist: str) -> None:
    samples = Path(real_mnist) / "ade20k_sample"
    if not samples.is_dir():
        pytest.skip("M2O_DATA_DIR has no ade20k_sample")
    assert check_folder(samples).text()[-1] == "3 pairs, 0 problems"
