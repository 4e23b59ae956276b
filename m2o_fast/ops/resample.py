"""Convolution and resampling in one: exact algebra, no kernel of its own.

A 3x3 convolution with zero padding 1 and a 2x2 resampling are one linear map, and that map is a 4x4 convolution with
stride 2: 2.25 times fewer multiplications, and the full-resolution intermediate never exists. The folded kernel is
linear in the weight, so gradients of any order are right. Only rounding differs. Whether folding pays is measured
(:mod:`._choices`): where a CPU takes Winograd's form, many channels are faster without. Under
``use_backend("reference")`` nothing is folded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from m2o_fast.ops._checks import wide
from m2o_fast.ops._choices import folds, winograd_beats_folding
from m2o_fast.ops._library import forced_backend
from m2o_fast.ops.convolution import computes_itself, conv2d, conv_transpose2d


def conv3x3_down2(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, fold: bool | None = None) -> Tensor:
    """``avg_pool2d(conv2d(x, weight, bias, padding=1), 2)``, folded into one 4x4 convolution with stride 2.

    Args:
        x: Float ``[N, Ci, H, W]``, H and W even.
        weight: Float ``[Co, Ci, 3, 3]``.
        bias: Float ``[Co]`` or None.
        fold: Whether to fold; None takes what was measured to be faster on this kind of device.

    Returns:
        Float ``[N, Co, H/2, W/2]``.

    Raises:
        ValueError: Odd height or width (the average would drop a row that the fold would not), or a wrong shape.
    """
    _check("conv3x3_down2", x, weight)
    if x.shape[2] % 2 or x.shape[3] % 2:
        raise ValueError(f"conv3x3_down2: height and width must be even, got {list(x.shape)}")
    if not _folds("conv3x3_down2", x, weight, x.shape, fold):
        return F.avg_pool2d(conv2d(x, weight, bias, padding=1), 2)
    return conv2d(x, _spread(weight) * 0.25, bias, stride=2, padding=1)


def up2_conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, fold: bool | None = None) -> Tensor:
    """Nearest upsampling and then ``conv2d(..., weight, bias, padding=1)``, folded into one transposed convolution.

    Args:
        x: Float ``[N, Ci, H, W]``.
        weight: Float ``[Co, Ci, 3, 3]``.
        bias: Float ``[Co]`` or None.
        fold: Whether to fold; None takes what was measured to be faster on this kind of device.

    Returns:
        Float ``[N, Co, 2H, 2W]``.

    Raises:
        ValueError: A wrong shape.
    """
    _check("up2_conv3x3", x, weight)
    if not _folds("up2_conv3x3", x, weight, torch.Size((*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])), fold):
        return conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1)
    folded = _spread(weight.flip(2, 3)).transpose(0, 1)
    return conv_transpose2d(x, folded, bias, stride=2, padding=1)


def _folds(op: str, x: Tensor, weight: Tensor, size: torch.Size, wish: bool | None) -> bool:
    """``size``: that of the image at full resolution."""
    if wish is not None:
        return wish
    if forced_backend() == "reference" or not folds(op, x.device.type, x.dtype):
        return False
    return not (computes_itself(x, weight) and winograd_beats_folding(size, weight.shape[0]))


def _spread(weight: Tensor) -> Tensor:
    """The full convolution of each 3x3 kernel with a 2x2 kernel of ones: ``[Co, Ci, 4, 4]``.

    Under autocast it stays in the dtype of ``weight``, so that the convolution rounds it once.
    """
    # As a product with a constant matrix: on a CPU, a convolution of single channels is 40 times as slow.
    exact = weight.to(wide(weight.dtype))
    eye = torch.eye(3, dtype=exact.dtype, device=weight.device)
    row = F.pad(eye, (0, 1)) + F.pad(eye, (1, 0))  # the same in one dimension
    with torch.autocast(weight.device.type, enabled=False):
        folded = exact.reshape(-1, 9) @ torch.kron(row, row)
    return folded.view(*weight.shape[:2], 4, 4).to(weight.dtype)


def _check(op: str, x: Tensor, weight: Tensor) -> None:
    if x.dim() != 4 or weight.dim() != 4 or weight.shape[2:] != (3, 3) or x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"{op}: needs x [N, Ci, H, W] and weight [Co, Ci, 3, 3], got {list(x.shape)} and {list(weight.shape)}"
        )
