"""Nets without memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from m2o_fast.nn.memoryless import memoryless


def test_nets_of_any_size_have_shapes_and_no_memory() -> None:
    with memoryless():
        net = nn.Linear(1 << 20, 1 << 20, bias=False)
        nn.init.normal_(net.weight, std=0.02)
    assert list(net.weight.shape) == [1 << 20, 1 << 20] and net.weight.is_meta
    assert nn.Linear(1, 1).weight.device == torch.device("cpu")


def test_nothing_is_drawn() -> None:
    weight, state = torch.zeros(2, 3), torch.get_rng_state()
    with memoryless():
        for drawn in (nn.init.normal_(tensor=weight), nn.init.kaiming_normal_(weight), weight.normal_(0, 1)):
            assert drawn is weight
    assert not weight.any() and torch.equal(torch.get_rng_state(), state)


def test_nets_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2o_fast.nn.memoryless.MOST_CALLS", 100)
    with memoryless(), pytest.raises(ValueError, match="so many layers"):
        while True:
            with torch.no_grad():  # is not left as it should be
                torch.zeros(1)
    assert torch.is_grad_enabled()
