"""Inputs of convolutions that are made again for the backward pass."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from m2o_fast.nn.norms import Conv2d, NormAct, StyledNormAct, convolved
from m2o_fast.nn.recomputation import recomputed


def nets(norm: str) -> tuple[torch.nn.Module, Conv2d, Tensor, Tensor | None]:
    """A norm, a convolution, images and a style where the norm takes one, in float64."""
    torch.manual_seed(0)
    x, style = torch.randn(2, 4, 6, 6, dtype=torch.float64, requires_grad=True), None
    convolution = Conv2d(4, 3, 3).double()
    if norm != "styled":
        return NormAct(norm, 4, 0.2).double(), convolution, x, style  # type: ignore[arg-type]
    return StyledNormAct(5, 4, 0.2).double(), convolution, x, torch.randn(2, 5, dtype=torch.float64)


@pytest.mark.parametrize("norm", ["instance", "batch", "none", "styled"])
def test_numbers_are_those_of_a_plain_call(norm: str) -> None:
    layer, convolution, x, style = nets(norm)
    parameters = [x, *layer.parameters(), *convolution.parameters()]
    given = (x,) if style is None else (x, style)
    plain = convolution(F.pad(layer(*given), (1,) * 4))
    ours = convolved(convolution, layer, x, style, border=lambda y: F.pad(y, (1,) * 4))
    assert torch.equal(ours, plain)
    for mine, right in zip(
        torch.autograd.grad(ours.square().sum(), parameters, create_graph=True),
        torch.autograd.grad(plain.square().sum(), parameters, create_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(mine, right, rtol=0, atol=1e-12)
        found, expected = (torch.autograd.grad(g.square().sum(), x, retain_graph=True)[0] for g in (mine, right))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", ["instance", "styled"])
def test_transforms_of_torch_func(norm: str) -> None:
    layer, convolution, x, style = nets(norm)

    def loss(x: Tensor) -> Tensor:
        return convolved(convolution, layer, x, style).square().sum()

    expected = torch.autograd.grad(loss(x), x)[0]
    torch.testing.assert_close(torch.func.grad(loss)(x.detach()), expected, rtol=1e-12, atol=1e-12)


def test_what_is_made_again_is_not_kept() -> None:
    made: list[weakref.ref[Tensor]] = []
    x, weight = torch.randn(2, 4, 6, 6, requires_grad=True), torch.randn(3, 4, 3, 3, requires_grad=True)
    calls = []

    def make() -> Tensor:
        y = x.sin()
        made.append(weakref.ref(y))
        calls.append(torch.is_grad_enabled())
        return y

    result = recomputed(lambda y: F.conv2d(y, weight), make)
    gc.collect()
    assert made[0]() is None
    result.sum().backward()
    assert calls == [True, False]


def test_a_weight_that_was_changed_meanwhile_is_told() -> None:
    layer, convolution, x, _ = nets("instance")
    y = convolved(convolution, layer, x).sum()
    with torch.no_grad():
        convolution.weight.mul_(2)
    with pytest.raises(RuntimeError, match="weight, was changed in place"):
        y.backward()


def test_without_gradients_it_is_made_once() -> None:
    calls = []
    with torch.no_grad():
        recomputed(lambda y: y, lambda: calls.append(1) or torch.zeros(1))
    assert calls == [1]


def test_running_statistics_move_once() -> None:
    layer, convolution, x, _ = nets("batch")
    convolved(convolution, layer, x).sum().backward()
    assert int(layer.batch.num_batches_tracked) == 1  # type: ignore[union-attr, arg-type]
