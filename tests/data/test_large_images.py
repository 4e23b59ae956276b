"""Images of many pixels: a bounded memory, and the values that whole ones would have."""

from __future__ import annotations

import struct
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from bounded_memory import bounded_memory
from folder_files import write, write_odd
from PIL import Image

from m2o_fast.data import fit, images, parallel
from m2o_fast.data.images import colors_of, largest_value, read_pixels
from m2o_fast.data.label_maps import read_class_numbers
from m2o_fast.errors import UserError

SIDE = 9000  # 81 megapixels, 324 MB as Pillow holds colours
KINDS = {"gray": (8, 0), "colours": (8, 2), "gray with alpha": (8, 4), "colours with alpha": (8, 6), "16 bit": (16, 2)}


def write_png(path: Path, kind: str, side: int) -> Path:
    """All bytes are 200, and the image is to be turned."""
    depth, color_type = KINDS[kind]
    row = b"\0" + b"\xc8" * (side * depth // 8 * {0: 1, 2: 3, 4: 2, 6: 4}[color_type])
    packer = zlib.compressobj(1)
    pixels = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, depth, color_type, 0, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6
    chunks = ((b"IHDR", head), (b"eXIf", exif.tobytes()[len(b"Exif\0\0") :]), (b"IDAT", pixels), (b"IEND", b""))
    whole = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
             for kind, data in chunks)  # fmt: skip
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(whole))
    return path


