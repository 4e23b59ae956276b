"""Tiny MNIST files, and the real ones where M2O_DATA_DIR names them."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

TINY = {"train": 12, "test": 5}
NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">{array.ndim + 1}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def tiny_mnist() -> dict[str, bytes]:
    """name -> content of the four files of a tiny MNIST; few gray levels, so that it can be compressed."""
    files = {}
    for split, count in TINY.items():
        generator = np.random.default_rng(count)
        images, labels = NAMES[split]
        files[images] = idx_bytes(generator.integers(0, 16, (count, 28, 28), dtype=np.uint8) * 17)
        files[labels] = idx_bytes(np.arange(count, dtype=np.uint8) % 10)
    return files


@pytest.fixture
def mnist_files() -> dict[str, bytes]:
    return tiny_mnist()


@pytest.fixture
def write_mnist(mnist_files: dict[str, bytes]) -> Callable[..., Path]:
    def write(folder: Path, *, compressed: bool = True) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in mnist_files.items():
            if compressed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
            else:
                (folder / name).write_bytes(content)
        return folder

    return write


@pytest.fixture
def real_mnist() -> str:
    folder = os.environ.get("M2O_DATA_DIR")
    if not folder:
        pytest.skip("M2O_DATA_DIR is not set, so there is no real MNIST")
    return folder
