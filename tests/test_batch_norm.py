"""Batch norm over several processes is torch's over the whole batch.

That processes really meet in it, tests/engine/test_promises.py shows.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from m2o_fast.nn.batch_norm import BatchNorm2d


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}])
def test_with_one_share_it_is_torchs(options: dict) -> None:
    torch.manual_seed(0)
    theirs, ours = (net.double() for net in (nn.BatchNorm2d(3, **options), BatchNorm2d(3, **options)))
    ours.average = lambda tensors: None
    for _ in range(2):
        x = torch.randn(4, 3, 5, 6, dtype=torch.float64) * 2 + 1
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        weights = torch.randn(4, 3, 5, 6, dtype=torch.float64)
        (theirs(a) * weights).sum().backward()
        (ours(b) * weights).sum().backward()
        torch.testing.assert_close(b.grad, a.grad, rtol=0, atol=1e-12)
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=0, atol=1e-12)
    x = torch.randn(1, 3, 5, 6, dtype=torch.float64)
    ours.average = _never
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def _never(tensors: list[torch.Tensor]) -> None:
    raise AssertionError("what runs in evaluation mode waits for nobody")


def test_statistics_of_half_precision_are_kept_and_shared_in_float32() -> None:
    """As torch's are: a mean far from 0 rounded to bfloat16 would be off by more than the images differ."""
    torch.manual_seed(0)
    x = (torch.randn(8, 3, 16, 16) * 0.1 + 100).bfloat16()
    theirs, ours = nn.BatchNorm2d(3), BatchNorm2d(3)
    shared = []
    ours.average = shared.extend
    y = ours(x)
    assert y.dtype == torch.bfloat16 and {tensor.dtype for tensor in shared} == {torch.float32}
    torch.testing.assert_close(y.float(), theirs(x).float(), rtol=0, atol=0.02)
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=1e-3, atol=1e-6)
