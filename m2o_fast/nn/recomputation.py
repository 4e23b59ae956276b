"""Inputs of convolutions that are computed again for the backward pass instead of being kept."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from m2o_fast.ops._library import needs_torch


def recomputed(convolution: Callable[[Tensor], Tensor], make: Callable[[], Tensor], x: Tensor | None = None) -> Tensor:
    """``convolution(make())``, of whose input autograd keeps how it was made.

    It is worth it where ``make`` is cheap and what it is made of is kept anyway, as an instance norm keeps its input.

    Args:
        convolution: Takes the tensor in; what else it keeps is kept as usual.
        make: Gives the same numbers whenever it is called, whether in autocast or not, and changes nothing.
        x: What ``make`` gives, with its graph, where it is there already.
    """
    x = make() if x is None else x
    # The transforms of torch.func refuse hooks.
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or needs_torch():
        return convolution(x)

    made = weakref.ref(x)  # hooks live as long as what they packed, and must not keep what is not to be kept

    def pack(tensor: Tensor) -> tuple[Tensor, int] | Callable[[], Tensor]:
        this = made()
        return make if this is not None and tensor.is_set_to(this) else (tensor, tensor._version)

    with saved_tensors_hooks(pack, _unpacked):
        return convolution(x)


def _unpacked(kept: tuple[Tensor, int] | Callable[[], Tensor]) -> Tensor:
    if isinstance(kept, tuple):
        tensor, version = kept
        if tensor._version != version:  # of what comes through hooks autograd does not find out
            raise RuntimeError(
                f"a tensor of shape {list(tensor.shape)} that the backward pass of a convolution needs, such as its "
                "weight, was changed in place after the forward pass"
            )
        return tensor
    with torch.no_grad():
        return kept()
