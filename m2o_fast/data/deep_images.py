"""Images with more than 8 bits per channel, at their full depth: Pillow keeps the upper byte of most of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from PIL.ExifTags import Base as Tag

from m2o_fast.data.fit import Box
from m2o_fast.data.turned import shown
from m2o_fast.errors import UserError

_WHITE_IS_ZERO = 0
_SIXTEEN_BIT = 65535.0
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # Rec. 601

# What Pillow calls the pixels of a file with 16 bits per channel, and a name under which it hands over the bytes that
# it leaves out otherwise: the other byte order; for gray with alpha (high, low, high, low) four channels of 8 bits.
_LOWER_BYTES: dict[str | None, str] = {
    "RGB;16B": "RGB;16L",
    "RGB;16L": "RGB;16B",
    "RGBA;16B": "RGBA;16L",
    "RGBA;16L": "RGBA;16B",
    "RGB;16N": "RGB;16B" if sys.byteorder == "little" else "RGB;16L",
    "RGBA;16N": "RGBA;16B" if sys.byteorder == "little" else "RGBA;16L",
    "LA;16B": "RGBA",
}
_GRAY_WITH_ALPHA = "LA;16B"


def raw_mode(image: Any) -> str | None:
    """What Pillow calls the pixels as the opened file holds them; ``None`` where its parts differ, or once decoded."""
    modes = {_mode_of(tile.args) for tile in getattr(image, "tile", ())}
    return modes.pop() if len(modes) == 1 else None


def _mode_of(arguments: tuple[Any, ...] | str | None) -> str | None:
    """What a decoder is told: the mode alone, or first of all."""
    return arguments if arguments is None or isinstance(arguments, str) else str(arguments[0])


def is_deep_gray(image: Any) -> bool:
    """Whether an opened file holds gray with alpha at 16 bits each, which Pillow calls coloured."""
    return raw_mode(image) == _GRAY_WITH_ALPHA


def deep_reader(image: Any) -> tuple[Callable[[Box], np.ndarray], Box] | None:
    """How to read an opened image file at full depth.

    Args:
        image: As opened, not decoded yet.

    Returns:
        A function from a box, of the image as its EXIF orientation shows it, to its pixels, what is transparent on
        black: float32 ``[H, W]`` or ``[H, W, 3]``, in [0, 1] for all images that are as they should be; and all of it
        as a box. ``None`` for an image of 8 bits per channel.

    Raises:
        UserError: For whole numbers whose range the file does not tell.
    """
    if image.mode == "F":
        part, whole = shown(image)
        return lambda box: np.asarray(part(box), dtype=np.float32), whole
    if image.mode.startswith("I"):
        return _gray(image)
    mode = raw_mode(image)
    return _colored(image, mode) if mode in _LOWER_BYTES else None


def luminance(values: np.ndarray) -> np.ndarray:
    """float32 ``[H, W]`` of a colour image ``[H, W, 3]``; a gray one as it is."""
    return values if values.ndim == 2 else values @ _LUMINANCE


def _gray(image: Any) -> tuple[Callable[[Box], np.ndarray], Box]:
    tags = getattr(image, "tag_v2", {})
    if image.mode == "I" and image.format == "TIFF" or "S" in image.mode:
        bits = tags.get(Tag.BitsPerSample, (32,))[0]
        raise UserError(
            f"{image.fp.name}: whole numbers of {bits} bits with a sign, whose range from black to white is not clear; "
            "convert the image to 8 or 16 bits without a sign"
        )
    highest = 2.0 ** tags[Tag.BitsPerSample][0] - 1 if Tag.BitsPerSample in tags else _SIXTEEN_BIT
    inverted = tags.get(Tag.PhotometricInterpretation) == _WHITE_IS_ZERO
    transparent = image.info.get("transparency")
    part, whole = shown(image)

    def read(box: Box) -> np.ndarray:
        numbers = np.asarray(part(box))
        values = numbers.astype(np.float32) / np.float32(highest)
        if inverted:
            values = 1 - values
        if isinstance(transparent, int):
            values[numbers == transparent] = 0
        return values

    return read, whole


def _colored(image: Any, mode: str | None) -> tuple[Callable[[Box], np.ndarray], Box]:
    transparent = image.info.get("transparency")
    lower_part, _ = shown(_undecoded_copy(image, _LOWER_BYTES[mode]))
    higher_part, whole = shown(image)

    def read(box: Box) -> np.ndarray:
        high, low = np.asarray(higher_part(box)), np.asarray(lower_part(box))
        if mode == _GRAY_WITH_ALPHA:
            numbers = low[..., 0::2].astype(np.uint16) << 8 | low[..., 1::2]
            gray, alpha = (numbers / np.float32(_SIXTEEN_BIT)).astype(np.float32).transpose(2, 0, 1)
            return gray * alpha
        numbers = high.astype(np.uint16) << 8 | low
        values = numbers.astype(np.float32) / np.float32(_SIXTEEN_BIT)
        if values.shape[-1] == 4:
            return values[..., :3] * values[..., 3:]
        if isinstance(transparent, Sequence) and len(transparent) == 3:
            values[(numbers == np.array(transparent)).all(-1)] = 0
        return values

    return read, whole


def _undecoded_copy(image: Any, mode: str) -> Any:
    """The same file opened again, its pixels to be taken as ``mode``."""
    source = BytesIO(image.fp.getvalue()) if isinstance(image.fp, BytesIO) else image.fp.name
    copy: Any = Image.open(source, formats=[image.format])
    copy.tile = [
        tile._replace(args=mode if isinstance(tile.args, str) else (mode, *tile.args[1:])) for tile in copy.tile
    ]
    return copy
