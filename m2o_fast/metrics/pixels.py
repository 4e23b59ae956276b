"""Pixel errors of translations whose true result is known."""

from __future__ import annotations

import torch
from torch import Tensor


class MeanSquaredError:
    """Mean squared error of images: the mean inside each image, then the mean over the images; float64.

    The result does not depend on how the images are cut into batches.

    Attributes:
        images: Number of images seen.
    """

    def __init__(self) -> None:
        self.images = 0
        self._sum = 0.0

    def update(self, outputs: Tensor, truth: Tensor) -> None:
        """Adds images.

        Args:
            outputs: Floating point ``[N, C, H, W]`` in [0, 1].
            truth: The true images, of the same shape.

        Raises:
            TypeError: Not floating-point tensors.
            ValueError: Shapes differ or are not ``[N, C, H, W]`` with at least one pixel.
        """
        for name, images in (("outputs", outputs), ("truth", truth)):
            if not isinstance(images, Tensor) or not images.is_floating_point():
                got = images.dtype if isinstance(images, Tensor) else type(images).__name__
                raise TypeError(f"MeanSquaredError: {name} must be a floating-point tensor in [0, 1], got {got}")
        if outputs.shape != truth.shape or outputs.dim() != 4 or 0 in outputs.shape[1:]:
            raise ValueError(
                "MeanSquaredError: outputs and truth must have one shape [N, C, H, W], "
                f"got {list(outputs.shape)} and {list(truth.shape)}"
            )
        with torch.no_grad():
            difference = outputs.double() - truth.to(outputs.device, torch.float64)
            self._sum += float(difference.square_().flatten(1).mean(1).sum())
        self.images += len(outputs)

    def merge(self, other: MeanSquaredError) -> None:
        """Adds everything that ``other`` has seen."""
        self.images += other.images
        self._sum += other._sum

    def compute(self) -> float:
        """The error over all images seen so far, at least 0.

        Raises:
            ValueError: No images yet.
        """
        if self.images == 0:
            raise ValueError("MeanSquaredError: there are no images; call update first")
        return self._sum / self.images
