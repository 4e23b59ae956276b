"""Image files in and out, and grids of images."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from m2o_fast.data.deep_images import deep_reader, is_deep_gray, luminance
from m2o_fast.data.fit import LARGE, Box, Fit, Read, check_fit, size_of, squared, strips
from m2o_fast.data.parallel import room_for_pixels
from m2o_fast.data.turned import as_shown, shown, shown_size
from m2o_fast.errors import UserError
from m2o_fast.files import replacing

#: Suffixes of the files that are taken for images, in lower case.
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".pbm", ".pgm", ".pnm", ".ppm"),
)

# Named one by one, so that no file can reach a decoder that starts another program (EPS) or is rarely used and tested.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM")
_MODES = {1: "L", 3: "RGB"}
_GAP, _LABEL_WIDTH = 2, 150  # pixels
_DIM = 64  # of 255
_NOTE = "m2o_fast"


class InMemory(NamedTuple):
    """An image file that lies in memory: what takes the path of an image takes this, too.

    Attributes:
        name: What errors call it.
        data: All of its bytes.
    """

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


#: What of an image file is meant: all of it, or a half of two images that lie side by side in it.
Part = Literal["whole", "left", "right"]


def read_image(path: str | Path | InMemory, channels: int, size: int | None, fit: Fit = "stretch") -> Tensor:
    """One image file as the networks take it.

    - Of an animation the first frame; turned as its EXIF orientation says; colour profiles are ignored.
    - Transparent parts become black, the background of the digits.
    - ``channels=1`` takes the luminance (Rec. 601) of a colour image, ``channels=3`` repeats a gray one.
    - Palettes, CMYK and 1-bit images are converted to 8 bit per channel. Images of up to 16 bit per channel keep their
      precision; gray floating-point images must be in [0, 1].
    - An image of another size is scaled to ``size`` x ``size`` with an antialiased bilinear filter, stretched unless
      ``fit`` says otherwise; one of that size keeps its values exactly.

    Args:
        path: A PNG, JPEG, WebP, BMP, GIF, TIFF or PBM/PGM/PPM file.
        channels: 1 or 3.
        size: Side length S of the result in pixels; ``None``: height and width stay.
        fit: What becomes of an image that is not square, see :func:`m2o_fast.data.fit.squared`.

    Returns:
        float32 ``[1, channels, S, S]``, or ``[1, channels, H, W]``, in [-1, 1].

    Raises:
        UserError: If the file is missing, empty, damaged, not an image or too large; the message names it.
        ValueError: If ``channels`` is neither 1 nor 3, ``size`` no size, or ``fit`` another word.
    """
    return read_sized(path, channels, size, fit)[0]


def read_sized(
    path: str | Path | InMemory, channels: int, size: int | None, fit: Fit = "stretch"
) -> tuple[Tensor, tuple[int, int]]:
    """The same, and the width and height of the image as it is shown."""
    file = path if isinstance(path, InMemory) else Path(path)
    values, shown = _read_values(file, channels, size, "whole", fit)
    values = np.broadcast_to(values, (1, channels, *values.shape[1:])) * np.float32(2)
    return torch.from_numpy(np.ascontiguousarray(np.subtract(values, np.float32(1), out=values))), shown


def read_pixels(path: str | Path, channels: int, size: int, part: Part = "whole", fit: Fit = "stretch") -> np.ndarray:
    """The same in 8 bit: uint8 ``[channels, S, S]``. What has more bits is rounded, 8-bit images keep their values.

    A half is that of the image as it is shown, which must be twice as wide as high. ``fit`` says what becomes of images
    that are not square, see :func:`m2o_fast.data.fit.squared`.
    """
    planes = np.rint(_read_values(Path(path), channels, size, part, fit)[0] * 255).astype(np.uint8)
    return planes if len(planes) == channels else planes.repeat(channels, axis=0)


def about_range(largest: int) -> str | None:
    """What to say of images whose largest value, of 255, is far below the range of their files; else ``None``."""
    if largest >= _DIM:
        return None
    return (
        f"no value above {largest} of 255: nearly black as they are; if their files use fewer bits than they have room "
        "for, scale the images to the whole range"
    )


def largest_value(path: Path) -> int:
    """The largest value of an image file in 8 bits, at the file's own size.

    Raises:
        UserError: As :func:`opened`.
    """
    with opened(path) as image, room_for_pixels(image.width * image.height):
        read, box, highest = _reader(image, 3)
        largest = max(float(np.asarray(plane).max()) for strip in strips(box) for plane in read(strip))
        return round(largest / highest * 255)


def is_gray(path: str | Path) -> bool | None:
    """Whether an image file holds gray levels alone, by its header or palette; ``None`` if it cannot be read."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.mode != "P":
                gray = image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
                return gray or is_deep_gray(image)
            colors = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
            return bool((colors == colors[:, :1]).all())
    except Exception:  # Pillow's decoders raise errors of nearly every kind for damaged files
        return None


