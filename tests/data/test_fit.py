"""What becomes of images that are not square: values against a computation of these tests, data sets, old caches."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import PIL
import pytest
from folder_files import color_of, gray_of, write
from PIL import Image

from m2o_fast.data import cache, open_dataset
from m2o_fast.data.check import check_folder
from m2o_fast.data.images import read_pixels
from m2o_fast.data.label_maps import read_class_numbers

SIZE = 16
FITS = ("stretch", "crop", "pad")
SIZES = [(20, 30), (31, 20), (40, 40), (1, 9), (9, 1), (1, 1), (1, 500), (7, 8), (5, 40), (47, 16), (16, 6)]
CASES = [*((shape, SIZE) for shape in SIZES), *((shape, 15) for shape in [(15, 15), (15, 21), (5, 15)])]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


# --- the same without Pillow and np.pad ---


def bilinear(length: int, side: int) -> np.ndarray:
    """Weights ``[side, length]`` of an antialiased triangle filter."""
    scale = length / side
    centres = (np.arange(side) + 0.5) * scale
    distances = np.abs(np.arange(length) + 0.5 - centres[:, None]) / max(scale, 1)
    weights = np.maximum(1 - distances, 0)
    return weights / weights.sum(axis=1, keepdims=True)


def nearest(length: int, side: int) -> np.ndarray:
    """Weights that take the pixel on which a centre falls."""
    return np.eye(length)[((np.arange(side) + 0.5) * length / side).astype(int)]


def source_rows(side: int, size: int, mirrored: bool) -> np.ndarray:
    """For each of ``size`` rows the one of ``side`` rows in the middle that is shown there."""
    rows = np.arange(size) - (size - side) // 2
    if not mirrored:
        return rows.clip(0, side - 1)
    period = max(2 * (side - 1), 1)
    return np.minimum(rows % period, period - rows % period)


def squared(values: np.ndarray, size: int, fit: str, weights: object = bilinear, *, void: bool = False) -> np.ndarray:
    """``[H, W, c]`` as ``[size, size, c]``."""
    height, width = values.shape[:2]
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        values = values[top : top + side, left : left + side]
    longest = max(height, width)
    inner = [max(1, int(side * size / longest + 0.5)) if fit == "pad" else size for side in (height, width)]
    down, across = (weights(length, side) for length, side in zip(values.shape, inner, strict=False))
    scaled = np.einsum("yh,hwc,xw->yxc", down, values, across)
    mirrored = all(size - side - (size - side) // 2 < side for side in inner)
    rows, columns = (source_rows(side, size, mirrored) for side in inner)
    result = scaled[rows][:, columns]
    if void:
        for axis, side in enumerate(inner):
            first = (size - side) // 2
            outside = (np.arange(size) < first) | (np.arange(size) >= first + side)
            result[outside if axis == 0 else np.s_[:, outside]] = 0
    return result


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("shape", "size"), CASES, ids=str)
def test_images_are_what_numpy_makes_of_them(tmp_path: Path, shape: tuple[int, int], size: int, fit: str) -> None:
    draw = np.random.default_rng(3)
    color = draw.integers(0, 256, (*shape, 3), dtype=np.uint8)
    found = read_pixels(write(tmp_path / "color.png", color), 3, size, fit=fit)
    assert found.dtype == np.uint8 and found.shape == (3, size, size)
    assert np.abs(found.transpose(1, 2, 0) - squared(color.astype(float), size, fit)).max() < 1.6, "Pillow rounds twice"
    deep = draw.integers(0, 65536, shape, dtype=np.uint16)
    found = read_pixels(write(tmp_path / "deep.png", deep), 1, size, fit=fit)
    expected = squared(deep[..., None].astype(float) / 257, size, fit)
    assert np.abs(found.transpose(1, 2, 0) - expected).max() < 0.51, "rounded once, at the end"


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("shape", "size"), CASES, ids=str)
@pytest.mark.parametrize("mode", ["L", "P"])
def test_label_maps_take_nearest_pixels_and_void(
    tmp_path: Path, shape: tuple[int, int], size: int, fit: str, mode: str
) -> None:
    classes = np.random.default_rng(4).integers(1, 151, shape, dtype=np.uint8)
    image = Image.fromarray(classes)
    if mode == "P":
        image.putpalette(list(range(255, -1, -1)) * 3)
    image.save(tmp_path / "map.png")
    found = read_class_numbers(tmp_path / "map.png", 151, size, fit=fit)
    expected = squared(classes[..., None].astype(float), size, fit, nearest, void=True)[..., 0]
    assert found.dtype == np.uint8 and np.array_equal(found, expected)


def test_a_label_map_lies_on_its_photograph(tmp_path: Path) -> None:
    """Where nothing is scaled, both keep their values: the classes drawn as a photograph are the classes."""
    classes = np.random.default_rng(5).integers(1, 151, (21, SIZE), dtype=np.uint8)
    path = write(tmp_path / "map.png", classes)
    cut = read_class_numbers(path, 151, SIZE, path, "crop")
    assert np.array_equal(read_pixels(path, 1, SIZE, fit="crop")[0], cut) and np.array_equal(cut, classes[2 : 2 + SIZE])
    padded = read_class_numbers(path, 151, 21, path, "pad")
    photo = read_pixels(path, 1, 21, fit="pad")[0]
    inside = np.s_[:, 2 : 2 + SIZE]
    assert np.array_equal(padded[inside], classes) and np.array_equal(photo[inside], classes)
    assert padded[:, :2].max() == padded[:, 2 + SIZE :].max() == 0
    assert np.array_equal(photo[:, :2], classes[:, [2, 1]]) and np.array_equal(photo[:, -3:], classes[:, [-2, -3, -4]])


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_photograph_is_turned_first(tmp_path: Path, fit: str, dtype: type) -> None:
    gray = np.random.default_rng(6).integers(0, np.iinfo(dtype).max + 1, (20, 33), dtype=dtype)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = write(tmp_path / "turned.png", gray, exif=exif)
    upright = write(tmp_path / "upright.png", np.ascontiguousarray(np.rot90(gray, -1)))
    assert np.array_equal(read_pixels(turned, 1, SIZE, fit=fit), read_pixels(upright, 1, SIZE, fit=fit))


def test_a_thin_image_takes_no_more_memory_than_its_square(tmp_path: Path) -> None:
    path = write(tmp_path / "thin.png", np.full((1, 10_000_000), 7, dtype=np.uint8))
    assert (read_pixels(path, 1, SIZE, fit="pad") == 7).all()


# --- data sets ---


def netpbm(path: Path, pixels: np.ndarray) -> None:
    """A file whose bytes depend on no encoder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "P6" if pixels.ndim == 3 else "P5"
    path.write_bytes(f"{kind} {pixels.shape[1]} {pixels.shape[0]} 255\n".encode() + pixels.tobytes())


