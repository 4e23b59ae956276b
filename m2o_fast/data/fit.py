"""How images of any aspect ratio become squares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
from PIL import Image

#: Both sides are scaled to the size; the largest centred square is; or the whole image is, with margins around it.
Fit = Literal["stretch", "crop", "pad"]

#: Left, top, right and bottom, in pixels of an image as it is shown.
Box = tuple[int, int, int, int]

#: The planes of a box of an image, each of mode L, RGB or F; of label maps also P.
Read = Callable[[Box], Sequence[Image.Image]]

#: Pixels of an image from which copies of it, one for each conversion, would fill the memory.
LARGE = 1 << 24
_STRIP = 1 << 20  # pixels of a large one that are converted at a time


def check_fit(fit: str) -> None:
    """Raises ``ValueError`` for none of :data:`Fit`, which would be taken for ``"stretch"``."""
    if fit not in get_args(Fit):
        raise ValueError(f"fit must be one of {', '.join(get_args(Fit))}, got {fit!r:.40}")


def squared(
    read: Read,
    box: Box,
    size: int,
    fit: Fit,
    proportions: tuple[int, int] | None = None,
    *,
    is_label_map: bool = False,
) -> list[Image.Image]:
    """A box of an image as a square. Boxes of one size are treated alike, be they of label maps or photographs.

    Args:
        read: The planes of any part of the image.
        box: What of the image is meant.
        size: Side length S of the result in pixels.
        fit: ``"stretch"``: both sides are scaled to S. ``"crop"``: the largest centred square is. ``"pad"``: the longer
            side is, and the shorter one alike; margins mirror the image, or repeat its edge where it is too small.
        proportions: Width and height that stand for those of the box, which rounding changes where a file was decoded
            at a part of its size.
        is_label_map: Scale by taking the nearest pixel and pad with 0, which is void. Default: scale with an
            antialiased bilinear filter.

    Returns:
        The planes of the square; those that are one of this size, or become one without scaling, keep their values.
    """
    inner = (size, size)
    if fit == "crop":
        box = _centre(box)
    elif fit == "pad":
        proportions = proportions or size_of(box)
        inner = size_of(padded_box(proportions, size))
    planes = _scaled(read, box, inner, Image.Resampling.NEAREST if is_label_map else Image.Resampling.BILINEAR)
    return planes if inner == (size, size) else [_with_margins(plane, size, is_label_map) for plane in planes]


def padded_box(proportions: tuple[int, int], size: int) -> Box:
    """Where an image of these proportions lies in its square with margins."""
    longest = max(proportions)
    width, height = (max(1, (2 * side * size + longest) // (2 * longest)) for side in proportions)
    left, top = (size - width) // 2, (size - height) // 2
    return left, top, left + width, top + height


def size_of(box: Box) -> tuple[int, int]:
    """Width and height."""
    left, top, right, bottom = box
    return right - left, bottom - top


def strips(box: Box) -> list[Box]:
    """A box, or its parts from top to bottom where it is large."""
    left, top, right, bottom = box
    rows = max(1, _STRIP // (right - left)) if (right - left) * (bottom - top) > LARGE else bottom - top
    return [(left, row, right, min(row + rows, bottom)) for row in range(top, bottom, rows)]


def _scaled(read: Read, box: Box, size: tuple[int, int], filter_: Image.Resampling) -> list[Image.Image]:
    """A large one is scaled across strip by strip, as every row is one of its own, and then down."""
    if [box] == (parts := strips(box)):
        return [plane if plane.size == size else plane.resize(size, filter_) for plane in read(box)]
    narrow: list[Image.Image] = []
    for strip in parts:
        planes = read(strip)
        narrow = narrow or [Image.new(plane.mode, (size[0], size_of(box)[1])) for plane in planes]
        for whole, plane in zip(narrow, planes, strict=True):
            whole.paste(plane.resize((size[0], plane.height), filter_), (0, strip[1] - box[1]))
    return [plane.resize(size, filter_) for plane in narrow]


def _centre(box: Box) -> Box:
    """The largest square in the middle; what cannot be cut off equally is cut off on the right or below."""
    width, height = size_of(box)
    side = min(width, height)
    left, top = box[0] + (width - side) // 2, box[1] + (height - side) // 2
    return (left, top, left + side, top + side)


def _with_margins(image: Image.Image, size: int, is_label_map: bool) -> Image.Image:
    values = np.asarray(image)
    missing = [size - side for side in values.shape[:2]]
    margins = [(gap // 2, gap - gap // 2) for gap in missing] + [(0, 0)] * (values.ndim - 2)
    if is_label_map:
        return Image.fromarray(np.pad(values, margins))
    mirrored = all(after < side for (_, after), side in zip(margins, values.shape, strict=True))
    return Image.fromarray(np.pad(values, margins, mode="reflect" if mirrored else "edge"))