def _read_values(
    path: Path | InMemory, channels: int, size: int | None, part: Part = "whole", fit: Fit = "stretch"
) -> tuple[np.ndarray, tuple[int, int]]:
    """float32 ``[1 or channels, S, S]``, or of the image's own size, in [0, 1]; and its width and height."""
    if channels not in _MODES:
        raise ValueError(f"channels must be 1 or 3, got {channels}")
    if size is not None and not (isinstance(size, int | np.integer) and size > 0):
        raise ValueError(f"size must be a whole number from 1 on, or None, got {size!r:.40}")
    check_fit(fit)
    with opened(path) as image:
        full = None
        pixels = image.width * image.height
        if size is not None and pixels > LARGE:
            stored, side = image.size, 2 * size if part == "whole" else 4 * size
            if image.draft(None, (side, side)):  # a JPEG file can be decoded at a half, a quarter or an eighth
                full = as_shown(image, stored)
            if not image.info.get("progressive"):  # its coefficients are in memory, all of them
                pixels = image.width * image.height
        with room_for_pixels(pixels):
            read, whole, highest = _reader(image, channels)
            width, height = full or size_of(whole)
            if part != "whole" and width != 2 * height:
                raise UserError(f"{path}: {width} x {height} pixels; two joined images are twice as wide as high")
            box, proportions = box_of(whole, part), size_of(box_of((0, 0, width, height), part))
            planes = read(box) if size is None else squared(read, box, size, fit, proportions)
            values = np.dstack([np.asarray(plane, dtype=np.float32) for plane in planes]) / np.float32(highest)
    if highest == 1 and not (np.isfinite(values).all() and 0 <= values.min() and values.max() <= 1):
        raise UserError(f"{path}: the values of a floating-point image must be in [0, 1]; convert it")
    return values.transpose(2, 0, 1), (width, height)


@contextmanager
def opened(path: Path | InMemory) -> Iterator[Image.Image]:
    """An image file of a known format and not too large, to be decoded within the ``with`` block.

    Raises:
        UserError: For whatever goes wrong in opening or decoding; the message begins with the path.
    """
    if isinstance(path, Path):
        _check_is_file(path)
    try:
        # Not by its path: Pillow 13 would map it into memory, and take a turned TIFF file for one of the other width.
        with _file(path) as file, Image.open(file, formats=_FORMATS) as image:
            if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise UserError(
                    f"{path}: {image.width} x {image.height} pixels are too many, {Image.MAX_IMAGE_PIXELS} at most; "
                    "make the image smaller"
                )
            yield image
    except (UserError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(
            f"{path}: the image has too many pixels, more than {Image.MAX_IMAGE_PIXELS}; make it smaller"
        ) from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: {_about_unidentified(path)}") from None
    except PermissionError:
        raise UserError(f"{path}: no permission to read the file") from None
    except Exception as error:  # Pillow's decoders raise errors of nearly every kind for damaged files
        if isinstance(error, OSError) and error.errno:  # the system's own
            raise UserError(f"{path}: cannot be read ({error.strerror}); the file may be sound") from error
        raise UserError(f"{path}: the image is damaged or cut off ({error}); replace or remove it") from error


def _file(path: Path | InMemory) -> BinaryIO:
    if isinstance(path, Path):
        return path.open("rb")
    file = BytesIO(path.data)
    file.name = path.name  # as a file on a disk has one
    return file


def _about_unidentified(path: Path | InMemory) -> str:
    """What is wrong with a file that Pillow does not open, by its first bytes."""
    with _file(path) as file:
        beginning = file.read(16).ljust(16, b"\0")
    for name in _FORMATS:
        if (begins := Image.OPEN[name][1]) and begins(beginning) is True:
            return (
                f"begins as a {name} file, but is damaged or of a kind that cannot be read; convert it to an 8-bit PNG"
            )
    return f"not an image of a known format; give one of {', '.join(_FORMATS)}"


def _check_is_file(path: Path) -> None:
    if not path.exists():
        raise UserError(f"{path}: no such image file")
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path} is a folder; an image file is needed")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is not a regular file; an image file is needed")
    if status.st_size == 0:
        raise UserError(f"{path}: the file is empty; replace or remove it")