@pytest.mark.parametrize(
    ("kind", "side", "megabytes"),
    [
        ("colours with alpha", 5000, 170),
        *(
            pytest.param(kind, SIDE, megabytes, marks=pytest.mark.slow)
            for kind, megabytes in (
                ("gray", 200), ("colours", 450), ("gray with alpha", 450), ("colours with alpha", 450), ("16 bit", 850)
            )
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("how", ["stretch", "crop"])
def test_a_large_file_is_in_memory_once(kind: str, side: int, megabytes: int, how: str, tmp_path: Path) -> None:
    path = write_png(tmp_path / "large.png", kind, side)
    with bounded_memory(megabytes << 20):
        pixels = read_pixels(path, 3, 16, fit=how)
    value = 200 * 200 / 255 if "alpha" in kind else 200
    assert np.abs(pixels.astype(float) - value).max() <= 1


def test_a_large_label_map_is_in_memory_once(tmp_path: Path) -> None:
    path = write_png(tmp_path / "large.png", "gray", 5000)
    with bounded_memory(45 << 20):
        assert (read_class_numbers(path, 201, 16, path) == 200).all()


@pytest.mark.slow
def test_the_data_check_reads_a_large_file_as_sparingly(tmp_path: Path) -> None:
    path = write_png(tmp_path / "large.png", "colours", SIDE)
    with bounded_memory(450 << 20):
        assert (colors_of(path, "whole"), largest_value(path)) == (0, 200)


def test_too_large_ones_are_refused_by_name_and_limit(tmp_path: Path) -> None:
    path = write_png(tmp_path / "huge.png", "gray", 9500)
    with pytest.raises(UserError, match=r"huge.png: 9500 x 9500 pixels are too many, 89478485 at most"):
        read_pixels(path, 3, 16)


@pytest.mark.parametrize("how", ["stretch", "crop", "pad"])
def test_strips_give_what_the_whole_gives(how: fit.Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    color = draw.integers(0, 256, (60, 120, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [*write_odd(tmp_path).values(), write(tmp_path / "turned.png", color, exif=exif)]
    files += [write(tmp_path / "gray.tif", draw.integers(0, 65536, (50, 30), dtype=np.uint16))]
    files += [write(tmp_path / "float.tif", draw.random((50, 30), dtype=np.float32))]
    cases = [(path, channels, "whole") for path in files if path.suffix != ".jpg" for channels in (1, 3)]
    cases += [(write(tmp_path / "joined.png", color), 3, part) for part in ("left", "right")]
    whole = [read_pixels(path, channels, 16, part, how) for path, channels, part in cases]
    colors = [colors_of(path, "whole") for path in files]
    largest = [largest_value(path) for path in files]
    monkeypatch.setattr(fit, "LARGE", 50)
    monkeypatch.setattr(fit, "_STRIP", 100)
    for case, wanted in zip(cases, whole, strict=True):
        found = read_pixels(*case[:2], 16, case[2], how)
        assert np.abs(found.astype(int) - wanted).max() <= 1, (case, "rounded between the two axes")
    assert [colors_of(path, "whole") for path in files] == colors
    assert [largest_value(path) for path in files] == largest


def test_strips_are_the_box() -> None:
    assert fit.strips((3, 4, 5003, 5004)) == [
        (3, top, 5003, min(top + 209, 5004)) for top in range(4, 5004, (1 << 20) // 5000)
    ]
    assert fit.strips((0, 0, 4096, 4096)) == [(0, 0, 4096, 4096)]


def test_colors_are_counted(tmp_path: Path) -> None:
    color = np.random.default_rng(1).integers(0, 4, (40, 80, 3), dtype=np.uint8)
    color[:, :40] = color[:, :40, :1]
    path = write(tmp_path / "a.png", color)
    assert colors_of(path, "whole") == len(np.unique(color.reshape(-1, 3), axis=0))
    assert (colors_of(path, "left"), colors_of(path, "right")) == (0, 64)


@pytest.mark.parametrize(("part", "size"), [("whole", 40), ("left", 20)])
def test_a_large_jpeg_is_decoded_at_a_fraction(
    part: images.Part, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, columns = np.mgrid[:320, :640] / 40
    smooth = np.stack([np.sin(rows), np.cos(columns), np.sin(rows + columns)], axis=-1) * 100 + 128
    path = write(tmp_path / "large.jpg", smooth.astype(np.uint8), quality=95)
    whole = read_pixels(path, 3, size, part)
    decoded: list[int] = []
    room = parallel.room_for_pixels
    monkeypatch.setattr(images, "room_for_pixels", lambda count: decoded.append(count) or room(count))
    monkeypatch.setattr(images, "LARGE", 1000)
    scaled = read_pixels(path, 3, size, part)
    assert decoded == [160 * 80], "still two pixels for one, either way"
    assert np.abs(scaled.astype(int) - whole).mean() < 1


def test_margins_of_a_large_jpeg_are_those_of_its_partner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded at a quarter it has 160 x 82 pixels, which are a row more of 40 x 40."""
    gray = np.full((325, 640), 200, dtype=np.uint8)
    files = [write(tmp_path / name, gray) for name in ("photo.jpg", "map.png")]
    monkeypatch.setattr(images, "LARGE", 1000)
    heights: list[int] = []
    margins = fit._with_margins
    monkeypatch.setattr(
        fit, "_with_margins", lambda image, *more: heights.append(image.height) or margins(image, *more)
    )
    for path in files:
        read_pixels(path, 1, 40, fit="pad")
    assert heights == [20, 20]


def test_a_large_progressive_jpeg_takes_the_room_of_all_its_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "large.jpg", np.full((320, 640, 3), 128, dtype=np.uint8), progressive=True)
    counted: list[int] = []
    room = parallel.room_for_pixels
    monkeypatch.setattr(images, "room_for_pixels", lambda count: counted.append(count) or room(count))
    monkeypatch.setattr(images, "LARGE", 1000)
    assert np.abs(read_pixels(path, 3, 40).astype(int) - 128).max() <= 1
    assert counted == [640 * 320]


def test_large_images_are_not_decoded_all_at_once() -> None:
    room, inside, most = parallel._Room(10), [0], [0]
    lock = threading.Lock()

    def work(size: int) -> None:
        for _ in range(20):
            with room.of(size):
                with lock:
                    inside[0] += size
                    most[0] = max(most[0], inside[0])
                time.sleep(0.001)  # so that the others come, if they are let in
                with lock:
                    inside[0] -= size

    threads = [threading.Thread(target=work, args=(size,)) for size in (3, 4, 6, 10, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 < most[0] <= 10
    with room.of(99):  # alone, where all would be too small
        pass
    with pytest.raises(ZeroDivisionError), room.of(10):
        _ = 1 / 0
    with room.of(10):  # given back
        pass
