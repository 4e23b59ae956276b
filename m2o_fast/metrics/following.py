"""Whether outputs take the colours of their references, and whether they keep what their sources show.

Definitions and caveats: ``docs/metrics.md``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def color_statistics(images: Tensor) -> Tensor:
    """Mean and standard deviation of each channel over the pixels (doi 10.1109/38.946629): float64 ``[N, 2 C]``.

    Args:
        images: Floating point ``[N, C, H, W]``.
    """
    pixels = images.flatten(2).double()
    return torch.cat((pixels.mean(2), pixels.std(2, correction=0)), dim=1)


class ReferencesFollowed:
    """How often an output is nearer, by its colours, to its own reference than to another one; streaming.

    References of one source with equal colours are not compared with each other.

    Attributes:
        sources: Number of sources seen that have different references.
    """

    def __init__(self) -> None:
        self.sources = 0
        self._sum = torch.zeros((), dtype=torch.float64)

    def update(self, outputs: Tensor, references: Tensor) -> None:
        """Adds sources.

        Args:
            outputs: :func:`color_statistics` of the M >= 2 outputs of each of n sources, ``[n, M, D]``.
            references: The same of the reference of each output.

        Raises:
            ValueError: Other shapes.
        """
        if outputs.dim() != 3 or outputs.shape != references.shape or outputs.shape[1] < 2:
            shapes = f"{list(outputs.shape)} and {list(references.shape)}"
            raise ValueError(f"ReferencesFollowed: statistics must be [n, M >= 2, D] of one shape, got {shapes}")
        made, wanted = outputs.double().cpu(), references.double().cpu()
        distances = (made[:, :, None] - wanted[:, None]).square().sum(3)
        own = distances.diagonal(dim1=1, dim2=2)[:, :, None]
        nearer = (own < distances).double() + (own == distances).double() / 2
        others = (wanted[:, :, None] != wanted[:, None]).any(3)
        counts = others.sum((1, 2))
        self._sum = self._sum + ((nearer * others).sum((1, 2)) / counts.clamp(min=1)).sum()
        self.sources += int((counts > 0).sum())

    def state(self) -> dict[str, Tensor]:
        """What another instance needs to go on: pass it to :meth:`merge_state`."""
        return {"sources": torch.tensor(self.sources), "sum": self._sum}

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """Adds everything that another instance has seen."""
        self.sources += int(state["sources"])
        self._sum = self._sum + state["sum"]

    def compute(self) -> float:
        """The mean share over those sources, in [0, 1]; 0.5: ignored. Raises ``ValueError`` if there are none."""
        if self.sources == 0:
            raise ValueError("ReferencesFollowed: there are no sources with different references; call update first")
        return float(self._sum) / self.sources


class ContentKept:
    """How near images that were translated there and back come to what they were; streaming, float64.

    Attributes:
        images: Number of images seen.
    """

    def __init__(self) -> None:
        self.images = 0
        self._error = torch.zeros((), dtype=torch.float64)
        self._values: Tensor | None = None  # sums over the images of every value and of its square, [2, C, H, W]

    def update(self, back: Tensor, sources: Tensor) -> None:
        """Adds images.

        Args:
            back: Floating point ``[N, C, H, W]`` in [0, 1]: translated there and back.
            sources: What they were, of the same shape.

        Raises:
            ValueError: Shapes differ.
        """
        if back.shape != sources.shape or back.dim() != 4:
            shapes = f"{list(back.shape)} and {list(sources.shape)}"
            raise ValueError(f"ContentKept: images must have one shape [N, C, H, W], got {shapes}")
        x, y = back.double(), sources.double()
        self._error = self._error + (x - y).square().flatten(1).mean(1).sum().cpu()
        sums = torch.stack((y.sum(0), y.square().sum(0))).cpu()
        self._values = sums if self._values is None else self._values + sums
        self.images += len(y)

    def state(self) -> dict[str, Tensor]:
        """What another instance needs to go on: pass it to :meth:`merge_state`."""
        values = {} if self._values is None else {"values": self._values}
        return {"images": torch.tensor(self.images), "error": self._error, **values}

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """Adds everything that another instance has seen."""
        self.images += int(state["images"])
        self._error = self._error + state["error"]
        if "values" in state:
            self._values = state["values"] if self._values is None else self._values + state["values"]

    def compute(self) -> dict[str, float]:
        """Means over all images.

        Returns:
            ``cycle_mse``: mean squared error against the sources, at least 0. ``content_kept``: 1 less that error as a
            share of the mean squared difference of two sources, at most 1; 0 where another source would be as near.
            Absent where all sources are the same.

        Raises:
            ValueError: No images yet.
        """
        if self._values is None or self.images == 0:
            raise ValueError("ContentKept: there are no images; call update first")
        error = float(self._error) / self.images
        mean, squares = self._values / self.images
        # Two different ones of n images differ by twice the unbiased variance.
        apart = 2 * float((squares - mean.square()).mean()) * self.images / max(self.images - 1, 1)
        kept = {"content_kept": 1 - error / apart} if apart > _SAME else {}
        return {"cycle_mse": error, **kept}


_SAME = 1e-9  # a mean squared difference that is but rounding
