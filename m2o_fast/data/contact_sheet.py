"""A picture of some images of every domain, to be looked at before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from m2o_fast.data.images import image_grid, labelled_rows, to_pillow
from m2o_fast.errors import UserError
from m2o_fast.files import replacing

#: Where it is written unless another file is named.
DEFAULT_SHEET = Path("contact-sheet.png")
#: Side length of its images in pixels.
TILE = 96
#: Images in a row of it.
COLUMNS = 8

_MARK = ("Software", "m2o-fast data check")


def write_contact_sheet(rows: Mapping[str, Sequence[np.ndarray]], path: Path) -> None:
    """Write rows of images with their labels.

    Args:
        rows: label -> uint8 images ``[3, TILE, TILE]``; at least one image.
        path: A file name that ends in ``.png``. An older contact sheet is replaced, nothing else.

    Raises:
        UserError: If another file is in the way, or it cannot be written.
    """
    require_place(path)
    shown = {label: torch.from_numpy(np.stack(images)) / 127.5 - 1 for label, images in rows.items() if len(images)}
    picture = labelled_rows(to_pillow(image_grid(*shown.values())), list(shown))
    mark = PngImagePlugin.PngInfo()
    mark.add_text(*_MARK)
    try:
        with replacing(path) as file:
            picture.save(file, format="PNG", pnginfo=mark)
    except OSError as error:
        raise UserError(f"{path}: cannot write the contact sheet ({error.strerror or error})") from error


def require_place(path: Path) -> None:
    """Raises ``UserError`` where no contact sheet may be written."""
    if path.suffix.lower() != ".png":
        raise UserError(f"{path}: the contact sheet is a PNG; give a name that ends in .png")
    if path.exists() and not _is_contact_sheet(path):
        raise UserError(f"{path} is there already and not a contact sheet; name another file with --sheet")


def _is_contact_sheet(path: Path) -> bool:
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.info.get(_MARK[0]) == _MARK[1]
    except Exception:  # Pillow's decoders raise errors of nearly every kind for damaged files
        return False
