"""Weights that are channels_last: Adam moves them as others, and a checkpoint gives their moments back as they lay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from m2o_fast.engine.step import _made
from m2o_fast.engine.training_state import _placed_like
from m2o_fast.translators.settings import Optimizer

COLLECT = torch.optim.Adam._init_group
SHAPES = [(8, 6, 4, 4), (1, 6, 4, 4), (8, 1, 4, 4), (5, 3, 1, 1), (7,)]


def moved(memory_format: torch.memory_format) -> list[Tensor]:
    """Weights after three steps, with gradients in the format of the weights."""
    generator = torch.Generator().manual_seed(0)

    def laid_out(shape: tuple[int, ...]) -> Tensor:
        numbers = torch.randn(shape, generator=generator)
        return numbers.clone(memory_format=memory_format) if len(shape) == 4 else numbers

    parameters = [nn.Parameter(laid_out(shape)) for shape in SHAPES]
    optimizer = _made(Optimizer(kind="adam", lr=0.1, betas=(0.5, 0.999)), parameters)
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter).copy_(laid_out(tuple(parameter.shape)))
        optimizer.step()
    assert all(optimizer.state[p]["exp_avg"].stride() == p.stride() for p in parameters)
    return [parameter.detach() for parameter in parameters]


def test_adam_moves_weights_of_any_memory_format_alike() -> None:
    for plain, ours in zip(moved(torch.contiguous_format), moved(torch.channels_last), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_where_torch_collects_otherwise_its_adam_gives_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, memory_format: torch.memory_format
) -> None:
    ours = moved(memory_format)
    monkeypatch.setattr(torch.optim.Adam, "_init_group", lambda self, group, *lists: COLLECT(self, group, *lists))
    for mine, plain in zip(ours, moved(memory_format), strict=True):
        assert torch.equal(mine, plain)


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_where_torch_does_not_collect_the_optimizer_is_torchs(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    def made() -> torch.optim.Optimizer:
        return _made(Optimizer(kind=kind, lr=0.1), [nn.Parameter(torch.zeros(1))])

    ours = made()
    monkeypatch.delattr(torch.optim.Adam, "_init_group")
    torchs = made()
    assert type(torchs) is {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]
    assert type(ours) is not type(torchs) and isinstance(ours, type(torchs))
    assert ours.param_groups[0]["decoupled_weight_decay"] is torchs.param_groups[0]["decoupled_weight_decay"]


def test_adam_copies_no_gradient() -> None:
    weight = nn.Parameter(torch.randn(8, 6, 4, 4).contiguous(memory_format=torch.channels_last))
    optimizer = _made(Optimizer(kind="adam", lr=0.1, betas=(0.5, 0.999)), [weight])
    weight.grad = torch.empty_like(weight).fill_(1.0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
    names = {event.key for event in profile.key_averages()}
    assert "aten::_fused_adam_" in names and "aten::contiguous" not in names


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_moments_come_back_in_the_format_of_their_weight(memory_format: torch.memory_format) -> None:
    parameter, saved = torch.empty(4, 3, 2, 2).contiguous(memory_format=memory_format), torch.randn(4, 3, 2, 2)
    found = _placed_like(parameter, saved)
    assert torch.equal(found, saved) and found.stride() == parameter.stride()
    count = torch.tensor(3.0)
    assert torch.equal(_placed_like(parameter, count), count)
