"""What the operators on colours demand of their arguments, in words, for torch and for numpy."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from m2o_fast.ops._checks import FLOATING

MAX_BINS = 256
MAX_BITS = 8
MAX_GROUPS = 2**31 - 1


def describe(value: Any) -> str:
    """What a wrong argument is, for the message about it."""
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def check_images(op: str, images: Tensor) -> None:
    """Raises unless ``images`` are ``[N, 3, H, W]``, floating point or uint8."""
    if not isinstance(images, Tensor) or images.dtype not in (torch.uint8, *FLOATING):
        raise TypeError(f"{op}: images must be a floating-point or uint8 tensor, got {describe(images)}")
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"{op}: images must have the shape [N, 3, H, W], got {list(images.shape)}")


def check_colors(op: str, colors: Tensor) -> None:
    """Raises unless ``colors`` are floating-point ``[N, 3]``."""
    if not isinstance(colors, Tensor) or colors.dtype not in FLOATING:
        raise TypeError(f"{op}: colours must be a floating-point tensor, got {describe(colors)}")
    if colors.dim() != 2 or colors.shape[1] != 3:
        raise ValueError(f"{op}: colours must have the shape [N, 3], got {list(colors.shape)}")


def check_integer(op: str, name: str, value: Any, least: int, most: int) -> int:
    """``value``, of whatever type of integers, as int. Raises unless it is in [least, most]; for torch and numpy."""
    try:
        number = value if isinstance(value, int) else operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{op}: {name} must be an integer, got {type(value).__name__}")
    if not least <= number <= most:
        raise ValueError(f"{op}: {name} must be in [{least}, {most}], got {number}")
    return number


def check_recall_shapes(op: str, generated: Sequence[int], real: Sequence[int]) -> None:
    """Raises unless two histograms can be compared; for torch and numpy."""
    if len(generated) not in (1, 2) or tuple(generated) != tuple(real) or generated[-1] == 0:
        raise ValueError(
            f"{op}: hist_generated and hist_real must both have the shape [cells] or [G, cells], with at least one "
            f"cell, got {list(generated)} and {list(real)}"
        )


def check_recall_counts(op: str, name: str, counts_are_valid: bool, counts_something: bool) -> None:
    """Raises unless a histogram can be turned into probabilities; for torch and numpy."""
    if not counts_are_valid:
        raise ValueError(f"{op}: {name} holds a negative or non-finite count")
    if not counts_something:
        raise ValueError(f"{op}: {name} is empty (its counts sum to 0), so it has no distribution to compare")


def check_groups(op: str, count: int, groups_shape: Sequence[int] | None, num_groups: int | None) -> int:
    """The number of histograms, 1 without groups; for torch and numpy.

    Raises unless ``groups`` and ``num_groups`` belong together and fit ``count`` colours.
    """
    if (groups_shape is None) != (num_groups is None):
        raise ValueError(f"{op}: groups and num_groups must be given together")
    if groups_shape is None:
        return 1
    if tuple(groups_shape) != (count,):
        raise ValueError(f"{op}: groups must have the shape [{count}], one per colour, got {list(groups_shape)}")
    return check_integer(op, "num_groups", num_groups, 1, MAX_GROUPS)


def check_tensor_groups(op: str, colors: Tensor, groups: Tensor | None, num_groups: int | None) -> int:
    """The number of histograms, 1 without groups.

    Raises unless ``groups`` and ``num_groups`` belong together and fit the colours. The group numbers are not read:
    reading them would make the host wait for a GPU: the operators do that, each where it has to.
    """
    if groups is not None and (not isinstance(groups, Tensor) or groups.dtype != torch.int64):
        raise TypeError(f"{op}: groups must be an int64 tensor, got {describe(groups)}")
    number = check_groups(op, colors.shape[0], None if groups is None else groups.shape, num_groups)
    if groups is not None and groups.device != colors.device:
        raise ValueError(f"{op}: the colours are on {colors.device} but groups is on {groups.device}; move one of them")
    return number


def require_floating(op: str, colors: Tensor) -> None:
    """Raises for uint8 and other integers, which a direct call of an operator might pass as fractions."""
    if colors.dtype not in FLOATING:
        raise TypeError(f"{op}: colors must be float32, float64, float16 or bfloat16, got {colors.dtype}")


def require_finite(op: str, values: Tensor) -> None:
    """Raises if there is a NaN or an infinity; reads the values."""
    if values.is_floating_point() and not values.isfinite().all():
        raise ValueError(f"{op}: every value must be finite, got NaN or infinity")


def require_group_numbers(op: str, groups: Tensor | None, num_groups: int) -> None:
    """Raises if a group number is out of range; reads the numbers."""
    if groups is not None and ((groups < 0) | (groups >= num_groups)).any():
        raise ValueError(f"{op}: every group number must be in [0, num_groups)")


def color_dtype(images: Tensor) -> torch.dtype:
    """The dtype of colours and of soft counts: float64 for float64 and float32 for everything else."""
    return torch.float64 if images.dtype == torch.float64 else torch.float32


def refuse_gradient(op: str, *tensors: Tensor | None) -> None:
    """Raises if somebody expects a gradient of a count."""
    if torch.is_grad_enabled() and any(isinstance(tensor, Tensor) and tensor.requires_grad for tensor in tensors):
        raise RuntimeError(
            f"{op}: the input requires a gradient, but a count has none; detach it or use torch.no_grad()"
        )


def match_content(op: str, images: Tensor, content: Tensor) -> tuple[Tensor, Tensor]:
    """Images, and content as ``[N, H, W]``, in one dtype: their own if it is the same, else a floating-point one."""
    if not isinstance(content, Tensor) or content.dtype not in (torch.uint8, *FLOATING):
        raise TypeError(f"{op}: content must be a floating-point or uint8 tensor, got {describe(content)}")
    count, _, height, width = images.shape
    if tuple(content.shape) not in ((count, 1, height, width), (count, height, width)):
        raise ValueError(
            f"{op}: content must have the shape [{count}, 1, {height}, {width}] or [{count}, {height}, {width}] to fit "
            f"images {list(images.shape)}, got {list(content.shape)}"
        )
    if content.device != images.device:
        raise ValueError(f"{op}: images are on {images.device} but content is on {content.device}; move one of them")
    content = content.reshape(count, height, width)
    if content.dtype == images.dtype:
        return images, content
    common = torch.float64 if torch.float64 in (images.dtype, content.dtype) else torch.float32
    return fractions(images, common), fractions(content, common)


def fractions(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Pixel values as fractions of 1: uint8 divided by 255, floating point as it is."""
    return values.to(dtype) / 255 if values.dtype == torch.uint8 else values.to(dtype)
