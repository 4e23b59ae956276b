"""How the Triton launcher of scale_bias_act divides the work; the kernels are tested in test_modulate.py."""

from __future__ import annotations

import itertools
import os

import pytest
import torch
from cases import LAYOUTS

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # has to be set before the kernels are imported
pytest.importorskip("triton")

from m2o_fast.ops.triton import modulate  # noqa: E402
from m2o_fast.ops.triton.modulate import TILE, _plan, compile_cases  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def test_plans_cover_every_pixel_once() -> None:
    planes = (1, 2, 49, 255, 256, 1000, 4096, 16384, 16385, 65536, 262144, 10**8)
    for plane, channels, batch in itertools.product(planes, (1, 3, 64, 600), (1, 8)):
        for channels_last, element_bytes in itertools.product((False, True), (2, 4, 8)):
            plan = _plan(batch, channels, plane, channels_last, element_bytes)
            for size in (plan.planes, plan.pixels):
                assert size > 0 and size & (size - 1) == 0, "tiles have sizes of powers of two"
            assert plan.planes * plan.pixels <= TILE
            if channels_last:
                assert plan.tiles % batch == 0 and plan.tiles // batch * plan.planes >= channels
            else:
                assert plan.tiles * plan.planes >= batch * channels
            assert plan.parts <= 64 and plan.part_pixels % plan.pixels == 0
            assert (plan.parts - 1) * plan.part_pixels < plane <= plan.parts * plan.part_pixels


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_parts_of_several_steps(monkeypatch, layout) -> None:
    """As planes of more than 131072 pixels have them, or those of many images."""
    monkeypatch.setattr(modulate, "MOST_PARTS", 2)
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(1, 2, 70, 97, generator=generator, dtype=torch.float64) for _ in range(2))
    vectors = torch.randn(3, 1, 2, generator=generator, dtype=torch.float64)
    plan = modulate._plan_for(LAYOUTS[layout](x))
    assert plan.parts > 1 and plan.part_pixels > plan.pixels
    arguments = [tensor.to(DEVICE) for tensor in (LAYOUTS[layout](x), *vectors)]
    results = [modulate.scale_bias_act_forward(*arguments, 0.2)]
    results += modulate.scale_bias_act_backward(grad.to(DEVICE), *arguments, 0.2)
    scale, bias, following = vectors[..., None, None]
    before = x * scale + bias
    active = torch.where(before > 0, before, 0.2 * before)
    inner = torch.where(before > 0, grad, 0.2 * grad) * following
    truths = [active * following, inner * scale]
    truths += [terms.sum((2, 3)) for terms in (inner * x, inner, grad * active)]
    for result, truth in zip(results, truths, strict=True):
        torch.testing.assert_close(result.cpu(), truth, rtol=1e-10, atol=1e-10)


def test_every_kernel_is_compiled_ahead_of_time_with_and_without_vectors() -> None:
    names = [case.name for case in compile_cases()]
    assert len(set(names)) == len(names)
    for kernel, vectors in itertools.product(("forward_kernel", "backward_kernel"), ("all", "scale")):
        assert any(name.startswith(f"modulate.{kernel}[") and vectors in name for name in names)
