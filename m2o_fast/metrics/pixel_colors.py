"""How far the colours of generated pictures cover those of real ones: Color Recall for pictures of many colours.

Definition and caveats: ``docs/metrics.md``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

BINS = 4  # per channel

_LEVELS = 256
_LEAST = 0.01  # mean chroma of real images below which there are no colours to speak of
_AT_ONCE = 1 << 22  # values


class PixelColors:
    """How much of each colour the pixels of a stream of pictures have; exact integers.

    A pixel counts by its chroma, the largest less the smallest of its three channels, so that white paper, gray and
    black do not count. Values are rounded to 8 bits, as files hold them.

    Attributes:
        pixels: Number of pixels seen.
        mass: int64 ``[BINS^3]``: the chroma of all pixels, in 1/255, summed up in each cell of their colour.
    """

    def __init__(self) -> None:
        self.pixels = 0
        self.mass = torch.zeros(BINS**3, dtype=torch.int64)

    def update(self, images: Tensor) -> None:
        """Adds images.

        Args:
            images: Floating point ``[N, 3, H, W]`` in [0, 1].

        Raises:
            ValueError: Another shape, or a value that is NaN.
        """
        if images.dim() != 4 or images.shape[1] != 3 or bool(images.isnan().any()):
            raise ValueError(f"PixelColors: images must be [N, 3, H, W] without NaN, got {list(images.shape)}")
        for part in images.split(max(1, _AT_ONCE // max(1, images[:1].numel()))):
            levels = (part * (_LEVELS - 1)).round().clamp(0, _LEVELS - 1).to(torch.int64)
            red, green, blue = (levels * BINS // _LEVELS).unbind(1)
            chroma = levels.amax(1) - levels.amin(1)
            cells = ((red * BINS + green) * BINS + blue).flatten()
            # Sums of whole numbers, exact in float64 up to 2^53.
            mass = torch.bincount(cells, chroma.flatten().double(), minlength=BINS**3)
            self.mass = self.mass + mass.round().to(torch.int64).cpu()
            self.pixels += cells.numel()

    def state(self) -> dict[str, Tensor]:
        """What another instance needs to go on: pass it to :meth:`merge_state`."""
        return {"pixels": torch.tensor(self.pixels), "mass": self.mass}

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """Adds everything that another instance has seen."""
        self.pixels += int(state["pixels"])
        self.mass = self.mass + state["mass"]

    def per_pixel(self) -> Tensor:
        """The chroma of a pixel that falls into each cell, float64 ``[BINS^3]``; their sum is the mean chroma."""
        return self.mass.double() / (max(self.pixels, 1) * (_LEVELS - 1))


def pixel_color_report(generated: PixelColors, real: PixelColors, real_other: PixelColors) -> dict[str, float]:
    """How much of the real colours is generated.

    Args:
        generated: The generated images.
        real: Some real images.
        real_other: Other real ones. Each half is what the other one is compared with, too: the ceiling.

    Returns:
        ``pixel_color_recall``: share of the real colour mass that is generated, in [0, 1], the mean against both halves
        of the real images. ``pixel_color_recall_ceiling``: the same of one half against the other. Empty where real
        images have no colours, or there are no images.
    """
    halves = (real.per_pixel(), real_other.per_pixel())
    if not generated.pixels or min(float(half.sum()) for half in halves) < _LEAST:
        return {}
    made = generated.per_pixel()
    recall = sum(_covered(made, half) for half in halves) / 2
    ceiling = (_covered(halves[1], halves[0]) + _covered(halves[0], halves[1])) / 2
    return {"pixel_color_recall": recall, "pixel_color_recall_ceiling": ceiling}


def _covered(mass: Tensor, wanted: Tensor) -> float:
    return float(torch.minimum(mass, wanted).sum() / wanted.sum())
