"""Products in bfloat16 on a CPU that has none, or slower ones, by the kernels of float32.

The product of two numbers of 8 bits is exact in float32, sums are taken in float32 either way, and the result is
rounded once. So operands are rounded to bfloat16, widened, multiplied, and the result is rounded: what bfloat16
arithmetic means, at the speed of float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from m2o_fast.ops._choices import emulates_bfloat16
from m2o_fast.ops._library import forced_backend


def is_widened(*operands: Tensor | None, faster: bool = False) -> bool:
    """Whether a product of these is one of bfloat16 that float32 kernels have to make, or are ``faster`` to make.

    By their own type or by that of autocast; where autocast would leave an operand alone (float64), torch has to say
    what happens. Under ``torch.compile`` and ``use_backend("reference")`` torch's own is taken.
    """
    if torch.compiler.is_compiling() or forced_backend() == "reference":
        return False
    given = [operand for operand in operands if operand is not None]
    if not faster and not all(emulates_bfloat16(operand.device.type) for operand in given):
        return False
    if torch.is_autocast_enabled("cpu"):
        casts = (torch.bfloat16, torch.float16, torch.float32)
        return torch.get_autocast_dtype("cpu") is torch.bfloat16 and all(operand.dtype in casts for operand in given)
    return all(operand.dtype is torch.bfloat16 for operand in given)


def in_bfloat16(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The operands rounded to bfloat16, where they are not yet; gradients come back in their own types."""
    return x.bfloat16(), weight.bfloat16(), None if bias is None else bias.bfloat16()


def widened(operand: Tensor) -> Tensor:
    """bfloat16 as float32, which changes no number; other types as they are."""
    return operand.float() if operand.dtype is torch.bfloat16 else operand
