"""The number formats in which a run computes.

Weights, gradients, optimizer state, moving average, losses and the R1 penalty are float32 in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from m2o_fast.errors import UserError
from m2o_fast.ops._choices import emulates_bfloat16
from m2o_fast.ops._library import forced_backend


def check_precision(precision: str, device: torch.device) -> None:
    """Raises :class:`UserError` where the device has no such format."""
    if precision == "tf32" and device.type != "cuda":
        raise UserError("precision tf32 is a format of NVIDIA GPUs; on a CPU use fp32 or bf16")


def precision_note(precision: str, device: torch.device, *, compiled: bool = False) -> str:
    """What to know of a format on this device; empty if nothing. ``compiled``: torch.compile takes part."""
    if precision != "bf16" or not emulates_bfloat16(device.type):
        return ""
    if compiled or forced_backend() == "reference":
        return "SLOW: torch emulates it on this CPU"
    return "less memory, not faster: this CPU multiplies in float32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Where forward passes take place: with ``"bf16"``, convolutions and products are in bfloat16."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """How a GPU multiplies float32 numbers: exactly with ``"fp32"``, else in TF32 (10 bits of mantissa)."""
    settings = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    for setting in settings:
        setting.fp32_precision = "ieee" if precision == "fp32" else "tf32"
    try:
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value
