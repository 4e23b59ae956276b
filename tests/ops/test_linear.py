"""linear: torch's, and in bfloat16 the products of float32 where the processor has no others."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from m2o_fast.ops import _choices, linear, style_affines, use_backend


@pytest.fixture
def no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor does not multiply bfloat16, whatever this one can."""
    monkeypatch.setattr(_choices, "WITHOUT_BFLOAT16", (torch.backends.cpu.get_cpu_capability(),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_types_are_torchs(dtype: torch.dtype) -> None:
    x, weight, bias = (torch.randn(*shape, dtype=dtype) for shape in ((2, 5, 7), (3, 7), (3,)))
    assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))
    assert torch.equal(linear(x, weight), F.linear(x, weight))


@pytest.mark.parametrize("with_bias", [True, False])
def test_bfloat16_is_float32_rounded_once(with_bias: bool, no_bfloat16: None) -> None:
    """Bit by bit, by autocast and as it is; gradients of both orders in the type of what they are gradients of."""
    operands = [torch.randn(4, 64), torch.randn(32, 64)] + [torch.randn(32)] * with_bias
    wide = [operand.bfloat16().float().requires_grad_() for operand in operands]
    y = F.linear(*wide)
    rounded = y.bfloat16()
    expected = [rounded, *(g.bfloat16() for g in torch.autograd.grad(y, wide, rounded.detach().float()))]
    for dtype in (torch.float32, torch.bfloat16):
        inputs = [operand.to(dtype).requires_grad_() for operand in operands]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.float32):
            y = linear(*inputs)
        gradients = torch.autograd.grad(y, inputs, y.detach(), create_graph=True)
        assert y.dtype is torch.bfloat16 and {gradient.dtype for gradient in gradients} == {dtype}
        for mine, right in zip((y, *gradients), expected, strict=True):
            assert torch.equal(mine.bfloat16(), right)
        (second,) = torch.autograd.grad(gradients[0].square().sum(), inputs[1])
        # the gradient by x is y W: that of half its square by W, with y held, is y^T (y W)
        right = 2 * y.detach().double().T @ gradients[0].detach().double()
        torch.testing.assert_close(second.double(), right, rtol=0, atol=1e-2 * float(right.abs().max()))


def test_bfloat16_of_torch_where_it_has_to_be(monkeypatch: pytest.MonkeyPatch, no_bfloat16: None) -> None:
    x, weight = torch.randn(4, 512).bfloat16(), torch.randn(512, 512).bfloat16()
    with pytest.raises(RuntimeError):
        linear(x, weight.float())
    with torch.autocast("cpu", torch.float16):
        assert linear(x, weight).dtype is torch.float16
    calls = []
    monkeypatch.setattr(F, "linear", lambda x, *rest: calls.append(x.dtype) or x)
    linear(x, weight)
    style_affines(x, [weight], [weight[0]])
    with use_backend("reference"):
        linear(x, weight)
    monkeypatch.setattr(_choices, "WITHOUT_BFLOAT16", ())
    linear(x, weight)
    assert calls == [torch.float32] * 2 + [torch.bfloat16] * 2
