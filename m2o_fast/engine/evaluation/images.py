"""Images that were made elsewhere, in a folder or as a tensor, and what they are compared with."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from m2o_fast.data.cache import named
from m2o_fast.data.fit import Fit
from m2o_fast.data.images import opened, read_pixels
from m2o_fast.data.layout import list_images
from m2o_fast.data.near_misses import nearly_pairs
from m2o_fast.engine.evaluation.real import RealImages
from m2o_fast.errors import UserError

_CHANNELS = 3  # of images from files; a gray one is repeated


class FolderImages(RealImages):
    """The image files of a folder and of those below it, read when they are asked for.

    Args:
        folder: A folder, or one image file.
        size: Side length S that all are brought to; ``None``: that of the files, if it is the same for all.
        fit: What becomes of files that are not square.

    Attributes:
        paths: The files.
        keys: For each file what pairs are found by: its path below the folder without suffix.
        size: S.

    Raises:
        UserError: No folder, no images, some that cannot be read, or images of different sizes; names the first five.
    """

    def __init__(self, folder: Path, size: int | None = None, fit: Fit = "stretch") -> None:
        self._images, self._fit = list_images(folder), fit
        self.paths, self.keys = self._images.paths, self._images.keys()
        self.name, self.count = str(folder), len(self.paths)
        shapes = self._shapes(folder)
        self.size = size or _one_size(folder, self.paths, shapes)

    @property
    def about(self) -> dict[str, object]:  # type: ignore[override]
        """The SHA-256 of all files, in their order, the size, and what else becomes of them."""
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        fit = {} if self._fit == "stretch" else {"fit": self._fit}
        return {"images": digest.hexdigest(), "image_size": self.size, "channels": _CHANNELS, **fit}

    def used(self) -> str:
        """Which files of the folder are images, in words."""
        others = len(self._images.others)
        return f"{self.name}: {self.count} images used" + (f"; not: {others} of other kinds" if others else "")

    def names(self) -> list[str]:
        """The paths of the files below the folder."""
        return [path.relative_to(self._images.folder).as_posix() for path in self.paths]

    def read(self, numbers: range) -> Tensor:
        """See :meth:`RealImages.read`."""
        pixels = [read_pixels(self.paths[number], _CHANNELS, self.size, fit=self._fit) for number in numbers]
        return torch.from_numpy(np.stack(pixels)).to(torch.float32) / 255

    def _shapes(self, folder: Path) -> list[tuple[int, int]]:
        shapes, problems = [], []
        for path in self.paths:
            try:
                with opened(path) as image:
                    shapes.append(image.size)
            except UserError as error:
                problems.append(str(error))
        if problems:
            raise UserError(f"{folder}: {_first(problems, 'images cannot be read', '; ')}")
        return shapes


class TensorImages(RealImages):
    """Images in a tensor.

    Args:
        images: ``[N, 1 or 3, S, S]``, floating point in [0, 1] or uint8.
        name: What messages call it.

    Attributes:
        size: S.

    Raises:
        UserError: Another shape or dtype, no images, or values that are not finite or beyond [0, 1]; names the first
            five images.
    """

    def __init__(self, images: Tensor, name: str) -> None:
        shape = list(images.shape)
        if images.ndim != 4 or shape[1] not in (1, 3) or shape[2] != shape[3] or 0 in shape:
            raise UserError(f"{name}: images must be [N >= 1, 1 or 3, S, S], got {shape}")
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise UserError(f"{name}: images must be floating point in [0, 1] or uint8, got {images.dtype}")
        self.name, self.count, self.size = name, len(images), shape[2]
        self._images = images.detach()
        if images.is_floating_point():
            for start in range(0, self.count, 256):
                self._check(start, self._images[start : start + 256].flatten(1))

    @property
    def about(self) -> dict[str, object]:  # type: ignore[override]
        """The SHA-256 of their values."""
        digest = hashlib.sha256()
        for part in self._images.split(256):
            digest.update(part.cpu().contiguous().view(torch.uint8).numpy().data)
        return {"images": digest.hexdigest(), "dtype": str(self._images.dtype), "shape": list(self._images.shape)}

    def read(self, numbers: range) -> Tensor:
        """See :meth:`RealImages.read`."""
        images = self._images[numbers.start : numbers.stop]
        return images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images.to(torch.float32)

    def _check(self, start: int, rows: Tensor) -> None:
        for wrong, what in ((~rows.isfinite(), "not finite"), ((rows < 0) | (rows > 1), "beyond [0, 1]")):
            found = (wrong.any(1).nonzero()[:, 0] + start).tolist()
            if found:
                hint = "" if what == "not finite" else "; images in [-1, 1] become (images + 1) / 2"
                raise UserError(f"{self.name}: values {what} in images {named(list(map(str, found)), ', ')}{hint}")


Images = FolderImages | TensorImages


def open_images(images: str | Path | Tensor, name: str, size: int | None = None, fit: Fit = "stretch") -> Images:
    """A folder or a tensor of images.

    Raises:
        UserError: See :class:`FolderImages` and :class:`TensorImages`; ``size`` and ``fit`` are for files.
    """
    if isinstance(images, Tensor):
        if size is not None:
            raise UserError(f"{name}: images in a tensor are taken as they are; leave size out")
        return TensorImages(images, name)
    if not isinstance(images, str | Path):
        kind = type(images).__name__
        raise UserError(f"{name}: give a folder or a tensor, not {kind}; torch.from_numpy makes a tensor of an array")
    return FolderImages(Path(images), size, fit)


def paired(images: Images, truth: Images) -> list[int]:
    """For each image the number of the true one: of equal stem for files, of equal number for tensors.

    Raises:
        UserError: Some have no partner, or several; names the first five. Or the sizes differ.
    """
    if isinstance(images, FolderImages) and isinstance(truth, FolderImages):
        numbers = _by_name(images, truth)
    elif images.count != truth.count:
        raise UserError(f"{images.count} images but {truth.count} true ones; each image needs its own")
    else:
        numbers = list(range(images.count))
    require_one_size(images, truth)
    return numbers


def require_one_size(images: Images, others: Images) -> None:
    """Raises ``UserError`` where two sets of images are not of one size."""
    if images.size != others.size:
        raise UserError(
            f"{images.name} holds images of {images.size} x {images.size} pixels, but {others.name} of "
            f"{others.size} x {others.size}; give --size S to read both at one size"
        )


def _by_name(images: FolderImages, truth: FolderImages) -> list[int]:
    for folder in (images, truth):
        if twice := [key for key, count in Counter(folder.keys).items() if count > 1]:
            raise UserError(f"{folder.name}: {_first(twice, 'names stand for several files')}; pairs are found by name")
    numbers = {key: number for number, key in enumerate(truth.keys)}
    if missing := [name for name, key in zip(images.names(), images.keys, strict=True) if key not in numbers]:
        near = nearly_pairs(images.name, images.keys, truth.name, truth.keys)
        hint = f"; {near}: rename one of each" if near else ""
        raise UserError(f"{truth.name}: {_first(missing, f'images of {images.name} have no true image here')}{hint}")
    wanted = set(images.keys)
    if left := [name for name, key in zip(truth.names(), truth.keys, strict=True) if key not in wanted]:
        raise UserError(f"{truth.name}: {_first(left, f'true images have no image in {images.name}')}")
    return [numbers[key] for key in images.keys]


def _one_size(folder: Path, paths: Sequence[Path], shapes: Sequence[tuple[int, int]]) -> int:
    examples = {shape: path.name for path, shape in zip(reversed(paths), reversed(shapes), strict=True)}
    (width, height), *others = sorted(examples)
    if not others and width == height:
        return width
    sizes = [f"{w} x {h} ({examples[w, h]})" for w, h in sorted(examples)]
    what = "sizes of images" if others else "size of images that is not square"
    raise UserError(f"{folder}: {_first(sizes, what)}; give --size S to read all of them at S x S pixels")


def _first(names: Sequence[str], what: str, between: str = ", ") -> str:
    """``"7 images cannot be read: a, b, c, d, e, and 2 more"``."""
    return f"{len(names)} {what}: {named(names, between)}"
