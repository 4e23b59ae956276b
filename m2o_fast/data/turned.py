"""Images as their EXIF orientation shows them, turned part by part: nothing is in memory twice."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image
from PIL.ExifTags import Base as Tag

from m2o_fast.data.fit import Box

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXCHANGED = (5, 6, 7, 8)  # width is height
_FROM_RIGHT, _FROM_BELOW = (2, 3, 7, 8), (3, 4, 6, 7)  # an axis of the file is counted from its end


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened image as it is shown; a PNG file may be decoded to know."""
    tags = getattr(image, "tag_v2", {})  # of TIFF files Pillow 13 exchanges the sizes, older ones do not
    return as_shown(image, (tags[Tag.ImageWidth], tags[Tag.ImageLength]) if tags else image.size)


def as_shown(image: Image.Image, size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of what the file of an opened image holds, exchanged where the orientation says so."""
    width, height = size
    return (height, width) if orientation(image) in _EXCHANGED else size


def shown(image: Image.Image) -> tuple[Callable[[Box], Image.Image], Box]:
    """Decode an opened image.

    Returns:
        What gives a box of it as it is shown, and all of it as a box.
    """
    image.load()
    turn = orientation(image)  # after decoding: Pillow turns TIFF files itself
    width, height = image.size
    if turn not in _TURNS:
        return image.crop, (0, 0, width, height)

    def part(box: Box) -> Image.Image:
        left, top, right, bottom = box
        if turn in _EXCHANGED:
            left, top, right, bottom = top, left, bottom, right
        if turn in _FROM_RIGHT:
            left, right = width - right, width - left
        if turn in _FROM_BELOW:
            top, bottom = height - bottom, height - top
        return image.crop((left, top, right, bottom)).transpose(_TURNS[turn])

    return part, (0, 0, height, width) if turn in _EXCHANGED else (0, 0, width, height)


def orientation(image: Image.Image) -> int:
    """How an opened image is to be turned, 1 to 8 as EXIF counts; 1: not at all."""
    return image.getexif().get(Tag.Orientation, 1)