def ramp(*shape: int) -> np.ndarray:
    return (np.arange(np.prod(shape)) * 7 % 149).astype(np.uint8).reshape(shape)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for number in range(3):
            netpbm(tmp_path / "own" / split / "photo" / f"{number}.ppm", ramp(12 + number, 20, 3))
            netpbm(tmp_path / "own" / split / "sketch" / f"{number}.pgm", ramp(20, 12 + number))
    return tmp_path / "own"


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    for split in ("training", "validation"):
        for number in range(3):
            netpbm(tmp_path / "ade" / "images" / split / f"{number}.ppm", ramp(12 + number, 20, 3))
            netpbm(tmp_path / "ade" / "annotations" / split / f"{number}.pgm", ramp(12 + number, 20))
    return tmp_path / "ade"


def pixels(data: object, domain: str) -> np.ndarray:
    return (data.images(domain, range(data.count(domain))).numpy() * 255).round().astype(np.uint8)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("kept", [True, False])
def test_own_images(own: Path, fit: str, kept: bool) -> None:
    for split, folder in (("train", "train"), ("test", "val")):
        data = open_dataset("folder", split=split, data_dir=own, image_size=SIZE, uni=["sketch"], cache=kept, fit=fit)
        for domain, channels, suffix in (("photo", 3, "ppm"), ("sketch", 1, "pgm")):
            paths = [own / folder / domain / f"{number}.{suffix}" for number in range(3)]
            assert np.array_equal(
                pixels(data, domain), np.stack([read_pixels(path, channels, SIZE, fit=fit) for path in paths])
            )


def test_layouts_of_others(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "apart" / "trainA" / f"{number}.png", color_of(number)[:7])
        write(tmp_path / "apart" / "trainB" / f"{number}.png", gray_of(number)[:, :5])
        write(tmp_path / "joined" / "train" / f"{number}.png", np.hstack([color_of(number), color_of(number + 9)]))
    options = {"split": "train", "image_size": SIZE, "uni": ["B"]}
    apart = open_dataset("folder", data_dir=tmp_path / "apart", fit="crop", **options)
    joined = open_dataset("folder", data_dir=tmp_path / "joined", fit="crop", **options)
    for domain, channels in (("A", 3), ("B", 1)):
        path = tmp_path / "apart" / f"train{domain}" / "1.png"
        assert np.array_equal(pixels(apart, domain)[1], read_pixels(path, channels, SIZE, fit="crop"))
    stretched = open_dataset("folder", data_dir=tmp_path / "joined", **options)
    for domain in ("A", "B"):
        assert np.array_equal(pixels(joined, domain), pixels(stretched, domain)), "halves are squares"


