"""Small folders of own images, and image files of every odd kind."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 12


def color_of(number: int, side: int = SIDE) -> np.ndarray:
    """uint8 ``[side, side, 3]``."""
    return np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)


def gray_of(number: int, side: int = SIDE) -> np.ndarray:
    """uint8 ``[side, side]``."""
    return np.random.default_rng(1000 + number).integers(0, 256, (side, side), dtype=np.uint8)


def write(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_split(folder: Path, photos: Iterable[int] = range(4), sketches: Iterable[int] = range(4)) -> None:
    """Domains ``photo``, in colour, and ``sketch``, gray; every third image lies in a subfolder."""
    for number in photos:
        write(folder / "photo" / ("sub" if number % 3 == 0 else "") / f"{number}.png", color_of(number))
    for number in sketches:
        write(folder / "sketch" / ("sub" if number % 3 == 0 else "") / f"{number}.bmp", gray_of(number))


def write_folder(root: Path, **numbers: Iterable[int]) -> Path:
    """The same images for training and validation."""
    write_split(root / "train", **numbers)
    write_split(root / "val", **numbers)
    return root


def write_odd(folder: Path) -> dict[str, Path]:
    """Readable files of odd kinds, all made from the first image."""
    color, gray = Image.fromarray(color_of(0)), Image.fromarray(gray_of(0))
    exif = Image.Exif()
    exif[0x0112] = 6
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / name for name in ("cmyk.jpg", "deep.png", "turned.jpg", "clear.png", "moving.gif")}
    color.convert("CMYK").save(files["cmyk.jpg"])
    Image.fromarray(gray_of(0).astype(np.uint16) * 257).save(files["deep.png"])
    color.resize((SIDE, 2 * SIDE)).save(files["turned.jpg"], exif=exif)
    clear = color.convert("RGBA")
    clear.putalpha(gray)
    clear.save(files["clear.png"])
    color.save(files["moving.gif"], save_all=True, append_images=[Image.fromarray(color_of(1))])
    return files


def write_damaged(folder: Path) -> dict[str, Path]:
    """Files that cannot be read."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / name for name in ("cut.jpg", "empty.png", "text.png")}
    write(files["cut.jpg"], color_of(0, 64))
    os.truncate(files["cut.jpg"], files["cut.jpg"].stat().st_size // 2)
    files["empty.png"].write_bytes(b"")
    files["text.png"].write_text("not an image")
    return files


LOOKS = {"place1": 3, "place2": 1, "place3": 5}  # of places, in the order of the maps


def write_places(folder: Path, looks: dict[str, int] = LOOKS, first: int = 0) -> None:
    """Photographs in a subfolder for each map; one that has a single look beside them, by an equal name."""
    for number, (place, many) in enumerate(looks.items(), first):
        write(folder / "map" / f"{place}.png", gray_of(number))
        for look in range(many):
            name = f"{place}/{look}.png" if many > 1 else f"{place}.png"
            write(folder / "photo" / name, color_of(100 * number + look))
