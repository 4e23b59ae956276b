"""Files of label maps: class numbers, or the colours of :func:`m2o_fast.labels.palette`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from m2o_fast.data.fit import Box, Fit, size_of, squared
from m2o_fast.data.images import InMemory, opened, shown_size_of
from m2o_fast.data.parallel import room_for_pixels
from m2o_fast.data.turned import shown
from m2o_fast.errors import UserError
from m2o_fast.labels import draw_labels, read_labels

_NEAR = 16 / 255  # beyond what JPEG does to flat areas; a tenth of the RGB cube is nearer than that to ADE20K's colours


def read_class_numbers(
    path: Path | InMemory, classes: int, size: int | None, photo: Path | None = None, fit: Fit = "stretch"
) -> np.ndarray:
    """A file with a class number per pixel, scaled to ``size`` x ``size`` by taking the nearest pixel.

    Args:
        path: A gray 8-bit image, or one with a palette, whose colours are ignored; turned as its EXIF orientation says.
        classes: Number of classes, void included.
        size: Side length S of the result in pixels; ``None``: height and width stay.
        photo: The image that it labels, which must have the same width and height.
        fit: What becomes of it if it is not square, see :func:`m2o_fast.data.fit.squared`; margins are void, 0.

    Returns:
        uint8 ``[S, S]`` in [0, classes).

    Raises:
        UserError: For a file that cannot be read, another mode, a number out of range or another size than the photo's;
            the message begins with the path.
    """
    with opened(path) as image:
        if image.mode not in ("L", "P"):
            raise UserError(
                f"{path}: mode {image.mode}, but a label map holds class numbers: an 8-bit image of mode L or P"
            )
        wanted = None if photo is None else _in_words(shown_size_of(photo))
        with room_for_pixels(image.width * image.height):
            part, whole = shown(image)
            if photo is not None and wanted != (found := _in_words(size_of(whole))):
                raise UserError(f"{path}: {found} pixels, but {photo.name} has {wanted}")
            if (largest := int(np.max(image.getextrema()))) >= classes:
                raise UserError(f"{path}: class {largest}, but classes are 0 to {classes - 1}")
            return np.array(_resized(part, whole, size, fit), dtype=np.uint8)


def _in_words(size: tuple[int, int]) -> str:
    return "{} x {}".format(*size)


def read_label_map(path: Path | InMemory, classes: int, size: int | None, fit: Fit = "stretch") -> Tensor:
    """A label map from a file with class numbers (mode L or P) or with palette colours (any other mode).

    Args:
        path: The image file.
        classes: Number of classes, void included.
        size: Side length S of the result in pixels, to which the nearest pixels are taken; ``None``: height and width
            stay.
        fit: What becomes of a map that is not square, see :func:`m2o_fast.data.fit.squared`.

    Returns:
        int64 ``[1, S, S]`` in [0, classes); a colour that is not in the palette counts as the nearest one.

    Raises:
        UserError: For a file that cannot be read, a class number out of range, or an image that is no label map: most
            of its pixels are far from all colours of the palette.
    """
    with opened(path) as image:
        if image.mode not in ("L", "P"):
            part, whole = shown(image)
            colors = _resized(lambda box: part(box).convert("RGB"), whole, size, fit)
            return _from_colors(path, colors, classes)
    return torch.from_numpy(read_class_numbers(path, classes, size, fit=fit)).to(torch.int64)[None]


def _resized(part: Callable[[Box], Image.Image], whole: Box, size: int | None, fit: Fit) -> Image.Image:
    if size is None:
        return part(whole)
    (resized,) = squared(lambda box: [part(box)], whole, size, fit, is_label_map=True)
    return resized


def _from_colors(path: Path | InMemory, image: Image.Image, classes: int) -> Tensor:
    colors = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1)[None] / 255
    labels = read_labels(colors, "palette", classes)
    far = (draw_labels(labels, "palette", classes) - colors).norm(dim=1) > _NEAR
    if (share := far.float().mean()) > 0.5:
        raise UserError(
            f"{path}: no label map: {share:.0%} of its pixels have none of the palette's {classes} colours; "
            "give class numbers (mode L or P) or palette colours, or say with --from what the image is"
        )
    return labels
