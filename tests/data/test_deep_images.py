"""Images with more than 8 bits per channel. The files are made here byte by byte, not by the library that reads."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from folder_files import write_folder
from PIL import Image

from m2o_fast.data import open_dataset
from m2o_fast.data.check import check_folder
from m2o_fast.data.images import InMemory, is_gray, read_image, read_pixels
from m2o_fast.errors import UserError

SIZE = 8
GRAY, RGB, GRAY_ALPHA, RGBA = 0, 2, 4, 6  # PNG's colour types
CHANNELS = {GRAY: 1, RGB: 3, GRAY_ALPHA: 2, RGBA: 4}
WHITE_IS_ZERO, BLACK_IS_ZERO = 0, 1  # TIFF's photometric interpretations


def numbers(channels: int = 1, bits: int = 16) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, 1 << bits, (SIZE, SIZE, channels), dtype=np.uint16)


def png(path: Path, values: np.ndarray, kind: int, transparent: tuple[int, ...] = ()) -> Path:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", *values.shape[1::-1], 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    middle = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    parts = (chunk(b"IHDR", head), middle, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def tiff(
    path: Path,
    data: bytes,
    bits: int,
    photometric: int = BLACK_IS_ZERO,
    sample_format: int = 1,
    channels: int = 1,
    order: str = "<",
    orientation: int = 1,
) -> Path:
    """A TIFF of one uncompressed strip, whose numbers have this byte order."""
    behind = 8 + 2 + 12 * 11 + 4
    widths = struct.pack(f"{order}HHH", *[bits] * 3) if channels == 3 else b""
    depth = (258, 3, 3, behind) if channels == 3 else (258, 3, 1, bits)
    entries = [
        *((256, 3, 1, SIZE), (257, 3, 1, SIZE), depth, (259, 3, 1, 1), (262, 3, 1, photometric)),
        *((273, 4, 1, behind + len(widths)), (274, 3, 1, orientation), (277, 3, 1, channels), (278, 3, 1, SIZE)),
        *((279, 4, 1, len(data)), (339, 3, 1, sample_format)),
    ]
    table = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        is_short = kind == 3 and count == 1
        table += struct.pack(f"{order}HHI", tag, kind, count)
        table += struct.pack(f"{order}HH", value, 0) if is_short else struct.pack(f"{order}I", value)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    path.write_bytes(head + table + struct.pack(f"{order}I", 0) + widths + data)
    return path


def image_of(values: np.ndarray) -> torch.Tensor:
    """[H, W, c] in [0, 1] as an image in [-1, 1]."""
    return torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)[None] * 2 - 1


def assert_read_as(path: Path, values: np.ndarray) -> None:
    """The values within float32's rounding, of a file on a disk or in memory; in 8 bits the nearest ones."""
    channels = values.shape[-1]
    for file in (path, InMemory("the image", path.read_bytes())):
        torch.testing.assert_close(read_image(file, channels, SIZE), image_of(values), rtol=0, atol=1e-6)
    nearest = np.rint(values * 255).transpose(2, 0, 1)
    assert np.abs(read_pixels(path, channels, SIZE) - nearest).max() <= 0


def test_sixteen_bits_are_rounded_not_cut_off(tmp_path: Path) -> None:
    values = numbers(3)
    values[0, 0] = 255  # 255 / 257 rounds to 1; its upper byte is 0
    assert_read_as(png(tmp_path / "rgb.png", values, RGB), values / 65535)
    assert_read_as(png(tmp_path / "gray.png", numbers(1), GRAY), numbers(1) / 65535)
    data = values.astype("<u2").tobytes()
    assert_read_as(tiff(tmp_path / "rgb.tif", data, 16, photometric=2, channels=3), values / 65535)


def test_alpha_of_sixteen_bits(tmp_path: Path) -> None:
    values = numbers(4)
    shares = values / 65535
    assert_read_as(png(tmp_path / "rgba.png", values, RGBA), shares[..., :3] * shares[..., 3:])
    shares = numbers(2) / 65535
    path = png(tmp_path / "la.png", numbers(2), GRAY_ALPHA)
    assert_read_as(path, shares[..., :1] * shares[..., 1:])
    assert is_gray(path) and not is_gray(tmp_path / "rgba.png")


def test_the_transparent_color_of_sixteen_bits_is_black_and_its_neighbours_are_not(tmp_path: Path) -> None:
    gray = np.full((SIZE, SIZE, 1), 40000, np.uint16)
    gray[0, 0] = 40001  # the same upper byte
    wanted = np.zeros((SIZE, SIZE, 1))
    wanted[0, 0] = 40001 / 65535
    assert_read_as(png(tmp_path / "gray.png", gray, GRAY, (40000,)), wanted)
    color = np.full((SIZE, SIZE, 3), (40000, 3, 70), np.uint16)
    color[0, 0, 1] = 4
    wanted = np.zeros((SIZE, SIZE, 3))
    wanted[0, 0] = np.array((40000, 4, 70)) / 65535
    assert_read_as(png(tmp_path / "rgb.png", color, RGB, (40000, 3, 70)), wanted)