@pytest.mark.parametrize("fit", FITS)
def test_scenes_and_their_label_maps(scenes: Path, fit: str) -> None:
    data = open_dataset("ade20k", split="train", data_dir=scenes, image_size=SIZE, fit=fit)
    for number in range(3):
        photo = scenes / "images" / "training" / f"{number}.ppm"
        label_map = scenes / "annotations" / "training" / f"{number}.pgm"
        assert np.array_equal(pixels(data, "scene")[number], read_pixels(photo, 3, SIZE, fit=fit))
        ids = data.label_ids([number])[0].numpy()
        assert np.array_equal(ids, read_class_numbers(label_map, 151, SIZE, fit=fit))
        assert (ids[0] == 0).all() == (fit == "pad")


def test_caches_and_fingerprints_of_before_stay(own: Path, scenes: Path) -> None:
    """Those of the version that knew stretching alone, and as many more as there are other ways."""
    folder = {"name": "folder", "split": "train", "data_dir": own, "image_size": SIZE, "uni": ["sketch"]}
    ade = {"name": "ade20k", "split": "train", "data_dir": scenes, "image_size": SIZE}
    assert open_dataset(**folder).fingerprint == "1b9ee006311d0a50245b46c8e4e897cbd48f2ef0ad5b4f73eae13d7e1a61d042"
    digest = hashlib.sha256(f"images with 3 channels, stretched to {SIZE} x {SIZE}\0003\0".encode())
    for number in range(3):
        content = (own / "train" / "photo" / f"{number}.ppm").read_bytes()
        digest.update(f"{number}.ppm\0".encode() + hashlib.sha256(content).digest())
    key = hashlib.sha256(f"{digest.hexdigest()} Pillow {PIL.__version__} {cache._READING}".encode()).hexdigest()
    kept = {path.name for path in cache.decoded_directory().glob("*.npy")}
    assert f"{key[:32]}.npy" in kept and len(kept) == 2
    prints = {open_dataset(**folder, fit=fit).fingerprint for fit in FITS}
    assert len(prints) == 3 and len(list(cache.decoded_directory().glob("*.npy"))) == 6
    assert open_dataset(**ade).fingerprint == "e384204b189c4c6a027e18701e7a8c18876e8e549820b14013c54c1185f61cc1"
    onehot = open_dataset(**ade, labels="onehot").fingerprint
    assert onehot == "5763f041fca8bd0ee91d49e171e24916074699183e1010595ecc6ad0aa28abab"
    assert len({open_dataset(**ade, fit=fit).fingerprint for fit in FITS}) == 3
    assert len(list(cache.decoded_directory().glob("*.npy"))) == 12


# --- the check ---


def advice(root: Path) -> list[str]:
    return [note for note in check_folder(root).notes if "data.fit" in note]


def test_the_check_says_how_many_images_would_be_stretched(tmp_path: Path, scenes: Path) -> None:
    for split, height in (("train", 6), ("val", 11)):
        for number in range(4):
            write(tmp_path / "d" / split / "a" / f"{number}.png", color_of(number))
            write(tmp_path / "d" / split / "b" / f"{number}.png", gray_of(number)[: height if number < 3 else 12])
    assert advice(tmp_path / "d") == [
        "train: 3 of 8 images would be stretched by more than 10% (width / height from 1 to 2); "
        "take --set data.fit=crop, which takes the middle of each, or pad, which keeps all of each"
    ], "11 of 12 rows are less than 10 % less"
    assert [note.partition(" would")[0] for note in advice(scenes)] == [
        "training images: 3 of 3 images",
        "validation images: 3 of 3 images",
    ]


def test_the_check_recommends_to_pad_where_a_crop_would_lose_more_than_half(tmp_path: Path) -> None:
    """Of most of those that would be stretched."""
    for split, heights in (("train", (12, 12, 6, 4, 4)), ("val", (12, 12, 4, 6, 6))):
        for number, height in enumerate(heights):
            write(tmp_path / split / "a" / f"{number}.png", color_of(number)[:12, :12])
            write(tmp_path / split / "b" / f"{number}.png", gray_of(number)[:height, :12])
    assert [note.partition("; take ")[2] for note in advice(tmp_path)] == [
        "--set data.fit=pad, which keeps all of each, or crop, which takes the middle of each",
        "--set data.fit=crop, which takes the middle of each, or pad, which keeps all of each",
    ]


def test_images_of_one_aspect_ratio_need_no_advice(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number in range(3):
            write(tmp_path / split / "a" / f"{number}.png", color_of(number, 20)[:10])
            write(tmp_path / split / "b" / f"{number}.png", gray_of(number, 30)[:15])
    assert advice(tmp_path) == []
    (tmp_path / "val" / "b" / "0.png").write_bytes(b"")
    write(tmp_path / "val" / "b" / "1.png", gray_of(1, 30)[:1])
    assert [note.partition(" (")[0] for note in advice(tmp_path)] == [
        "val: 5 of 5 images would be stretched by more than 10%"
    ]
