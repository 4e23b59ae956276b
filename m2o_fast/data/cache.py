"""Decoded image files, kept as one array that processes share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Files:
    """How the image files of a folder are read.

    Attributes:
        root: Folder of the data set.
        split: Which part of it.
        image_size: Side length S of the images, in pixels.
        seed: Seed of the choice of known pairs.
        pair_fraction: Share of the pairs that count as known, in [0, 1].
        cache: Whether decoded images are kept in the cache folder.
        max_unreadable: Share of a domain's files that may be unreadable, in [0, 1].
    """

    root: Path
    split: Literal["train", "test"]
    image_size: int
    seed: int = 777
    pair_fraction: float = 1.0
    cache: bool = True
    max_unreadable: float = 0.01
