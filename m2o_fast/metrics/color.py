"""How varied and how true the colours of translated images are: Color Recall, coverage, unique colours, content error.

Definitions, ranges and caveats: ``docs/metrics.md``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from m2o_fast.ops import color_histogram, color_recall, foreground_color
from m2o_fast.ops.histogram import color_codes, fractions

_SLICE = 1 << 17  # values of which the error is taken at a time: their float64 copies stay in a core's cache


class ColorStatistics:
    """What is kept of a stream of images to compare its colours with another stream: counts, not images.

    The result does not depend on how the images are cut into batches.

    Args:
        bins: Bins per channel of the joint histogram, 1 to 256.
        bits: Bits per channel at which two colours count as the same, 1 to 8.

    Attributes:
        bins: As given.
        bits: As given.
        images: Number of images seen.
        histogram: int64 ``[bins^3]``: the images' foreground colours, counted.
    """

    def __init__(self, bins: int = 4, bits: int = 8) -> None:
        no_colors = torch.zeros(0, 3)
        self.bins = bins
        self.bits = bits
        self.images = 0
        self.histogram = color_histogram(no_colors, bins)
        self._codes = color_codes(no_colors, bits)
        self._squared_error = 0.0

    def update(self, images: Tensor, content: Tensor | None = None) -> None:
        """Adds images.

        Args:
            images: ``[N, 3, H, W]``, floating point in [0, 1] or uint8, on any device.
            content: ``[N, 1, H, W]`` or ``[N, H, W]``: how much foreground each pixel has. Without it, the brightness
                (maximum over the channels) stands in, and only hue and saturation of a colour can be told.

        Raises:
            TypeError: Wrong dtype.
            ValueError: Wrong shape, or a pixel that is NaN or infinite.
        """
        with torch.no_grad():
            colors = foreground_color(images, content)
            histogram = color_histogram(colors, self.bins)
            codes = color_codes(colors, self.bits)
            squared_error = _content_error(images, content, colors)
        self.images += len(images)
        self.histogram = self.histogram + histogram.cpu()
        self._codes = torch.unique(torch.cat((self._codes, codes.cpu())))
        self._squared_error += squared_error

    def merge(self, other: ColorStatistics) -> None:
        """Adds everything that ``other`` has seen, as if its images had been passed to :meth:`update`.

        Raises:
            ValueError: ``other`` has other bins or bits.
        """
        _require_same_settings(self, other)
        self.merge_state(other.state())

    def state(self) -> dict[str, Tensor]:
        """What another instance of the same settings needs to go on: pass it to :meth:`merge_state`."""
        return {
            "images": torch.tensor(self.images),
            "histogram": self.histogram,
            "codes": self._codes,
            "squared_error": torch.tensor(self._squared_error, dtype=torch.float64),
        }

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """Adds everything that an instance with the same ``bins`` and ``bits`` has seen."""
        self.images += int(state["images"])
        self.histogram = self.histogram + state["histogram"]
        self._codes = torch.unique(torch.cat((self._codes, state["codes"])))
        self._squared_error += float(state["squared_error"])

    @property
    def unique_colors(self) -> int:
        """Number of distinct foreground colours."""
        return len(self._codes)

    @property
    def content_mse(self) -> float:
        """Mean squared difference between an image and its content in its own foreground colour, over all images.

        Raises:
            ValueError: No images yet.
        """
        if self.images == 0:
            raise ValueError("content_mse: there are no images; call update first")
        return self._squared_error / self.images


def color_report(generated: ColorStatistics, real: ColorStatistics, real_other: ColorStatistics) -> dict[str, float]:
    """Compares the colours of generated images with those of real ones.

    Args:
        generated: The generated images.
        real: As many real images.
        real_other: As many real images again, drawn independently of ``real``. They show what the metric gives for a
            perfect generator at this sample size.

    Returns:
        ``color_recall``: share of the real colour mass that is generated. ``color_recall_ceiling``: the same between
        the two real samples. ``coverage``: share of the cells occupied by real colours that a generated colour hits.
        ``unique_colors``: number of distinct generated colours (an int). ``content_mse``: of the generated images.

    Raises:
        ValueError: No images, samples of different sizes, or different bins or bits.
    """
    for name, statistics in (("real", real), ("real_other", real_other)):
        _require_same_settings(generated, statistics)
        if statistics.images != generated.images:
            raise ValueError(
                f"color_report: {name} has {statistics.images} images but generated has {generated.images}; recall "
                "depends on the sample size, so draw as many real images as generated ones"
            )
    if generated.images == 0:
        raise ValueError("color_report: there are no images")
    occupied = real.histogram > 0
    return {
        "color_recall": float(color_recall(generated.histogram, real.histogram)),
        "color_recall_ceiling": float(color_recall(real_other.histogram, real.histogram)),
        "coverage": float((generated.histogram[occupied] > 0).double().mean()),
        "unique_colors": generated.unique_colors,
        "content_mse": generated.content_mse,
    }


def _content_error(images: Tensor, content: Tensor | None, colors: Tensor) -> float:
    """Sum over images of the mean over pixels and channels of ``(x - g * c)^2``."""
    if not images.numel():
        return 0.0
    rows = max(1, _SLICE // images[0].numel())
    contents = [None] * len(images) if content is None else content.split(rows)
    total = 0.0
    for part, weight, color in zip(images.split(rows), contents, colors.split(rows), strict=False):
        pixels = fractions(part, torch.float64)
        brightness = pixels.amax(1) if weight is None else fractions(weight, torch.float64).reshape(pixels[:, 0].shape)
        difference = torch.addcmul(pixels, brightness[:, None], color.double()[:, :, None, None], value=-1)
        total += float(difference.square_().flatten(1).mean(1).sum())
    return total


def _require_same_settings(first: ColorStatistics, second: ColorStatistics) -> None:
    if (first.bins, first.bits) != (second.bins, second.bits):
        raise ValueError(
            f"colour statistics with bins={first.bins}, bits={first.bits} and with bins={second.bins}, "
            f"bits={second.bits} cannot be compared or merged"
        )
