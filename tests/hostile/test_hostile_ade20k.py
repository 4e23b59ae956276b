"""Door: a folder of ADE20K."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ade20k_files import write_ade20k, write_names
from no_files import KINDS, put_no_file
from PIL import Image

STEM = "ADE_train_00000001"
PHOTO, MAP = f"images/training/{STEM}.jpg", f"annotations/training/{STEM}.png"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_ade20k(tmp_path / "ade")


def refused(refuses, names: str) -> str:
    words = ["--data", "ade20k:ade", "--preset", "ade20k-tiny", "--no-cache", "--set", "data.max_unreadable=0"]
    return refuses("train", *words, "--run", "new", "--quiet", names=names)


def saved(mode: str, size: tuple[int, int] = (40, 30), **options: object) -> Callable[[Path], None]:
    return lambda path: Image.new(mode, size, 200 if mode == "L" else None).save(path, **options)


MAPS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no label map"),
    "a pickle": lambda path: path.write_bytes(b"\x80\x04cos\nmkdir\n(Vowned\ntR."),
    "cut off": lambda path: os.truncate(path, 60),
    "colours": saved("RGB"),
    "1 bit": saved("1"),
    "with transparency": saved("LA"),
    "16 bit": saved("I;16"),
    "a class above 150": saved("L"),
    "another size": saved("L", (30, 40)),
    "one pixel": saved("L", (1, 1)),
    "a JPEG by another name": saved("RGB", format="JPEG"),
    "a palette of classes above 150": lambda path: (
        Image.fromarray(np.full((30, 40), 255, np.uint8)).convert("P").save(path)
    ),
}
NAMES = {
    "empty": b"",
    "a heading alone": b"Idx\tRatio\tTrain\tVal\tName\n",
    "not UTF-8": b"Idx\n1\t\xff\n",
    "too few": b"Idx\tName\n1\twall\n",
    "another order": b"Idx\tName\n" + b"".join(b"%d\tthing\n" % n for n in range(150, 0, -1)),
    "too many": b"Idx\tName\n" + b"".join(b"%d\tthing\n" % n for n in range(1, 152)),
    "no names": b"Idx\tName\n" + b"".join(b"%d\t\n" % n for n in range(1, 151)),
    "a million lines": b"Idx\tName\n" + b"1\tthing\n" * 1_000_000,
    "null bytes": bytes(10_000),
    "gigabytes": b"",
}
FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a photograph too many": (lambda root: (root / MAP).unlink(), STEM),
    "an annotation too many": (lambda root: (root / PHOTO).unlink(), STEM),
    "names that differ in case": (lambda root: (root / MAP).rename(root / MAP.replace("ADE", "ade")), STEM),
    "one photograph twice": (lambda root: os.link(root / PHOTO, (root / PHOTO).with_suffix(".png")), STEM),
    "images that are a file": (
        lambda root: ((root / "images").rename(root / "i"), (root / "images").write_text("")),
        "ade",
    ),
    "annotations that are a link to themselves": (
        lambda root: ((root / "annotations").rename(root / "a"), (root / "annotations").symlink_to("annotations")),
        "ade",
    ),
    "the full release": (
        lambda root: ((root / "images").rename(root / "i"), (root / "index_ade20k.pkl").write_bytes(b"\x80\x04.")),
        "full ADE20K release",
    ),
}


@pytest.mark.parametrize("kind", MAPS)
def test_annotations(kind: str, root: Path, refuses) -> None:
    MAPS[kind](root / MAP)
    refused(refuses, MAP)


@pytest.mark.parametrize("kind", ["empty", "text", "a pickle", "cut off"])
def test_photographs(kind: str, root: Path, refuses) -> None:
    MAPS[kind](root / PHOTO)
    refused(refuses, PHOTO)


@pytest.mark.parametrize("name", [PHOTO, MAP])
@pytest.mark.parametrize("kind", KINDS)
def test_no_files(kind: str, name: str, root: Path, refuses) -> None:
    put_no_file(kind, root / name)
    refused(refuses, STEM)


@pytest.mark.parametrize("kind", NAMES)
def test_names_of_classes(kind: str, root: Path, refuses) -> None:
    path = write_names(root)
    path.write_bytes(NAMES[kind])
    if kind == "gigabytes":
        os.truncate(path, 20 << 30)
    refused(refuses, path.name)


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders(kind: str, root: Path, refuses) -> None:
    damage, names = FOLDERS[kind]
    damage(root)
    refused(refuses, names)
