from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from m2o_fast.data.images import image_grid, read_image, read_pixels, save_image
from m2o_fast.errors import UserError

SIZE = 8


def pixels(channels: int = 3, dtype: type = np.uint8, high: int = 256) -> np.ndarray:
    return np.random.default_rng(4).integers(0, high, (SIZE, SIZE, channels), dtype=dtype).squeeze()


def expected(values: np.ndarray) -> torch.Tensor:
    """[H, W] or [H, W, c] in [0, 1] as an image in [-1, 1]."""
    planes = torch.from_numpy(np.asarray(values, dtype=np.float32).reshape(SIZE, SIZE, -1)).permute(2, 0, 1)
    return planes[None] * 2 - 1


def test_what_is_saved_comes_back_exactly(tmp_path: Path) -> None:
    for channels in (1, 3):
        values = expected(pixels(channels).astype(np.float32) / np.float32(255))
        path = tmp_path / "new" / f"{channels}.png"
        save_image(values, path)
        assert Image.open(path).mode == {1: "L", 3: "RGB"}[channels]
        assert torch.equal(read_image(path, channels, SIZE), values)
        save_image(values[0], path)
        assert torch.equal(read_image(path, channels, SIZE), values)
    assert [file.name for file in sorted((tmp_path / "new").iterdir())] == ["1.png", "3.png"]


def test_saving_rounds_and_clamps(tmp_path: Path) -> None:
    save_image(torch.tensor([[[-3.0, 5.0, 0.0, 0.01]]]), tmp_path / "a.png")
    assert np.asarray(Image.open(tmp_path / "a.png")).tolist() == [[0, 255, 128, 129]]


