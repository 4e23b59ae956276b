"""Images that their EXIF orientation turns: right in every format, and as large as others in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m2o_fast.data.images import colors_of, largest_value, read_image, read_pixels, shown_size_of
from m2o_fast.data.label_maps import read_class_numbers, read_label_map
from m2o_fast.labels import palette

TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
FILES = {"png": {}, "webp": {"lossless": True}, "raw.tif": {}, "packed.tif": {"compression": "tiff_deflate"}}


def write(path: Path, pixels: np.ndarray, orientation: int, mode: str | None = None, **options: object) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(pixels)
    if mode == "P":
        image.putpalette(bytes(range(256)) * 3)
    image.save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("ending", FILES)
def test_every_format_is_turned(tmp_path: Path, ending: str, orientation: int) -> None:
    """Uncompressed TIFF files too, which Pillow 13 gets wrong where it maps them into memory."""
    draw = np.random.default_rng(orientation)
    kinds = {"color": draw.integers(0, 256, (5, 8, 3), dtype=np.uint8), "gray": draw.integers(0, 256, (5, 8))}
    kinds |= {"gray": kinds["gray"].astype(np.uint8), "deep": draw.integers(0, 65536, (5, 8), dtype=np.uint16)}
    for kind, pixels in kinds.items():
        if (kind, ending) == ("deep", "webp"):
            continue
        path = write(tmp_path / f"{kind}.{ending}", pixels, orientation, **FILES[ending])
        wanted = np.atleast_3d(TURNS[orientation](pixels)) / np.float32(65535 if kind == "deep" else 255)
        found = read_image(path, wanted.shape[2], None)[0].permute(1, 2, 0).numpy()
        assert found.shape == wanted.shape and np.abs((found + 1) / 2 - wanted).max() < 1e-6, kind
        assert shown_size_of(path) == wanted.shape[1::-1]


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("ending", FILES)
def test_label_maps_are_turned(tmp_path: Path, ending: str, orientation: int) -> None:
    """Class numbers, plain and with a palette, and colours; of the size of the photograph as it is shown."""
    classes = np.random.default_rng(orientation).integers(0, 12, (5, 8), dtype=np.uint8)
    wanted = TURNS[orientation](classes)
    photo = write(tmp_path / "photo.png", np.zeros((*wanted.shape, 3), dtype=np.uint8), 1)
    scaled = np.asarray(Image.fromarray(np.ascontiguousarray(wanted)).resize((12, 12), Image.Resampling.NEAREST))
    for mode in ("L", "P") if ending != "webp" else ():  # which holds colours alone
        path = write(tmp_path / f"{mode}.{ending}", classes, orientation, mode, **FILES[ending])
        assert np.array_equal(read_class_numbers(path, 12, None, photo), wanted)
        assert np.array_equal(read_class_numbers(path, 12, 12, photo), scaled)
    colors = palette(12).numpy()[classes].astype(np.uint8)
    path = write(tmp_path / f"colors.{ending}", colors, orientation, **FILES[ending])
    assert np.array_equal(read_label_map(path, 12, None)[0], wanted)
    assert np.array_equal(read_label_map(path, 12, 12)[0], scaled)


@pytest.mark.parametrize("ending", FILES)
def test_halves_are_those_of_what_is_shown(tmp_path: Path, ending: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 200, (16, 8, 3), dtype=np.uint8)
    path = write(tmp_path / f"joined.{ending}", pixels, 6, **FILES[ending])
    for part, half in (("left", np.s_[:, :8]), ("right", np.s_[:, 8:])):
        wanted = np.rot90(pixels, -1)[half]
        assert np.array_equal(read_pixels(path, 3, 8, part), wanted.transpose(2, 0, 1))
        assert colors_of(path, part) == len(np.unique(wanted.reshape(-1, 3), axis=0))
    assert largest_value(path) == pixels.max()
