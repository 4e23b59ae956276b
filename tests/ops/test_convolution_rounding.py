"""Rounding of Winograd's form in float32 against that of plain sums, which is the same on every machine."""

from __future__ import annotations

import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from m2o_fast.ops import build_info, winograd
from m2o_fast.ops.convolution import conv2d


def summed(a: Tensor, b: Tensor) -> Tensor:
    """The product of two matrices, one summand after the other."""
    total = torch.zeros(a.shape[0], b.shape[1], dtype=a.dtype)
    for column, row in zip(a.T, b, strict=True):
        total += column[:, None] * row
    return total


def patches(x: Tensor) -> Tensor:
    """``[N H W, 9 C]``: what each output of a convolution is a sum over."""
    return F.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1)


def plain_sums(x: Tensor, weight: Tensor, grad: Tensor) -> list[Tensor]:
    """Output and gradients by input and weight, of images with as many channels before as after."""

    def to_image(y: Tensor) -> Tensor:
        return y.unflatten(0, (x.shape[0], *x.shape[2:])).permute(0, 3, 1, 2)

    turned = weight.flip(2, 3).transpose(0, 1)
    return [
        to_image(summed(patches(x), weight.flatten(1).T)),
        to_image(summed(patches(grad), turned.flatten(1).T)),
        summed(grad.transpose(0, 1).flatten(1), patches(x)).view(weight.shape),
    ]


@pytest.mark.parametrize("wide", [True, False], ids=["widest vectors", "AVX2"])
def test_rounding_errors_stay_close_to_those_of_plain_sums(wide: bool) -> None:
    """Root mean square over the output: the points of interpolation decide.

    Twice the error of a sum that is taken product by product, where 0, +-1, +-2 would have more than four times as
    much. Torch's kernels are no measure: they sum in parts, each instruction set in its own, which may halve the error.
    """
    x, weight, grad = torch.randn(2, 64, 16, 16), torch.randn(64, 64, 3, 3), torch.randn(2, 64, 16, 16)
    native = None if build_info() is None else importlib.import_module("m2o_fast._C")
    try:
        if native is not None:
            native._use_wide_vectors(wide)
        ours = [winograd.convolve(x, weight, None), winograd.by_input(grad, weight), winograd.by_weight(grad, x)]
    finally:
        if native is not None:
            native._use_wide_vectors(True)
    exact = plain_sums(x.double(), weight.double(), grad.double())
    for mine, plain, truth in zip(ours, plain_sums(x, weight, grad), exact, strict=True):
        mine, plain = ((found.double() - truth).square().mean().sqrt() for found in (mine, plain))
        assert mine < 3 * plain


def test_an_infinity_spoils_the_tiles_that_read_it_and_no_others() -> None:
    """Four by four pixels are made of six by six."""
    x = torch.randn(4, 64, 32, 32, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(64, 64, 3, 3, generator=torch.Generator().manual_seed(1))
    x[0, 0, 9, 17] = torch.inf
    spoiled = ~conv2d(x, weight, padding=1).isfinite().all(1)
    assert spoiled[0, 8:11, 16:19].all()
    spoiled[0, 8:12, 16:20] = False
    assert not spoiled.any()