def test_saving_replaces_the_file_in_one_go_and_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_image(torch.zeros(1, 4, 4), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not finite"):
        save_image(torch.full((1, 4, 4), float("nan")), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()
    with pytest.raises(UserError, match=r"a.jpg: images are written as PNG"):
        save_image(torch.zeros(1, 4, 4), tmp_path / "a.jpg")
    with pytest.raises(UserError, match="cannot write the image"):
        save_image(torch.zeros(1, 4, 4), path / "below.png")
    for shape in ((4, 4), (2, 4, 4), (2, 3, 4, 4), (3, 0, 4)):
        with pytest.raises(ValueError, match="1 or 3 channels"):
            save_image(torch.zeros(shape), path)


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("wrong", [{"size": 0}, {"size": 1.5}, {"size": "8"}, {"channels": 2}, {"fit": "padded"}])
def test_a_wrong_argument_is_not_called_damage(tmp_path: Path, wrong: dict[str, object]) -> None:
    """Nor is a mistyped fit taken for another one."""
    Image.new("L", (SIZE, 3)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} must be"):
        read_image(tmp_path / "a.png", **({"channels": 1, "size": SIZE} | wrong))  # type: ignore[arg-type]


def test_whole_numbers_are_not_written_as_white(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be floating-point in .*, got torch.uint8"):
        save_image(torch.full((1, 2, 2), 100, dtype=torch.uint8), tmp_path / "a.png")


def test_gray_and_color_become_each_other(tmp_path: Path) -> None:
    gray, color = pixels(1), pixels(3)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    Image.fromarray(color).save(tmp_path / "color.png")
    assert torch.equal(read_image(tmp_path / "gray.png", 3, SIZE), expected(gray / 255).expand(1, 3, SIZE, SIZE))
    luminance = color @ np.array([0.299, 0.587, 0.114]) / 255
    result = read_image(tmp_path / "color.png", 1, SIZE)
    torch.testing.assert_close(result, expected(luminance), rtol=0, atol=1.1 / 255)


@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_parts_become_black(tmp_path: Path, channels: int) -> None:
    gray, alpha = pixels(1), np.random.default_rng(5).integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
    wanted = expected(gray / 255 * (alpha / 255)).expand(1, channels, SIZE, SIZE)
    Image.fromarray(np.dstack([gray, alpha])).save(tmp_path / "la.png")
    Image.fromarray(np.dstack([gray, gray, gray, alpha])).save(tmp_path / "rgba.png")
    for name in ("la.png", "rgba.png"):
        torch.testing.assert_close(read_image(tmp_path / name, channels, SIZE), wanted, rtol=0, atol=2.1 / 255)


def test_palettes_are_read_with_and_without_transparency(tmp_path: Path) -> None:
    index = pixels(1, high=4)
    palette = [255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 90, 200]
    image = Image.fromarray(index)
    image.putpalette(palette)
    assert image.mode == "P"
    image.save(tmp_path / "p.png")
    image.save(tmp_path / "clear.png", transparency=3)
    image.save(tmp_path / "p.gif")
    colors = np.array(palette).reshape(4, 3) / 255
    assert torch.equal(read_image(tmp_path / "p.png", 3, SIZE), expected(colors[index]))
    assert torch.equal(read_image(tmp_path / "p.gif", 3, SIZE), expected(colors[index]))
    colors[3] = 0
    assert torch.equal(read_image(tmp_path / "clear.png", 3, SIZE), expected(colors[index]))


def test_one_bit_and_floating_point(tmp_path: Path) -> None:
    bits = pixels(1, high=2)
    Image.fromarray(bits * 255).convert("1").save(tmp_path / "1.png")
    assert torch.equal(read_image(tmp_path / "1.png", 1, SIZE), expected(bits))
    deep = pixels(1, np.uint16, 65536)
    Image.fromarray((deep / 65535).astype(np.float32)).save(tmp_path / "f.tif")
    torch.testing.assert_close(read_image(tmp_path / "f.tif", 1, SIZE), expected(deep / 65535))
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(tmp_path / "n.tif")
    with pytest.raises(UserError, match=r"n.tif: the values of a floating-point image must be in \[0, 1\]"):
        read_image(tmp_path / "n.tif", 1, SIZE)


def test_jpeg_gray_color_and_cmyk(tmp_path: Path) -> None:
    color = np.zeros((SIZE, SIZE, 3), dtype=np.uint8) + np.array([200, 40, 90], dtype=np.uint8)
    image = Image.fromarray(color)
    for mode in ("RGB", "CMYK"):
        image.convert(mode).save(tmp_path / f"{mode}.jpg", quality=98)
        result = read_image(tmp_path / f"{mode}.jpg", 3, SIZE)
        torch.testing.assert_close(result, expected(color / 255), rtol=0, atol=6 / 255)
    image.convert("L").save(tmp_path / "L.jpg", quality=98)
    assert read_image(tmp_path / "L.jpg", 3, SIZE).shape == (1, 3, SIZE, SIZE)


def test_the_orientation_of_a_photo_is_applied(tmp_path: Path) -> None:
    gray = pixels(1)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(gray).save(tmp_path / "turned.png", exif=exif)
    assert torch.equal(read_image(tmp_path / "turned.png", 1, SIZE), expected(np.rot90(gray, -1).copy() / 255))


def test_other_sizes_are_stretched_and_antialiased(tmp_path: Path) -> None:
    stripes = np.zeros((64, 128), dtype=np.uint8)
    stripes[:, ::2] = 254
    for name, values in (("8.png", stripes), ("16.png", stripes.astype(np.uint16) * 257)):
        Image.fromarray(values).save(tmp_path / name)
        result = read_image(tmp_path / name, 1, SIZE)
        torch.testing.assert_close(result, torch.full((1, 1, SIZE, SIZE), -1 / 255), rtol=0, atol=6 / 255)
    assert read_image(tmp_path / "8.png", 3, 256).shape == (1, 3, 256, 256)


def test_files_that_are_no_image_are_named(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "ok.png")
    whole = (tmp_path / "ok.png").read_bytes()
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "head.png").write_bytes(whole[:20])
    (tmp_path / "flip.png").write_bytes(whole[:60] + bytes(40) + whole[100:])
    (tmp_path / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    os.mkfifo(tmp_path / "pipe.png")
    tags = {256: 2, 257: 2, 258: 64, 259: 1, 262: 1, 273: 134, 277: 1, 278: 2, 279: 32, 339: 3}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    (tmp_path / "doubles.tif").write_bytes(
        b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + struct.pack("<4d", 0, 0.5, 0.5, 1)
    )
    cases = {
        "empty.png": "the file is empty; replace or remove it",
        "text.png": "not an image of a known format; give one of PNG",
        "script.eps": "not an image of a known format",
        "cut.png": r"damaged or cut off \(.+\); replace or remove it",
        "head.png": "damaged",
        "doubles.tif": "begins as a TIFF file, but is damaged or of a kind that cannot be read; convert it to an 8-bit",
        "flip.png": "damaged",
        "absent.png": "no such image file",
        "pipe.png": "not a regular file",
    }
    for name, message in cases.items():
        with pytest.raises(UserError, match=message) as error:
            read_image(tmp_path / name, 3, SIZE)
        assert str(tmp_path / name) in str(error.value)
    with pytest.raises(UserError, match="is a folder; an image file is needed"):
        read_image(tmp_path, 3, SIZE)
    with pytest.raises(ValueError, match="channels must be 1 or 3, got 4"):
        read_image(tmp_path / "ok.png", 4, SIZE)


@pytest.mark.parametrize("limit", [40, 63])  # Pillow itself raises beyond twice its limit and warns beyond it
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    Image.fromarray(np.zeros((10, 10), dtype=np.uint8)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UserError, match="bomb.png: .*too many"):
        read_image(tmp_path / "bomb.png", 1, SIZE)


def test_a_grid_puts_gray_and_colored_images_in_their_places() -> None:
    gray, color = torch.rand(2, 1, 4, 5), torch.rand(3, 3, 4, 5)
    grid = image_grid(gray, list(color), gap=2)
    assert grid.shape == (3, 2 + 2 * 6, 2 + 3 * 7) and grid.dtype == torch.float32
    assert torch.equal(grid[:, 2:6, 9:14], gray[1].expand(3, -1, -1))
    assert torch.equal(grid[:, 8:12, 16:21], color[2])
    inside = gray.sum() * 3 + color.sum()
    torch.testing.assert_close(grid.sum(), inside)  # lines and missing images are 0, mid-gray
    for rows in ((), (torch.zeros(0, 3, 4, 4),), (gray, torch.zeros(1, 3, 4, 4)), (torch.zeros(2, 2, 4, 4),)):
        with pytest.raises(ValueError, match="a grid needs images"):
            image_grid(*rows)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO, errno.ESTALE])
def test_an_error_of_the_system_is_not_called_damage(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (4, 4)).save(path)

    def fails(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr("PIL.Image.open", fails)
    with pytest.raises(UserError) as error:
        read_pixels(path, 1, 4)
    assert str(error.value) == f"{path}: cannot be read ({os.strerror(code)}); the file may be sound"
