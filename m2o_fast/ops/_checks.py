"""What the operators on images demand of their arguments, in words; and the dtype that they compute in."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums, statistics and affine maps are computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_floating(op: str, name: str, tensor: object) -> None:
    """Raises TypeError for what is not a dense floating-point tensor."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{op}: {name} must be a tensor, got {type(tensor).__name__}")
    if tensor.layout != torch.strided:
        raise TypeError(f"{op}: {name} must be a strided tensor, got {tensor.layout}")
    if tensor.dtype not in FLOATING:
        raise TypeError(f"{op}: {name} must be float32, float64, bfloat16 or float16, got {tensor.dtype}")


def as_number(op: str, name: str, value: object, least: float | None = None) -> float:
    """The number as a float. Raises TypeError for what is none, ValueError if it is less than ``least``."""
    if type(value) is not float and not isinstance(value, (Real, torch.SymInt, torch.SymFloat)):
        raise TypeError(f"{op}: {name} must be a number, got {type(value).__name__}")
    number = float(value)
    if least is not None and not number >= least:
        raise ValueError(f"{op}: {name} must be at least {least:g}, got {number:g}")
    return number


def check_images(op: str, name: str, tensor: object) -> None:
    """Raises TypeError for what is not a floating-point tensor, ValueError for what is not ``[N, C, H, W]``."""
    check_floating(op, name, tensor)
    shape = list(tensor.shape)  # type: ignore[attr-defined]
    if len(shape) != 4:
        raise ValueError(f"{op}: {name} must be [N, C, H, W], got shape {shape}")


def check_device(op: str, name: str, tensor: Tensor, x: Tensor) -> None:
    """Raises ValueError if the tensor is not where x is."""
    if tensor.device != x.device:
        raise ValueError(f"{op}: {name} must be on the device of x, {x.device}, got {tensor.device}")


def check_per_plane(op: str, name: str, tensor: Tensor, x: Tensor) -> None:
    """Raises if the tensor is not one number per plane of x, ``[N, C]``, or per channel, ``[C]``."""
    check_floating(op, name, tensor)
    if tensor.shape != (x.shape[1:2] if tensor.dim() == 1 else x.shape[:2]):  # export: N is not compared with C
        raise ValueError(
            f"{op}: {name} must be [N, C] = {list(x.shape[:2])} or [C] = {list(x.shape[1:2])} for x of shape "
            f"{list(x.shape)}, got shape {list(tensor.shape)}"
        )
    check_device(op, name, tensor, x)
