"""Door: the IDX files of MNIST."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest
from no_files import KINDS, put_no_file

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def header(*sizes: int, kind: int = 8) -> bytes:
    return struct.pack(">HBB", 0, kind, len(sizes)) + struct.pack(f">{len(sizes)}I", *sizes)


def bomb(head: bytes, size: int) -> bytes:
    """gzip of ``head`` and so many zeros, as one megabyte of them again and again."""
    return gzip.compress(head) + gzip.compress(bytes(1 << 20)) * (size >> 20)


WHOLE = header(12, 28, 28) + bytes(12 * 28 * 28)
FILES = {
    "empty": b"",
    "three bytes": b"\0\0\x08",
    "text": b"these are no images",
    "HTML": b"<!DOCTYPE html><title>404</title>",
    "a pickle": b"\x80\x04cos\nmkdir\n(Vowned\ntR.",
    "another type": header(12, 28, 28, kind=13) + bytes(12 * 28 * 28 * 4),
    "another number of dimensions": header(12, 28) + bytes(12 * 28),
    "255 dimensions": struct.pack(">HBB", 0, 8, 255) + bytes(4 * 255),
    "a cut header": WHOLE[:9],
    "a cut body": WHOLE[:-1],
    "a byte more": WHOLE + b"\0",
    "no images": header(0, 28, 28),
    "no width": header(12, 28, 0),
    "another size": header(12, 32, 32) + bytes(12 * 32 * 32),
    "4 billion images": header(2**32 - 1, 28, 28) + bytes(28 * 28),
    "4 billion by 4 billion": header(2**32 - 1, 2**32 - 1, 2**32 - 1) + bytes(100),
    "little endian": struct.pack("<IIII", 2051, 12, 28, 28) + bytes(12 * 28 * 28),
    "gzip of nothing": gzip.compress(b""),
    "gzip of text": gzip.compress(b"no images"),
    "cut gzip": gzip.compress(WHOLE)[:-20],
    "damaged gzip": gzip.compress(WHOLE)[:30] + b"\xff" * 20 + gzip.compress(WHOLE)[50:],
    "a wrong checksum": gzip.compress(WHOLE)[:-8] + bytes(8),
    "gzip in gzip": gzip.compress(gzip.compress(WHOLE)),
    "a gzip header alone": b"\x1f\x8b\x08\0\0\0\0\0\0\x03",
    "a gzip bomb": bomb(header(12, 28, 28), 1 << 31),
    "a gzip bomb that the header announces": bomb(header(2**32 - 1, 28, 28), 1 << 31),
    "zip": b"PK\x03\x04" + bytes(100),
    "bzip2": b"BZh9" + bytes(100),
}


@pytest.fixture
def write_mnist():
    def write(folder: Path) -> None:
        folder.mkdir()
        for name, data in {"images-idx3": WHOLE, "labels-idx1": header(12) + bytes(12)}.items():
            for split in ("train", "t10k"):
                (folder / f"{split}-{name}-ubyte").write_bytes(data)

    return write


@pytest.mark.parametrize("kind", FILES)
def test_images(kind: str, tmp_path: Path, write_mnist, refuses) -> None:
    write_mnist(tmp_path / "mnist")
    (tmp_path / "mnist" / IMAGES).write_bytes(FILES[kind])
    refuses("train", "--data", "mnist", "--data-dir", "mnist", "--run", "new", "--quiet", names=IMAGES)


LABEL_FILES = {
    "empty": b"",
    "images": WHOLE,
    "too few": header(11) + bytes(11),
    "too many": header(13) + bytes(13),
    "beyond nine": header(12) + b"\xff" * 12,
    "a cut body": header(12) + bytes(11),
    "a gzip bomb": bomb(header(12), 1 << 31),
}


@pytest.mark.parametrize("kind", LABEL_FILES)
def test_labels(kind: str, tmp_path: Path, write_mnist, refuses) -> None:
    write_mnist(tmp_path / "mnist")
    (tmp_path / "mnist" / LABELS).write_bytes(LABEL_FILES[kind])
    refuses("train", "--data", "mnist", "--data-dir", "mnist", "--run", "new", "--quiet", names=LABELS)


@pytest.mark.parametrize("name", [IMAGES, LABELS])
@pytest.mark.parametrize("kind", KINDS)
def test_no_files(kind: str, name: str, tmp_path: Path, write_mnist, refuses) -> None:
    write_mnist(tmp_path / "mnist")
    path = tmp_path / "mnist" / name
    put_no_file(kind, path)
    refuses("train", "--data", "mnist", "--data-dir", "mnist", "--run", "new", "--quiet", names=name)
