"""How images of any aspect ratio become squares."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

#: Both sides are scaled to the size; the largest centred square is; or the whole image is, with margins around it.
Fit = Literal["stretch", "crop", "pad"]


def squared(image: Image.Image, size: int, fit: Fit, *, is_label_map: bool = False) -> Image.Image:
    """An image as a square. Images of one size are cut, scaled and padded alike, label maps and photographs too.

    Args:
        image: Of mode L, RGB or F; a label map of mode L, P or RGB.
        size: Side length S of the result in pixels.
        fit: ``"stretch"``: both sides are scaled to S. ``"crop"``: the largest centred square is. ``"pad"``: the longer
            side is, and the shorter one alike; margins mirror the image, or repeat its edge where it is too small.
        is_label_map: Scale by taking the nearest pixel and pad with 0, which is void. Default: scale with an
            antialiased bilinear filter.

    Returns:
        The square; an image that is one of this size, or becomes one without scaling, keeps its values.
    """
    inner = (size, size)
    if fit == "crop":
        image = _centre(image)
    elif fit == "pad":
        longest = max(image.size)
        width, height = (max(1, (2 * side * size + longest) // (2 * longest)) for side in image.size)
        inner = (width, height)
    image = image.resize(inner, Image.Resampling.NEAREST if is_label_map else Image.Resampling.BILINEAR)
    return image if inner == (size, size) else _with_margins(image, size, is_label_map)


def _centre(image: Image.Image) -> Image.Image:
    """The largest square in the middle; what cannot be cut off equally is cut off on the right or below."""
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    return image.crop((left, top, left + side, top + side))


def _with_margins(image: Image.Image, size: int, is_label_map: bool) -> Image.Image:
    values = np.asarray(image)
    missing = [size - side for side in values.shape[:2]]
    margins = [(gap // 2, gap - gap // 2) for gap in missing] + [(0, 0)] * (values.ndim - 2)
    if is_label_map:
        return Image.fromarray(np.pad(values, margins))
    mirrored = all(after < side for (_, after), side in zip(margins, values.shape, strict=True))
    return Image.fromarray(np.pad(values, margins, mode="reflect" if mirrored else "edge"))
