from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from folder_files import color_of, gray_of, write, write_damaged, write_folder, write_odd
from PIL import Image

from m2o_fast.cli import main
from m2o_fast.data import open_dataset
from m2o_fast.data.check import check_folder
from m2o_fast.data.check_images import guess_uni
from m2o_fast.data.check_report import ImageFacts, by_kind, described, examine_all
from m2o_fast.data.index import FileIndex
from m2o_fast.data.learner import Learner
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain

BY_HEART = (
    "11 contents of sketch with looks in both splits: "
    + "; ".join(f"train/sketch/{number}.bmp and val/sketch/{number}.bmp" for number in (1, 10, 11, 2, 4))
    + "; and 6 more; measures then also say how well they were learnt by heart"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def idle_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a GPU, which nobody has to measure."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("m2o_fast.engine.fitting.seconds_per_step", lambda config, domains, sets: 0.45)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "my data", photos=range(12), sketches=range(1, 12))


def test_a_sound_folder(root: Path) -> None:
    report = check_folder(root)
    assert report.text() == [
        f"{root}: own images",
        "train/photo: 12 images, all 12x12, RGB 12",
        "train/sketch: 11 images, all 12x12, L 11",
        "val/photo: 12 images, all 12x12, RGB 12",
        "val/sketch: 11 images, all 12x12, L 11",
        "train: 11 of 12 images of photo have a pair in sketch; not: sub/0",
        "val: 11 of 12 images of photo have a pair in sketch; not: sub/0",
        f"note: {BY_HEART}",
        "uni-modal: sketch (a guess: all its images are gray)",
        f"m2o-fast train --variant hms --data 'folder:{root}' --uni sketch --set data.image_size=32",
        "22 pairs, 0 problems",
    ]
    assert report.facts["pairs"]["train"] == {
        "photo->sketch": {
            "found": 11,
            "missing": ["sub/0"],
            "contents": 11,
            "looks": {"least": 1, "mean": 1.0, "most": 1},
        }
    }


@pytest.mark.parametrize("kind", ["16 bit", "palette"])
def test_the_command_is_for_the_channels_that_training_takes(root: Path, kind: str) -> None:
    for path in root.rglob("sketch/**/*.bmp"):
        gray = gray_of(int(path.stem))
        deep = Image.fromarray(gray.astype(np.uint16) * 257)
        (deep if kind == "16 bit" else Image.fromarray(gray).convert("P")).save(path.with_suffix(".png"))
        path.unlink()
    fitted: list[Domain] = []
    check_folder(root, learner=Learner(fitting=lambda variant, domains, side, sets: fitted.extend(domains)))
    trained_on = open_dataset("folder", split="train", data_dir=root, image_size=16, uni=("sketch",)).domains
    assert [domain.channels for domain in trained_on] == [3, 1] and tuple(fitted) == trained_on


@pytest.mark.parametrize(
    ("name", "command"),
    [(None, "--variant hms --data DIR --uni b --preset folder-cpu --set data.image_size=64"),
     ("starganv2", "--system starganv2 --variant hms --data DIR --uni b --preset folder-cpu --set data.image_size=64")]
    + [(name, f"--system {name} --variant hms --data DIR --uni b --set data.image_size=96")
       for name in ("cyclegan", "pix2pix")],
)  # fmt: skip
def test_the_command_is_for_the_system_that_is_named(
    name: str | None, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images of 100 x 100, without a GPU: some systems have a recipe for that, others take a size that suits them."""
    for domain, shape in (("a", (100, 100, 3)), ("b", (100, 100))):
        write(tmp_path / "train" / domain / "1.png", np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    assert main(["data", "check", str(tmp_path), "--json", *(["--system", name] if name else [])]) == 0
    found = json.loads(capsys.readouterr().out)["command"]
    assert found == f"m2o-fast train {command}".replace("DIR", f"folder:{tmp_path}")


def test_what_a_named_system_would_refuse_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, domain in enumerate("abc"):
        shape = (40, 40) if domain == "c" else (40, 40, 3)
        pixels = np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)
        write(tmp_path / "train" / domain / f"{number}.png", pixels)
    assert main(["data", "check", str(tmp_path), "--system", "pix2pix", "--json"]) == 1
    two, pairs = json.loads(capsys.readouterr().out)["problems"]
    assert two == "system 'pix2pix' is for two domains, but there are 3: a, b, c"
    assert pairs == "system 'pix2pix' learns from known pairs, but there are none"
    assert main(["data", "check", str(tmp_path), "--system", "gan"]) == 2
    assert "system = 'gan' in the options: unknown system" in capsys.readouterr().err


def test_the_numbers_are_those_of_training(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_damaged(root / "train" / "photo")
    report = check_folder(root, max_unreadable=0.25)
    with pytest.warns(RuntimeWarning):
        data = open_dataset("folder", split="train", data_dir=root, uni=["sketch"], max_unreadable=0.25)
    assert report.problems == []
    assert report.facts["splits"]["train"]["photo"]["images"] == data.count("photo")
    assert report.facts["pairs"]["train"]["photo->sketch"]["found"] == int(
        data.pair("photo", "sketch", range(12))[1].sum()
    )


def test_damaged_files_are_a_note_within_the_share_and_a_problem_beyond(root: Path) -> None:
    damaged = write_damaged(root / "train" / "photo")
    report = check_folder(root)
    (problem,) = report.problems
    assert problem.startswith("train/photo: 3 of 15 image files cannot be read: ")
    assert all(str(path) in problem for path in damaged.values()) and report.advice == []
    assert report.text()[-1] == "22 pairs, 1 problem"
    report = check_folder(root, max_unreadable=0.2)
    assert report.problems == [] and report.notes == [f"{problem}; training leaves them out", BY_HEART]
    assert report.facts["command"].endswith("--set data.max_unreadable=0.2"), "training is to allow what the check did"
    shutil.rmtree(root / "train" / "photo")
    write_damaged(root / "train" / "photo")
    assert len(check_folder(root, max_unreadable=1).problems) == 1, "no image is left"


def test_odd_files_are_named_with_what_becomes_of_them(root: Path) -> None:
    write_odd(root / "train" / "photo")
    write(root / "train" / "photo" / "large.png", color_of(1, 30))
    (root / "train" / "photo" / "notes.txt").write_text("x")
    os.mkfifo(root / "train" / "photo" / "a pipe.png")
    (root / "train" / "photo" / "device.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        with contextlib.chdir(root / "train" / "photo"):  # the name of a socket is short
            listening.bind("socket.png")
    (root / "train" / "photo" / "folder.png").symlink_to(root / "val")
    (root / "train" / "stray.png").write_bytes(b"x")
    (root / "train" / "photo" / ".DS_Store").write_bytes(b"x")
    report = check_folder(root)
    assert report.problems == [] and sorted(report.notes) == [
        BY_HEART,
        "train/photo: 1 image of mode CMYK, converted to RGB: cmyk.jpg",
        "train/photo: 1 image turned as EXIF says: turned.jpg",
        "train/photo: 1 image with more than 8 bits, which are rounded to 8: deep.png",
        "train/photo: 1 image with several frames, of which the first is taken: moving.gif",
        "train/photo: 1 image with transparent parts, which become black: clear.png",
        "train/photo: 4 files of other kinds, ignored: a pipe.png, device.png, notes.txt, socket.png",
        "train: 1 file in no domain, ignored: stray.png",
        "train: 1 of 29 images would be stretched by more than 10% (width / height from 1 to 2); "
        "take --set data.fit=crop, which takes the middle of each, or pad, which keeps all of each",
    ]
    assert "train/photo: 18 images, 12x12 to 30x30, median 12x12, RGB " in report.lines[1]
    (turned,) = examine_all(FileIndex(root / "train" / "photo", ["turned.jpg"]))
    assert turned.size == (24, 12), "as it is shown"


def test_few_images_are_noted(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", photos=range(12), sketches=range(9))
    assert check_folder(root).notes[:2] == [
        f"{split}/sketch: 9 images, which is few to train or measure with" for split in ("train", "val")
    ]


def test_one_split_alone(root: Path) -> None:
    shutil.rmtree(root / "train")
    report = check_folder(root)
    assert report.notes == [f"{root} has a val folder alone: it serves for training and testing"]
    assert report.text()[-1] == "11 pairs, 0 problems" and "--variant hms" in report.advice[-1]


def test_without_pairs_the_command_is_for_hmu(tmp_path: Path) -> None:
    report = check_folder(write_folder(tmp_path / "d", photos=range(10), sketches=range(20, 30)))
    assert "--variant hmu" in report.advice[-1] and report.text()[-1] == "0 pairs, 0 problems"
    assert "train: 0 of 10 images of photo have a pair in sketch" in report.lines


def test_what_training_refuses_is_a_problem(root: Path) -> None:
    write(root / "train" / "photo" / "1.jpg", color_of(9))
    (problem,) = check_folder(root).problems
    assert problem.startswith("not clear which images are pairs: ") and "1.jpg and 1.png" in problem
    (root / "val" / "extra").mkdir()
    (problem,) = check_folder(root).problems
    assert "every domain needs images in both splits; in one alone: " in problem
    assert check_folder(root).text()[-1] == "0 pairs, 1 problem"


def test_large_images_need_no_other_size(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number in range(2):
            write(tmp_path / split / "a" / f"{number}.png", np.zeros((256, 300), dtype=np.uint8))
            write(tmp_path / split / "b" / f"{number}.png", color_of(number, 260))
    assert "image_size" not in check_folder(tmp_path).advice[-1]


def test_the_guess(tmp_path: Path) -> None:
    def facts(name: str, *pixels: np.ndarray) -> list[tuple[str, str]]:
        paths = [write(tmp_path / name / f"{number}.png", some) for number, some in enumerate(pixels)]
        return [(str(path), "whole") for path in paths]

    photo = facts("photo", color_of(1, 40), color_of(2, 40))
    gray_in_color = facts("gray", np.dstack([gray_of(1)] * 3))
    labels = facts("labels", color_of(1, 4))
    more = facts("more", color_of(5, 32))
    assert guess_uni({"photo": photo, "gray": gray_in_color, "labels": labels}).domains == ("gray",)
    assert guess_uni({"photo": photo, "labels": labels}) == (("labels",), "its images have few colours")
    assert guess_uni({"photo": photo, "more": more}) == (("more",), "its images have the fewest colours")
    both = guess_uni({"a": gray_in_color, "b": gray_in_color, "photo": photo})
    assert both == (("a", "b"), "all their images are gray")


def test_sizes_and_kinds_of_messages() -> None:
    sizes = [(4, 4), (2, 2), (10, 10)]
    line, values = described([ImageFacts(size, mode) for size, mode in zip(sizes, "PPL", strict=True)])
    assert line == "3 images, 2x2 to 10x10, median 4x4, P 2, L 1" and values["modes"] == {"P": 2, "L": 1}
    messages = ["a1: class 7", "b: mode P", "c: class 12"]
    assert by_kind(messages) == [["a1: class 7", "c: class 12"], ["b: mode P"]]


def test_the_contact_sheet_replaces_nothing_but_itself(root: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    (root / "train" / "sketch" / "1.bmp").unlink()  # so images 10 come first: they are a pair
    for _ in range(2):
        report = check_folder(root, sheet=sheet)
        assert f"some images of each domain: {sheet}" in report.lines and report.facts["sheet"] == str(sheet)
    with Image.open(sheet) as picture:
        assert picture.size == (150 + 2 + 8 * 98, 2 + 4 * 98)
        pixels = np.asarray(picture)[:, 152 : 152 + 96].astype(int)
    for name, tile in (("photo/10.png", pixels[2 : 2 + 96]), ("sketch/10.bmp", pixels[100 : 100 + 96])):
        with Image.open(root / "train" / name) as image:
            wanted = image.resize((96, 96), Image.Resampling.BILINEAR).convert("RGB")
        assert abs(tile - np.asarray(wanted)).max() <= 1
    photo = write(tmp_path / "photo.png", color_of(0))
    before = photo.read_bytes()
    for path in (photo, tmp_path / "sheet.jpg", tmp_path / "my data"):
        with pytest.raises(UserError, match=r"name another file with --sheet|ends in .png"):
            check_folder(root, sheet=path)
    with pytest.raises(UserError, match="cannot write the contact sheet"):
        check_folder(root, sheet=photo / "below.png")
    assert photo.read_bytes() == before


def test_the_command_line(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "contact-sheet.png", color_of(0))
    assert main(["data", "check", str(root)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "note: contact-sheet.png is there already and not a contact sheet; name another file with --sheet" in out
    assert out[-3].endswith("--uni sketch --preset folder-cpu")
    assert out[-2:] == ["expected time on this machine: about 30 min", "22 pairs, 0 problems"]
    (tmp_path / "contact-sheet.png").unlink()
    assert main(["data", "check", str(root), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["uni_guess"] == ["sketch"] and facts["expected_hours"] == 0.5
    assert not (tmp_path / "contact-sheet.png").exists()
    write_damaged(root / "train" / "photo")
    assert main(["data", "check", str(root)]) == 1
    captured = capsys.readouterr()
    assert captured.out.endswith("22 pairs, 1 problem\n") and captured.err.startswith("problem: train/photo: 3 of 15")
    assert (tmp_path / "contact-sheet.png").exists()
    assert main(["data", "check", str(root), "--max-unreadable", "0.2"]) == 0


def test_names_that_are_no_text_are_printed_as_they_are(root: Path, tmp_path: Path) -> None:
    where = os.fsencode(root.rename(tmp_path / "d")) + b"\xff"
    os.rename(tmp_path / "d", where)
    command = [sys.executable, "-m", "m2o_fast.cli", "data", "check", where]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert result.returncode == 0 and result.stderr == b""
    assert b"folder:" + where in result.stdout


def test_it_says_which_folder_serves_for_testing(root: Path) -> None:
    (root / "val").rename(root / "test")
    report = check_folder(root)
    assert f"{root / 'test'} serves as val" in report.notes and report.problems == []
    assert [line for line in report.text() if line.startswith("test/photo: 12 images")]
    assert report.facts["splits"].keys() == report.facts["pairs"].keys() == {"train", "test"}
    shutil.copytree(root / "test", root / "val")
    assert f"{root / 'test'} is not used, {root / 'val'} serves for testing" in check_folder(root).notes
