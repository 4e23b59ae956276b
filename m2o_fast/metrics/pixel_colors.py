"""How far the colours of generated pictures cover those of real ones: Color Recall for pictures of many colours.

Definition and caveats: ``docs/metrics.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations, product

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 4  # per channel
SIDE = 8  # pixels of a side at which colours are looked at

_LEVELS = 255  # steps of a channel in 8 bits
_STEP = _LEVELS // (BINS - 1)  # from the middle of a cell to that of the next one
_LEAST = 0.01  # mean chroma of real images below which there are no colours to speak of
_AT_ONCE = 1 << 22  # values


class PixelColors:
    """How much of each colour a stream of pictures has, in one or several groups; exact integers.

    Pictures are looked at with at most 8 x 8 pixels, each the mean of its part, so that noise is as gray as it looks
    from afar. A pixel counts by its chroma, the largest less the smallest of its three channels, so that white paper,
    gray and black do not count; between the middles of cells it is divided linearly among them. Values are rounded to
    8 bits.

    Args:
        groups: Number of groups.

    Attributes:
        pixels: Number of pixels seen, int64 ``[groups]``.
        mass: The chroma of all pixels in each cell of their colour, int64 ``[groups, BINS^3]``, in 1/(255 * 85^3).
    """

    def __init__(self, groups: int = 1) -> None:
        self.pixels = torch.zeros(groups, dtype=torch.int64)
        self.mass = torch.zeros((groups, BINS**3), dtype=torch.int64)

    def update(self, images: Tensor, groups: Tensor | None = None) -> None:
        """Adds images.

        Args:
            images: Floating point ``[N, 3, H, W]`` in [0, 1].
            groups: The group of each, int64 ``[N]``; ``None``: the first one.

        Raises:
            ValueError: Another shape, or a value that is NaN.
        """
        if images.dim() != 4 or images.shape[1] != 3 or bool(images.isnan().any()):
            raise ValueError(f"PixelColors: images must be [N, 3, H, W] without NaN, got {list(images.shape)}")
        groups = torch.zeros(len(images), dtype=torch.int64) if groups is None else groups.cpu()
        at_once = max(1, _AT_ONCE // max(1, images[:1].numel()))
        for part, which in zip(images.split(at_once), groups.split(at_once), strict=True):
            colors = _seen(part)
            self.mass = self.mass + _mass(colors, which, len(self.mass)).cpu()
            self.pixels = self.pixels + which.bincount(minlength=len(self.mass)) * colors.shape[2:].numel()

    def state(self) -> dict[str, Tensor]:
        """What another instance needs to go on: pass it to :meth:`merge_state`."""
        return {"pixels": self.pixels, "mass": self.mass}

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """Adds everything that another instance has seen."""
        self.pixels = self.pixels + state["pixels"]
        self.mass = self.mass + state["mass"]

    def per_pixel(self) -> Tensor:
        """The chroma of a pixel in each cell, float64 ``[groups, BINS^3]``; the sum of a row is the mean chroma."""
        return self.mass.double() / (self.pixels.clamp(min=1).double()[:, None] * (_LEVELS * _STEP**3))


def _seen(images: Tensor) -> Tensor:
    """Images at few pixels in 8 bits, int64 ``[N, 3, h, w]``. Sums of whole numbers are exact in float64."""
    levels = (images * _LEVELS).round().clamp(0, _LEVELS).double()
    height, width = (min(SIDE, length) for length in images.shape[2:])
    return F.adaptive_avg_pool2d(levels, (height, width)).round().to(torch.int64)


def _mass(colors: Tensor, groups: Tensor, count: int) -> Tensor:
    """The chroma of each of ``count`` groups in each cell, int64 ``[count, BINS^3]``."""
    chroma = (colors.amax(1) - colors.amin(1)).flatten()
    below = (colors // _STEP).clamp(max=BINS - 2)
    above = colors - below * _STEP
    first = groups.to(colors.device)[:, None, None].expand(-1, *colors.shape[2:]).flatten() * BINS**3
    mass = torch.zeros(count * BINS**3, dtype=torch.int64, device=colors.device)
    for corner in product((0, 1), repeat=3):
        cells, weights = first, chroma
        for channel, upper in enumerate(corner):
            cells = cells + ((below[:, channel] + upper) * BINS ** (2 - channel)).flatten()
            weights = weights * (above[:, channel] if upper else _STEP - above[:, channel]).flatten()
        # Sums of whole numbers, exact in float64 up to 2^53.
        mass = mass + torch.bincount(cells, weights.double(), minlength=len(mass)).round().to(torch.int64)
    return mass.view(count, BINS**3)


def pixel_color_report(generated: PixelColors, real: PixelColors) -> dict[str, float]:
    """How much of the real colours is generated.

    Args:
        generated: Groups of generated images, each of about as many as a group of real ones.
        real: Two groups or more of real images. Each is what the others are compared with, too: the ceiling.

    Returns:
        ``pixel_color_recall``: share of the real colour mass that is generated, in [0, 1], the mean over all pairs of
        a generated and a real group. ``pixel_color_recall_ceiling``: the same of one real group against another. Empty
        where real images have no colours, or there are no images.
    """
    parts, made = real.per_pixel(), generated.per_pixel()[generated.pixels > 0]
    if not len(made) or float(parts.sum(1).min()) < _LEAST:
        return {}
    recalls = [_covered(some, part) for some in made for part in parts]
    ceilings = [_covered(other, part) for other, part in permutations(parts, 2)]
    return {
        "pixel_color_recall": sum(recalls) / len(recalls),
        "pixel_color_recall_ceiling": sum(ceilings) / len(ceilings),
    }


def _covered(mass: Tensor, wanted: Tensor) -> float:
    """Of more colour than is wanted all cells have less, so that colours of all kinds do not win."""
    chroma, most = mass.sum(), wanted.sum()
    return float(torch.minimum(mass * (most / chroma.clamp(min=most)), wanted).sum() / most)
