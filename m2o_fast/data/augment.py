"""Random crops, enlarged again, and horizontal flips.

Sources: StarGAN v2, arXiv 1912.01865 and its official training set-up (crop of area 0.8 to 1 and aspect 0.9 to 1.1 in
half of the cases, flip in half of the cases); pix2pix, arXiv 1611.07004, and CycleGAN, arXiv 1703.10593 (images of 256
pixels are enlarged to 286 and a crop of 256 is taken, always).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from m2o_fast.randomness import numpy_generator

_AREA = (0.8, 1.0)
_ASPECT = (0.9, 1.1)
_ATTEMPTS = 10  # a box that sticks out is drawn again; in the rare case that all ten do, nothing is cropped
_ENLARGED, _KEPT = 286, 256
_BLOCK = 1024  # samples whose random numbers are drawn together

#: How crops are drawn: of random area and aspect, or 256 of 286 pixels.
CropLaw = Literal["resized", "jitter"]


class Views(NamedTuple):
    """What to do with each of n images.

    Attributes:
        boxes: float32 ``[n, 4]``: left, top, width, height of the crop as fractions of the side; (0, 0, 1, 1) is none.
        flips: bool ``[n]``: whether the crop is mirrored left to right.
    """

    boxes: Tensor
    flips: Tensor

    def rows(self, chosen: Tensor) -> Views:
        """The views of the images ``chosen`` (int64 or bool ``[n]``)."""
        return Views(self.boxes[chosen], self.flips[chosen])


@dataclass(frozen=True)
class Augment:
    """Random resized crop and flip whose parameters are a pure function of (seed, purpose, sample number).

    Attributes:
        crop_probability: Chance of a crop, in [0, 1].
        flip_probability: Chance of a horizontal flip, in [0, 1].
        crop_law: How a crop is drawn.
    """

    crop_probability: float = 0.5
    flip_probability: float = 0.5
    crop_law: CropLaw = "resized"

    def __post_init__(self) -> None:  # noqa: D105
        for name in ("crop_probability", "flip_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.crop_law not in get_args(CropLaw):
            raise ValueError(f"crop_law must be one of {', '.join(get_args(CropLaw))}, got {self.crop_law!r}")

    @property
    def enabled(self) -> bool:
        """Whether it ever does anything."""
        return self.crop_probability > 0 or self.flip_probability > 0

    def views(self, seed: int, purpose: str, samples: np.ndarray) -> Views:
        """The views of n samples, given by their numbers, int64 ``[n]``."""
        boxes = torch.empty(len(samples), 4)
        flips = torch.empty(len(samples), dtype=torch.bool)
        blocks = samples // _BLOCK
        for block in np.unique(blocks).tolist():
            chosen = torch.from_numpy(blocks == block)
            inside = torch.from_numpy(samples % _BLOCK)[chosen]
            drawn = _draw_block(seed, purpose, block, self)
            boxes[chosen], flips[chosen] = drawn.rows(inside)
        return Views(boxes, flips)


@lru_cache(maxsize=64)
def _draw_block(seed: int, purpose: str, block: int, augment: Augment) -> Views:
    generator = numpy_generator(seed, f"augment/{purpose}", block)
    coins = generator.random((_BLOCK, 2))
    boxes = _resized(generator) if augment.crop_law == "resized" else _jitter(generator)
    boxes[coins[:, 0] >= augment.crop_probability] = 0, 0, 1, 1
    return Views(torch.from_numpy(boxes.astype(np.float32)), torch.from_numpy(coins[:, 1] < augment.flip_probability))


def _resized(generator: np.random.Generator) -> np.ndarray:
    area = generator.uniform(*_AREA, (_BLOCK, _ATTEMPTS))
    aspect = np.exp(generator.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1]), (_BLOCK, _ATTEMPTS)))
    sides = np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], axis=2)
    fits = sides.max(axis=2) <= 1
    size = sides[np.arange(_BLOCK), fits.argmax(axis=1)]
    size[~fits.any(axis=1)] = 1
    corner = generator.random((_BLOCK, 2)) * (1 - size)
    return np.concatenate([corner, size], axis=1)


def _jitter(generator: np.random.Generator) -> np.ndarray:
    corner = generator.integers(0, _ENLARGED - _KEPT, (_BLOCK, 2), endpoint=True)
    return np.concatenate([corner, np.full((_BLOCK, 2), _KEPT)], axis=1) / _ENLARGED


def apply_views(images: Tensor, views: Views, *, nearest: bool = False) -> Tensor:
    """Each image as its view: cropped, enlarged to the same size, flipped.

    An image whose view is the whole image, not flipped, keeps its bits. Bilinear crops are affine in the pixel values,
    so ``x = g * c`` stays true for two images that share a view.

    Args:
        images: float ``[n, c, H, W]``.
        views: The views of the n images.
        nearest: Enlarge by taking the nearest pixel, as label maps need: between two classes there is no third.
            Default: bilinearly.

    Returns:
        A new tensor of the same shape.
    """
    result = images.clone()
    cropped = (views.boxes[:, 2:] < 1).any(dim=1).nonzero().squeeze(1)
    if cropped.numel():
        left, top, width, height = views.boxes[cropped].to(images.dtype).unbind(1)
        zero = torch.zeros_like(left)
        across = torch.stack([width, zero, 2 * left + width - 1], dim=1)
        down = torch.stack([zero, height, 2 * top + height - 1], dim=1)
        chosen = images[cropped]
        grid = F.affine_grid(torch.stack([across, down], dim=1), list(chosen.shape), align_corners=False)
        mode = "nearest" if nearest else "bilinear"
        result[cropped] = F.grid_sample(chosen, grid, mode=mode, padding_mode="border", align_corners=False)
    flipped = views.flips.nonzero().squeeze(1)
    if flipped.numel():
        result[flipped] = result[flipped].flip(-1)
    return result