def shown_size_of(path: Path | InMemory) -> tuple[int, int]:
    """Width and height of an image file as its EXIF orientation turns it, from its head."""
    with opened(path) as image, room_for_pixels(image.width * image.height):
        return shown_size(image)


def _reader(image: Image.Image, channels: int) -> tuple[Read, Box, int]:
    """How to read an opened image as it is shown, all of it as a box, and what its largest value would be."""
    if (deep := deep_reader(image)) is not None:
        read_deep, whole = deep

        def planes(box: Box) -> list[Image.Image]:
            values = read_deep(box) if channels == 3 else luminance(read_deep(box))
            return [Image.fromarray(plane) for plane in np.ascontiguousarray(np.atleast_3d(values).transpose(2, 0, 1))]

        return planes, whole, 1
    cut, whole = shown(image)
    return (lambda box: [_on_black(cut(box), _MODES[channels])]), whole, 255


def _on_black(image: Image.Image, mode: str) -> Image.Image:
    """In 8 bits per channel, what is transparent on black."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
        image = image.convert("RGB")
    elif image.mode not in ("L", "RGB", "1"):
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def box_of(whole: Box, part: Part) -> Box:
    """The part of an image, as it is shown, that is meant."""
    left, top, right, bottom = whole
    half = (left + right) // 2
    return {"whole": whole, "left": (left, top, half, bottom), "right": (half, top, right, bottom)}[part]


def colors_of(path: Path, part: Part) -> int:
    """How many colours an image file has in 8 bits, at its own size; 0 if all are gray.

    Raises:
        UserError: As :func:`opened`.
    """
    found = np.zeros(0, dtype=np.int32)
    is_colored = False
    with opened(path) as image, room_for_pixels(image.width * image.height):
        cut, whole = shown(image)
        for strip in strips(box_of(whole, part)):
            pixels = np.asarray(cut(strip).convert("RGB")).reshape(-1, 3).astype(np.int32)
            is_colored = is_colored or bool((pixels != pixels[:, :1]).any())
            found = np.union1d(found, pixels @ np.array([1, 1 << 8, 1 << 16], dtype=np.int32))
    return len(found) if is_colored else 0


def save_image(image: Tensor, path: str | Path, note: str | None = None) -> None:
    """Write an image as an 8-bit PNG. A reader sees the old file or the whole new one; the folder is made if needed.

    Args:
        image: float ``[c, H, W]`` or ``[1, c, H, W]`` with 1 or 3 channels, in [-1, 1]; values beyond are clamped.
        path: A file name that ends in ``.png``.
        note: A text to write into the file, for :func:`note_of`, which tells whole files from others. So one with a
            note is not flushed to the disk, which takes longer than all else of a small file.

    Raises:
        UserError: If the name does not end in ``.png`` or the file cannot be written.
        ValueError: For another shape, whole numbers, or values that are not finite.
    """
    save_picture(to_pillow(image), Path(path), note)


def save_picture(picture: Image.Image, path: Path, note: str | None = None) -> None:
    """The same for an image of Pillow.

    Raises:
        UserError: As :func:`save_image`.
    """
    if path.suffix.lower() != ".png":
        raise UserError(f"{path}: images are written as PNG; give a name that ends in .png")
    content = BytesIO()  # Pillow writes many small parts
    picture.save(content, format="PNG", pnginfo=None if note is None else _noted(note))
    try:
        with replacing(path, flushed=note is None) as file:
            file.write(content.getbuffer())
    except OSError as error:
        raise UserError(f"{path}: cannot write the image ({error.strerror or error})") from error


def note_of(path: Path) -> str | None:
    """The text that :func:`save_image` wrote into a PNG file; ``None`` where there is none, or the file is damaged."""
    try:
        if not path.is_file():  # to open a pipe would wait for ever
            return None
        with path.open("rb") as file, Image.open(file, formats=("PNG",)) as image:
            image.verify()
            return image.info.get(_NOTE)
    except Exception:  # Pillow's decoders raise errors of nearly every kind for damaged files
        return None


def _noted(note: str) -> PngInfo:
    info = PngInfo()
    info.add_text(_NOTE, note)
    return info


def to_pillow(image: Tensor) -> Image.Image:
    """An image in [-1, 1], float ``[c, H, W]`` or ``[1, c, H, W]``, as an 8-bit Pillow image (``L`` or ``RGB``)."""
    planes = image[0] if image.ndim == 4 and image.shape[0] == 1 else image
    if planes.ndim != 3 or planes.shape[0] not in _MODES or planes.numel() == 0:
        raise ValueError(f"an image must be [c, H, W] or [1, c, H, W] with 1 or 3 channels, got {list(image.shape)}")
    if not planes.is_floating_point():
        raise ValueError(f"an image must be floating-point in [-1, 1], got {image.dtype}")
    return pillow_images(planes[None])[0]


def pillow_images(images: Tensor) -> list[Image.Image]:
    """Images in [-1, 1] of one size, float ``[N, c, H, W]`` with 1 or 3 channels, as 8-bit Pillow images.

    Small ones take half the time of as many single ones.

    Raises:
        ValueError: For values that are not finite.
    """
    values = images.detach().to("cpu", torch.float32).numpy()
    if not np.isfinite(values).all():
        raise ValueError("the image has values that are not finite")
    values = values.clip(-1, 1)
    values += 1  # in place: pictures may be large
    values *= np.float32(127.5)
    bytes_ = np.ascontiguousarray(np.rint(values, out=values).astype(np.uint8).transpose(0, 2, 3, 1))
    return [Image.fromarray(image) for image in (bytes_[..., 0] if bytes_.shape[3] == 1 else bytes_)]


def image_grid(*rows: Tensor | Sequence[Tensor], gap: int = _GAP) -> Tensor:
    """Rows of images of one size as one picture.

    Args:
        rows: Each row a tensor ``[n, c, S, S]`` or a sequence of ``[c, S, S]``, in [-1, 1], with 1 or 3 channels; gray
            and coloured images may be mixed, and rows may differ in length.
        gap: Width in pixels of the mid-gray lines around the images; missing images are mid-gray too.

    Returns:
        float32 ``[3, H, W]`` on the CPU.

    Raises:
        ValueError: If there is no image or the sizes differ.
    """
    images = [[image.detach().to("cpu", torch.float32) for image in row] for row in rows]
    shapes = {tuple(image.shape[1:]) for row in images for image in row}
    if len(shapes) != 1 or any(image.ndim != 3 or image.shape[0] not in _MODES for row in images for image in row):
        found = sorted({tuple(image.shape) for row in images for image in row})
        raise ValueError(f"a grid needs images [c, H, W] of one size with 1 or 3 channels, got {found}")
    height, width = shapes.pop()
    columns = max(map(len, images))
    grid = torch.zeros(3, gap + len(images) * (height + gap), gap + columns * (width + gap))
    for i, row in enumerate(images):
        for j, image in enumerate(row):
            top, left = gap + i * (height + gap), gap + j * (width + gap)
            grid[:, top : top + height, left : left + width] = image
    return grid


def labelled_rows(grid: Image.Image, labels: Sequence[str]) -> Image.Image:
    """An :func:`image_grid` with a text on the left of each of its rows."""
    picture = Image.new("RGB", (_LABEL_WIDTH + grid.width, grid.height), "white")
    picture.paste(grid, (_LABEL_WIDTH, 0))
    draw = ImageDraw.Draw(picture)
    row_height = (grid.height - _GAP) / len(labels)
    for i, label in enumerate(labels):
        draw.text((6, _GAP + (i + 0.5) * row_height), label, fill="black", anchor="lm", font_size=11)
    return picture