def test_white_is_zero_and_the_depth_is_that_of_the_header(tmp_path: Path) -> None:
    values = numbers()
    little, big = (values.astype(f"{order}u2").tobytes() for order in "<>")
    for order, data in (("<", little), (">", big)):
        assert_read_as(tiff(tmp_path / "black.tif", data, 16, order=order), values / 65535)
    assert_read_as(tiff(tmp_path / "white.tif", little, 16, WHITE_IS_ZERO), (65535 - values.astype(float)) / 65535)
    with pytest.raises(UserError, match="white.tif: begins as a TIFF file, but is .* of a kind that cannot be read"):
        read_image(tiff(tmp_path / "white.tif", big, 16, WHITE_IS_ZERO, order=">"), 1, SIZE)  # Pillow knows no such
    twelve = numbers(bits=12).ravel().astype(np.uint32)
    first, second = twelve[0::2], twelve[1::2]  # two numbers in three bytes, the upper bits first
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8)
    path = tiff(tmp_path / "twelve.tif", packed.tobytes(), 12)
    assert_read_as(path, twelve.reshape(SIZE, SIZE, 1) / 4095)


@pytest.mark.parametrize(("bits", "dtype"), [(32, "<i4"), (16, "<i2")])
def test_integers_of_unclear_range_are_refused_by_name(tmp_path: Path, bits: int, dtype: str) -> None:
    path = tiff(tmp_path / "signed.tif", numbers(bits=8).astype(dtype).tobytes(), bits, sample_format=2)
    for file in (path, InMemory("signed.tif", path.read_bytes())):
        with pytest.raises(UserError, match=rf"signed.tif: whole numbers of {bits} bits with a sign.*convert"):
            read_image(file, 1, SIZE)


def test_pgm_of_more_than_eight_bits_is_scaled_by_its_largest_value(tmp_path: Path) -> None:
    values = numbers(bits=10) % 1001
    (tmp_path / "a.pgm").write_bytes(b"P5 8 8 1000\n" + values.astype(">u2").tobytes())
    torch.testing.assert_close(read_image(tmp_path / "a.pgm", 1, SIZE), image_of(values / 1000), rtol=0, atol=3e-5)


def test_luminance_orientation_and_size_are_as_for_eight_bits(tmp_path: Path) -> None:
    """The same picture in 8 and in 16 bits (v * 257 is the same share): turned, made gray and enlarged alike."""
    small = np.random.default_rng(6).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    Image.fromarray(small).save(tmp_path / "small.png")
    deep = png(tmp_path / "deep.png", small.astype(np.uint16) * 257, RGB)
    for channels, size in ((1, SIZE), (3, 21), (1, 5)):
        shallow = read_image(tmp_path / "small.png", channels, size)
        torch.testing.assert_close(read_image(deep, channels, size), shallow, rtol=0, atol=2.2 / 255)
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        gray = Image.fromarray(numbers()[..., 0])
        gray.save(tmp_path / "turned.png", exif=exif)
        turned = {
            **{1: lambda a: a, 2: np.fliplr, 3: lambda a: a[::-1, ::-1], 4: np.flipud, 5: np.transpose},
            **{6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].T, 8: np.rot90},
        }[orientation](numbers()[..., 0])
        assert_read_as(tmp_path / "turned.png", turned[..., None] / 65535)


def test_a_domain_far_below_its_range_is_said_by_check_and_by_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = write_folder(tmp_path / "d")
    for split, number in ((split, number) for split in ("train", "val") for number in range(3)):
        (root / split / "depth").mkdir(exist_ok=True)
        png(root / split / "depth" / f"{number}.png", numbers(bits=12) // (number + 1), GRAY)
    brightest = round(int(numbers(bits=12).max()) / 257)  # in 8 bits, 16 at most
    sentence = f"no value above {brightest} of 255: nearly black as they are"
    with pytest.warns(RuntimeWarning, match=sentence):
        open_dataset("folder", split="train", data_dir=root, uni=["sketch"], image_size=SIZE)
    notes = [note for note in check_folder(root).notes if "no value above" in note]
    assert [note.partition(":")[0] for note in notes] == ["train/depth", "val/depth"]
    drawing = Image.new("L", (128, 128))
    drawing.putpixel((40, 70), 255)  # its average is dim
    drawing.save(root / "train" / "depth" / "1.png")
    notes = [note for note in check_folder(root).notes if "no value above" in note]
    assert [note.partition(":")[0] for note in notes] == ["val/depth"]


@pytest.mark.parametrize("kind", [RGB, RGBA])
def test_halves_keep_what_is_below_eight_bits(tmp_path: Path, kind: int) -> None:
    """0x12ff is rounded to 0x13: to look at the proportions must not decode the file at eight bits."""
    values = np.full((SIZE, 2 * SIZE, CHANNELS[kind]), 0x12FF, dtype=np.uint16)
    values[:, :, 3:] = 0xFFFF
    path = png(tmp_path / "joined.png", values, kind)
    assert all((read_pixels(path, 3, SIZE, part) == 0x13).all() for part in ("left", "right"))


@pytest.mark.parametrize("orientation", [3, 6])
def test_tiff_files_in_colour_are_turned(tmp_path: Path, orientation: int) -> None:
    values = numbers(3)
    data = values.astype("<u2").tobytes()
    path = tiff(tmp_path / "turned.tif", data, 16, 2, channels=3, orientation=orientation)
    assert_read_as(path, np.rot90(values, 2 if orientation == 3 else -1).copy() / 65535)
