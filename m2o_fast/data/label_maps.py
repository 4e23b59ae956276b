"""Files of label maps: class numbers, or the colours of :func:`m2o_fast.labels.palette`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from m2o_fast.data.fit import Fit, squared
from m2o_fast.data.images import InMemory, opened, shown_size_of
from m2o_fast.data.parallel import room_for_pixels
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
        wanted = None if photo is None else shown_size_of(photo)
        with room_for_pixels(image.width * image.height):
            ImageOps.exif_transpose(image, in_place=True)
            if photo is not None and wanted is not None and wanted != image.size:
                raise UserError(
                    f"{path}: {image.width} x {image.height} pixels, but {photo.name} has {wanted[0]} x {wanted[1]}"
                )
            if (largest := int(np.asarray(image).max())) >= classes:
                raise UserError(f"{path}: class {largest}, but classes are 0 to {classes - 1}")
            return np.array(_resized(image, size, fit), dtype=np.uint8)


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
            colors = ImageOps.exif_transpose(image).convert("RGB")
            return _from_colors(path, _resized(colors, size, fit), classes)
    return torch.from_numpy(read_class_numbers(path, classes, size, fit=fit)).to(torch.int64)[None]


def _resized(image: Image.Image, size: int | None, fit: Fit = "stretch") -> Image.Image:
    if size is None:
        return image
    (resized,) = squared(lambda box: [image.crop(box)], (0, 0, *image.size), size, fit, is_label_map=True)
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
