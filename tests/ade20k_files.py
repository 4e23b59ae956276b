"""A small data set in the layout of ADE20K scene parsing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZES = [(40, 30), (33, 48), (64, 64), (50, 20)]


def photo_of(number: int) -> np.ndarray:
    width, height = SIZES[number % len(SIZES)]
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def classes_of(number: int) -> np.ndarray:
    """Blocks of 5 x 5 pixels of any of the 151 classes."""
    width, height = SIZES[number % len(SIZES)]
    blocks = np.random.default_rng(100 + number).integers(0, 151, (height // 5 + 1, width // 5 + 1), dtype=np.uint8)
    return np.ascontiguousarray(blocks.repeat(5, 0).repeat(5, 1)[:height, :width])


def write_ade20k(root: Path, count: int = 4, splits: tuple[str, ...] = ("training", "validation")) -> Path:
    for split in splits:
        for folder in ("images", "annotations"):
            (root / folder / split).mkdir(parents=True)
        for number in range(count):
            stem = f"ADE_{split[:5]}_{number + 1:08d}"
            Image.fromarray(photo_of(number)).save(root / "images" / split / f"{stem}.jpg", quality=95)
            Image.fromarray(classes_of(number)).save(root / "annotations" / split / f"{stem}.png")
    return root


def write_names(root: Path) -> Path:
    lines = ["Idx\tRatio\tTrain\tVal\tName", *(f"{k}\t0.1\t1\t1\tthing{k}, thingummy" for k in range(1, 151))]
    path = root / "objectInfo150.txt"
    path.write_text("\n".join(lines) + "\n")
    return path
