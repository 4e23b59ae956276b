"""Resampling by 2 inside the operators on images: its names, and the plain torch of the references."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Resample = Literal["up2", "down2"]
#: What the operators' argument ``resample`` means; as in ``csrc/resample.h``.
NONE, UP2, DOWN2 = 0, 1, 2
RESAMPLES: dict[str | None, int] = {None: NONE, "up2": UP2, "down2": DOWN2}


def code_of(op: str, name: str, resample: object) -> int:
    """The number of what a public function was told. Raises ValueError for anything else."""
    if resample is not None and (not isinstance(resample, str) or resample not in RESAMPLES):
        raise ValueError(f"{op}: {name} must be 'up2', 'down2' or None, got {resample!r}")
    return RESAMPLES[resample]


def resampled_shape(op: str, x: Tensor, resample: int) -> tuple[int, int, int, int]:
    """The shape of what operator ``op`` makes of ``x``. Raises ValueError where there is none."""
    batch, channels, height, width = x.shape
    if resample == UP2:
        return batch, channels, 2 * height, 2 * width
    if resample == DOWN2:
        if height % 2 or width % 2:
            raise ValueError(f"{op}: height and width of x must be even for down2, got {height} x {width}")
        return batch, channels, height // 2, width // 2
    if resample != NONE:
        raise ValueError(f"{op}: resample must be 0 (none), 1 (up2) or 2 (down2), got {resample}")
    return batch, channels, height, width


def up2(x: Tensor) -> Tensor:
    """Nearest: every pixel becomes 2 x 2 pixels. Torch's own refuses empty images."""
    n, c, h, w = x.shape
    return x[:, :, :, None, :, None].expand(n, c, h, 2, w, 2).reshape(n, c, 2 * h, 2 * w)


def sum_of_quads(x: Tensor) -> Tensor:
    """The sum of every 2 x 2 pixels."""
    rows = x[:, :, ::2] + x[:, :, 1::2]
    return rows[..., ::2] + rows[..., 1::2]


def down2(x: Tensor) -> Tensor:
    """The mean of every 2 x 2 pixels. Torch's own refuses empty images."""
    return sum_of_quads(x) * 0.25
