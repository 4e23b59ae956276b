"""The Triton kernels of adain_act by themselves, against float64; without a GPU in Triton's interpreter."""

from __future__ import annotations

import itertools
import os

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # has to be set before the kernels are imported
pytest.importorskip("triton")
from cases import THOROUGH

from m2o_fast.ops.triton import adain as launchers  # noqa: E402
from m2o_fast.ops.triton.adain import _plan, adain_act_backward, adain_act_forward  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
EPS, SLOPE = 1e-5, 0.2
SHAPES = {
    "one pixel": (3, 5, 1, 1),
    "odd, many planes per program": (2, 7, 5, 7),
    "more channels than a tile": (1, 70, 3, 2),
    "a power of two": (2, 4, 16, 16),
    "forward whole, backward in parts": (1, 2, 101, 131),
    "in parts, the last one short": (1, 3, 151, 150),
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def oracle(x: Tensor, gamma: Tensor, beta: Tensor, grad: Tensor, one_plus: bool) -> list[Tensor]:
    """y, mean, rstd and the gradients of x, gamma and beta [N, C] by plain autograd in float64."""
    n, c = x.shape[:2]
    x = x.detach().double().cpu().contiguous().requires_grad_()
    gamma, beta = (p.detach().double().cpu().expand(n, c).contiguous().requires_grad_() for p in (gamma, beta))
    mean = x.mean((2, 3), keepdim=True)
    rstd = 1 / ((x - mean).square().mean((2, 3), keepdim=True) + EPS).sqrt()
    before = (gamma[:, :, None, None] + one_plus) * (x - mean) * rstd + beta[:, :, None, None]
    y = torch.where(before > 0, before, SLOPE * before)
    gradients = torch.autograd.grad(y, (x, gamma, beta), grad.double().cpu())
    return [y.detach(), mean.flatten(1).detach(), rstd.flatten(1).detach(), *gradients]


def check(x: Tensor, gamma: Tensor, beta: Tensor, one_plus: bool = True, memory_format=torch.contiguous_format) -> None:
    x, gamma, beta = x.to(DEVICE), gamma.to(DEVICE), beta.to(DEVICE)
    grad = normal(*x.shape, seed=3).to(x)
    # No gradient where rounding alone decides about the side of the LeakyReLU.
    smooth = oracle(x, gamma, beta, grad, one_plus)[0].abs() > 1e-3
    grad = grad * smooth.to(grad)
    y, mean, rstd = adain_act_forward(x, gamma, beta, EPS, SLOPE, one_plus)
    gradients = adain_act_backward(grad, x, gamma, beta, mean, rstd, SLOPE, one_plus)
    truths = oracle(x, gamma, beta, grad, one_plus)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    names = ("y", "mean", "rstd", "grad_x", "grad_gamma", "grad_beta")
    for name, result, truth in zip(names, (y, mean.sum(0), rstd, *gradients), truths, strict=True):
        like_x = name in ("y", "grad_x")
        assert result.dtype == (x.dtype if like_x else wide) and result.shape == truth.shape, name
        assert not like_x or result.is_contiguous(memory_format=memory_format), name
        last_place = torch.finfo(result.dtype).eps if like_x else torch.finfo(wide).eps
        scale = truth.abs().max().item() if name in ("y", "rstd", "mean") else grad_scale(x, grad, truths, name)
        error = (result.double().cpu() - truth).abs().max().item()
        assert error <= (last_place + 16 * torch.finfo(wide).eps) * scale + 1e-30, f"{name}: {error:.3g}"


def grad_scale(x: Tensor, grad: Tensor, truths: list[Tensor], name: str) -> float:
    """The size of the sums that make up a gradient."""
    rstd, total = truths[2].abs().max().item(), grad.double().abs().sum((2, 3)).max().item()
    return {"grad_beta": total, "grad_gamma": 3 * total, "grad_x": 8 * max(rstd, 1) * grad.double().abs().max().item()}[
        name
    ]


@THOROUGH
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_forward_and_backward(shape, channels_last, thorough) -> None:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    few = shape[2] * shape[3] > 10_000 and not thorough  # slow in the interpreter
    for dtype in (torch.float32,) if few else (torch.float32, torch.bfloat16):
        x = normal(*shape).to(dtype).to(memory_format=memory_format)
        gamma, beta = normal(*shape[:2], seed=1).float(), normal(*shape[:2], seed=2).float()
        check(x, gamma, beta, memory_format=memory_format)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes_and_plain_gamma(dtype) -> None:
    for shape in ((2, 3, 9, 5), (1, 2, 90, 101)):
        x = normal(*shape).to(dtype)
        check(x, normal(*shape[:2], seed=1).to(dtype), normal(*shape[:2], seed=2).to(dtype), one_plus=False)


def test_one_affine_for_all_samples_and_strided_ones() -> None:
    x = normal(3, 4, 5, 6).float()
    style = normal(3, 8, seed=1).float()
    check(x, style[:, :4], style[:, 4:])
    check(x, style[0, ::2], style[1, :4])


def test_any_strides() -> None:
    larger = normal(2, 6, 9, 16).float()
    gamma, beta = normal(2, 6, seed=1).float(), normal(2, 6, seed=2).float()
    check(larger[:, :, 1:, ::3], gamma, beta)
    check(larger.transpose(2, 3), gamma, beta)
    x = larger.to(DEVICE)
    grad = normal(2, 6, 9, 16, seed=3).float().to(DEVICE)
    statistics = adain_act_forward(x, gamma.to(DEVICE), beta.to(DEVICE), EPS, SLOPE, True)[1:]
    arguments = (x, gamma.to(DEVICE), beta.to(DEVICE), *statistics, SLOPE, True)
    same = adain_act_backward(grad.to(memory_format=torch.channels_last), *arguments)
    for result, expected in zip(same, adain_act_backward(grad, *arguments), strict=True):
        assert torch.equal(result, expected)


@pytest.mark.parametrize("shape", [(1, 3, 10, 7), (1, 2, 150, 150)])
def test_flat_planes_stay_flat(shape) -> None:
    """Their variance is 0, and rounding errors of the mean would be enlarged 316 times."""
    values = torch.tensor([0.1, -7.3, 1234.5])[: shape[1]].float()
    x = values[None, :, None, None].expand(shape).to(DEVICE)
    beta = torch.tensor([[0.5, -0.25, 2.0]])[:, : shape[1]].to(DEVICE)
    y, mean, rstd = adain_act_forward(x, torch.zeros_like(beta), beta, EPS, SLOPE, True)
    expected = torch.where(beta > 0, beta, SLOPE * beta)[:, :, None, None].expand(shape)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)
    assert torch.equal(mean.cpu(), torch.stack([values[None], torch.zeros_like(values[None])]))
    torch.testing.assert_close(rstd, torch.full_like(rstd, EPS**-0.5))


