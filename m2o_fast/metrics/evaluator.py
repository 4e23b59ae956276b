"""The numbers of one translation direction, from batches of images. Knows neither translators nor data sets.

Which direction gets which numbers: a uni-modal target has one right answer, so its translations are compared with it
(:func:`evaluate_unimodal`); a multi-modal target has many, so distributions are compared (:func:`evaluate_multimodal`).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from m2o_fast.metrics.color import ColorStatistics, color_report
from m2o_fast.metrics.pixels import MeanSquaredError


def evaluate_unimodal(batches: Iterable[tuple[Tensor, Tensor, Tensor]]) -> dict[str, float | bool]:
    """Translations into a uni-modal domain against the true images.

    Args:
        batches: Of ``(outputs, truth, outputs with another style)``, each floating point ``[N, C, H, W]``. Truth is in
            [0, 1]; outputs are clamped to it for the error, but compared with each other as they are, since clamping
            could hide a difference.

    Returns:
        ``mse``: mean squared error. ``style_independent``: whether the style changed not one bit of any output.

    Raises:
        TypeError: Not floating-point tensors.
        ValueError: Shapes differ, or no images.
    """
    error = MeanSquaredError()
    style_independent = True
    for outputs, truth, restyled in batches:
        if restyled.shape != outputs.shape:
            raise ValueError(
                "evaluate_unimodal: outputs of two styles must have one shape, "
                f"got {list(outputs.shape)} and {list(restyled.shape)}"
            )
        error.update(outputs.clamp(0, 1), truth)
        style_independent = style_independent and _same_bits(outputs, restyled)
    return {"mse": error.compute(), "style_independent": style_independent}


def evaluate_multimodal(
    generated_batches: Iterable[tuple[Tensor, Tensor | None]],
    real_batches: Iterable[tuple[Tensor, Tensor | None]],
    other_real_batches: Iterable[tuple[Tensor, Tensor | None]],
    bins: int = 4,
    bits: int = 8,
) -> dict[str, float]:
    """Colours of translations into a multi-modal domain against the colours of real images.

    Args:
        generated_batches: Of ``(images, content)``: ``[N, 3, H, W]`` in [0, 1], and the content they were made from,
            ``[N, 1, H, W]`` or ``[N, H, W]``, or ``None`` where it is not known.
        real_batches: The same of as many real images.
        other_real_batches: The same of as many real images again, drawn independently.
        bins: Bins per channel of the joint histogram, 1 to 256.
        bits: Bits per channel at which two colours count as the same, 1 to 8.

    Returns:
        The numbers of :func:`m2o_fast.metrics.color_report`.

    Raises:
        TypeError: Wrong dtype.
        ValueError: Wrong shapes, NaN or infinity, no images, or samples of different sizes.
    """
    samples = []
    for batches in (generated_batches, real_batches, other_real_batches):
        statistics = ColorStatistics(bins, bits)
        for images, content in batches:
            statistics.update(images, content)
        samples.append(statistics)
    return color_report(*samples)


def _same_bits(first: Tensor, second: Tensor) -> bool:
    """Equality of memory, not of value: NaN equals itself and 0 differs from -0."""
    if first.dtype != second.dtype:
        return False
    return torch.equal(first.contiguous().view(torch.uint8), second.to(first.device).contiguous().view(torch.uint8))
