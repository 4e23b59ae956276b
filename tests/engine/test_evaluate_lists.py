"""Which images an evaluation uses and which not, and what is odd about them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from ade20k_files import write_ade20k
from folder_files import color_of, gray_of, write, write_damaged, write_folder
from tiny import tiny_config

from m2o_fast.cli import main
from m2o_fast.data import index, open_dataset
from m2o_fast.engine.evaluate_images import evaluate_images
from m2o_fast.engine.loop import train
from m2o_fast.errors import UserError

SHORT = ("--sources", "2", "--outputs-per-source", "1", "--extractor", "none")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images and a run of one step on it."""
    folder = tmp_path_factory.mktemp("lists")
    root = write_folder(folder / "d", photos=range(6), sketches=range(5))
    shutil.move(write_damaged(folder / "damaged")["cut.jpg"], root / "val" / "photo")
    (root / "val" / "photo" / "readme.txt").write_text("x")
    with pytest.MonkeyPatch.context() as patch, pytest.warns(RuntimeWarning, match="cut.jpg"):
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        settings = (f"data.name=folder:{root}", "data.uni=[sketch]", "data.image_size=32", "steps=1")
        train(tiny_config(*settings), folder / "run", quiet=True)
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(trained, tmp_path / "x")
    config = tmp_path / "x" / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(trained), str(tmp_path / "x")))
    return tmp_path / "x"


@pytest.mark.filterwarnings("ignore:.*cut.jpg:RuntimeWarning")
def test_an_evaluation_says_which_images_it_uses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(folder / "run"), *SHORT]) == 0
    lines = capsys.readouterr().err.splitlines()
    used = ["val/photo: 6 images used; not: 1 unreadable, 1 of other kinds", "val/sketch: 5 images used"]
    pairs = "val: 5 of 6 images of photo have a pair in sketch"
    assert [line for line in lines if line in (*used, pairs)] == [*used, pairs], "once"
    assert main(["eval", str(folder / "run"), *SHORT, "--quiet"]) == 0
    assert "images used" not in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*cut.jpg:RuntimeWarning")
def test_an_evaluation_reads_all_files_again_when_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stat = index._stat
    monkeypatch.setattr(index, "_RECENT", 0)
    monkeypatch.setattr(index, "_stat", lambda path: (1, 2, 3, 4) if path.endswith(".png") else stat(path))
    words = ["eval", str(folder / "run"), *SHORT, "--quiet"]
    assert main(words) == 0
    write(folder / "d" / "val" / "photo" / "1.png", color_of(77))
    assert main(words) == 0, "dates do not show it"
    capsys.readouterr()
    assert main([*words, "--verify-data"]) == 2
    assert "are not those that" in capsys.readouterr().err


def test_verify_data_is_for_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a" / "1.png", color_of(1))
    assert main(["eval", str(tmp_path / "a"), "--truth", str(tmp_path / "a"), "--verify-data"]) == 2
    assert "--verify-data: for runs" in capsys.readouterr().err


def test_images_made_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        write(tmp_path / "fakes" / f"{number}.png", color_of(number) // 8)
        write(tmp_path / "truth" / f"{number}.png", color_of(number))
    (tmp_path / "fakes" / "readme.txt").write_text("x")
    assert main(["eval", str(tmp_path / "fakes"), "--truth", str(tmp_path / "truth")]) == 0
    out, err = capsys.readouterr()
    assert f"{tmp_path / 'fakes'}: 3 images used; not: 1 of other kinds\n" in err
    assert f"{tmp_path / 'truth'}: 3 images used\n" in err
    assert f"{tmp_path / 'fakes'}: no value above 31 of 255" in out
    report = evaluate_images(tmp_path / "truth", truth=tmp_path / "truth")
    assert not any("no value above" in note for note in report["warnings"])


def test_names_that_are_nearly_pairs_are_told(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "fakes" / f"{number}_fake.png", color_of(number))
        write(tmp_path / "truth" / f"{number}_real.png", gray_of(number))
    told = "would without endings such as _real and _fake, such as '0_fake' and '0_real': rename one of each"
    with pytest.raises(UserError, match="3 images of .* have no true image here: 0_fake.png, .*; 0 of 3 .*") as error:
        evaluate_images(tmp_path / "fakes", truth=tmp_path / "truth")
    assert str(error.value).endswith(told)


def test_scenes_that_are_used_are_counted(tmp_path: Path) -> None:
    root, lines = write_ade20k(tmp_path / "ade"), []
    (damaged,) = [path for path in (root / "annotations" / "training").iterdir() if path.stem.endswith("1")]
    write(damaged, np.full((30, 40), 200, dtype=np.uint8))
    count = len(list((root / "images" / "training").iterdir()))
    options = {"data_dir": root, "image_size": 16, "report": lines.append}
    with pytest.warns(RuntimeWarning, match="class 200"):
        open_dataset("ade20k", split="train", max_unreadable=0.5, **options)
    assert lines[-1] == f"training: {count - 1} scenes with their label maps used; not: 1 with an unreadable file"
