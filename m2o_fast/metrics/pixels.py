"""Pixel errors of translations whose true result is known."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

_WINDOW, _SIGMA = 11, 1.5
_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales of MS-SSIM, from fine to coarse
_PERFECT = 1e-10  # a smaller mean squared error counts as this one: 100 dB


class PixelErrors:
    """Mean squared error, peak signal-to-noise ratio and structural similarity of images over a stream; float64.

    The result does not depend on how the images are cut into batches.

    Attributes:
        images: Number of images seen.
    """

    def __init__(self) -> None:
        self.images = 0
        self._sums = torch.zeros(3, dtype=torch.float64)  # of mse, of ssim, and how many images the latter is of

    def update(self, outputs: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """Adds images.

        Args:
            outputs: Floating point ``[N, C, H, W]`` in [0, 1].
            truth: The true images, of the same shape.

        Returns:
            ``mse``, ``psnr`` and ``ssim`` of each image, float64 ``[N]``; without ``ssim`` where a side is below 6.

        Raises:
            TypeError: Not floating-point tensors.
            ValueError: Shapes differ or are not ``[N, C, H, W]`` with at least one pixel.
        """
        for name, images in (("outputs", outputs), ("truth", truth)):
            if not isinstance(images, Tensor) or not images.is_floating_point():
                got = images.dtype if isinstance(images, Tensor) else type(images).__name__
                raise TypeError(f"PixelErrors: {name} must be a floating-point tensor in [0, 1], got {got}")
        if outputs.shape != truth.shape or outputs.dim() != 4 or 0 in outputs.shape[1:]:
            raise ValueError(
                "PixelErrors: outputs and truth must have one shape [N, C, H, W], "
                f"got {list(outputs.shape)} and {list(truth.shape)}"
            )
        with torch.no_grad():
            x, y = outputs.double(), truth.to(outputs.device, torch.float64)
            mse = (x - y).square().flatten(1).mean(1).cpu()
            result = {"mse": mse, "psnr": _decibels(mse)}
            if min(x.shape[2:]) > _WINDOW // 2:
                result["ssim"] = structural_similarity(x, y).cpu()
        ssim = result.get("ssim", mse[:0])
        self._sums = self._sums + torch.stack((mse.sum(), ssim.sum(), mse.new_tensor(len(ssim))))
        self.images += len(mse)
        return result

    def state(self) -> dict[str, Tensor]:
        """What another instance needs to go on: pass it to :meth:`merge_state`."""
        return {"images": torch.tensor(self.images), "sums": self._sums}

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """Adds everything that another instance has seen."""
        self.images += int(state["images"])
        self._sums = self._sums + state["sums"]

    def compute(self) -> dict[str, float]:
        """The errors over all images seen so far.

        Returns:
            ``mse``: at least 0. ``psnr``: ``10 log10(1 / mse)`` in decibels, of the error over all images, 100 at most.
            ``ssim``: mean over the images, at most 1; absent where a side of an image was below 6 pixels.

        Raises:
            ValueError: No images yet.
        """
        if self.images == 0:
            raise ValueError("PixelErrors: there are no images; call update first")
        mse, ssim, known = self._sums / self.images
        result = {"mse": float(mse), "psnr": float(_decibels(mse))}
        return {**result, "ssim": float(ssim)} if known == 1 else result


def structural_similarity(x: Tensor, y: Tensor) -> Tensor:
    """Mean structural similarity (doi 10.1109/TIP.2003.819861) of images in [0, 1].

    The window is Gaussian, 11x11 pixels with a standard deviation of 1.5, around every pixel of the image, which is
    mirrored at its edges; K1 = 0.01 and K2 = 0.03; channels count alike.

    Args:
        x: Floating point ``[N, C, H, W]``, at least 6x6 pixels.
        y: Of the same shape.

    Returns:
        ``[N]``.
    """
    similarity, _ = _similarity_maps(x, y)
    return similarity.flatten(1).mean(1)


def multiscale_similarity(x: Tensor, y: Tensor) -> Tensor:
    """Multi-scale structural similarity, MS-SSIM (doi 10.1109/ACSSC.2003.1292216), of images in [0, 1].

    Contrast and structure, ``(2 cov + K2^2) / (var_x + var_y + K2^2)``, are compared at several scales, each half as
    large as the one before, and at the last one luminance, too; their means (below 0: 0) are multiplied with the
    published exponents. There are five scales, or as many as leave a window inside the images of all but the last,
    and 6 pixels there: two at 16, three at 32, four at 64 and five from 128 pixels on. The exponents of fewer are
    enlarged to the sum of all five. Windows as in :func:`structural_similarity`; but for the last scale only those
    count that lie inside.

    Args:
        x: Floating point ``[N, C, H, W]``, at least 6x6 pixels.
        y: Of the same shape.

    Returns:
        ``[N]`` in [0, 1]; 1 for equal images.
    """
    scales, side = 1, min(x.shape[2:])
    while scales < len(_EXPONENTS) and side >= _WINDOW and side // 2 > _WINDOW // 2:
        scales, side = scales + 1, side // 2
    result = x.new_ones(len(x))
    weight = sum(_EXPONENTS) / sum(_EXPONENTS[:scales])
    for scale, exponent in enumerate(_EXPONENTS[:scales], 1):
        similarity, contrast = _similarity_maps(x, y)
        inside = slice(_WINDOW // 2, -(_WINDOW // 2))
        compared = similarity if scale == scales else contrast[:, :, inside, inside]
        result = result * compared.flatten(1).mean(1).clamp(min=0) ** (exponent * weight)
        if scale < scales:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return result


def _similarity_maps(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Structural similarity around every pixel, and its part without luminance; both ``[N, C, H, W]``."""
    offsets = torch.arange(_WINDOW, dtype=x.dtype, device=x.device) - _WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights = weights / weights.sum()
    channels = x.shape[1]

    def local_mean(values: Tensor) -> Tensor:
        values = F.pad(values, (_WINDOW // 2,) * 4, mode="reflect")
        rows = F.conv2d(values, weights.view(1, 1, 1, -1).expand(channels, -1, -1, -1), groups=channels)
        return F.conv2d(rows, weights.view(1, 1, -1, 1).expand(channels, -1, -1, -1), groups=channels)

    mean_x, mean_y = local_mean(x), local_mean(y)
    variances = local_mean(x * x) + local_mean(y * y) - mean_x.square() - mean_y.square()
    covariance = local_mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x.square() + mean_y.square() + 0.01**2)
    contrast = (2 * covariance + 0.03**2) / (variances + 0.03**2)
    return luminance * contrast, contrast


def _decibels(mse: Tensor) -> Tensor:
    return -10 * torch.log10(mse.clamp(min=_PERFECT))