@pytest.mark.parametrize("shape", [(1, 2, 32, 32), (1, 2, 150, 150)])
def test_large_offset_costs_no_digits(shape) -> None:
    x = (1e4 + normal(*shape)).float().to(DEVICE)
    zeros = torch.zeros(shape[:2], device=DEVICE)
    y = adain_act_forward(x, zeros, zeros, EPS, 1.0, True)[0]
    wide = x.double()
    mean = wide.mean((2, 3), keepdim=True)
    expected = (wide - mean) / (wide.var((2, 3), correction=0, keepdim=True) + EPS).sqrt()
    assert (y - expected).abs().max() < 1e-5


def test_parts_far_from_each_other() -> None:
    x = normal(1, 2, 150, 152)
    x[:, :, 75:] += 50
    check(x.float(), torch.zeros(1, 2), normal(1, 2, seed=2).float())


@pytest.mark.parametrize("channels_last", [False, True])
def test_parts_of_several_steps(monkeypatch, channels_last) -> None:
    """As they are in planes of more than 512 x 512 pixels."""
    monkeypatch.setattr(launchers, "MOST_PARTS", 2)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    x = normal(1, 2, 150, 152).float().to(memory_format=memory_format)
    assert _plan(1, 2, 150 * 152, channels_last, 4, tensors=2).part_pixels >= 3 * 2048
    check(x, normal(1, 2, seed=1).float(), normal(1, 2, seed=2).float(), memory_format=memory_format)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)])
def test_empty(shape) -> None:
    x, affine = torch.zeros(shape, device=DEVICE), torch.zeros(shape[:2], device=DEVICE)
    y, mean, rstd = adain_act_forward(x, affine, affine, EPS, SLOPE, True)
    assert y.shape == shape and mean.eq(0).all()
    torch.testing.assert_close(rstd, torch.full_like(rstd, EPS**-0.5))
    grad_x, grad_gamma, grad_beta = adain_act_backward(y, x, affine, affine, mean, rstd, SLOPE, True)
    assert grad_x.shape == shape and grad_gamma.eq(0).all() and grad_beta.eq(0).all()


def test_plans_cover_every_pixel_once() -> None:
    planes = (1, 2, 49, 255, 256, 1000, 4096, 16384, 16385, 65536, 262144, 10**8)
    for plane, channels, batch in itertools.product(planes, (1, 3, 64, 600), (1, 8)):
        for channels_last, element_bytes, tensors in itertools.product((False, True), (2, 4, 8), (1, 2)):
            plan = _plan(batch, channels, plane, channels_last, element_bytes, tensors)
            for size in (plan.planes, plan.pixels):
                assert size > 0 and size & (size - 1) == 0, "tiles have sizes of powers of two"
            assert plan.planes * plan.pixels <= 16384
            assert plan.tiles * plan.planes >= (channels if channels_last else batch * channels)
            if plan.parts == 0:
                assert plan.pixels >= plane
            else:
                assert plan.parts <= 64 and plan.part_pixels % plan.pixels == 0
                assert (plan.parts - 1) * plan.part_pixels < plane <= plan.parts * plan.part_pixels
