"""What operators and networks mind while torch.export follows them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from m2o_fast.ops import adain_act, scale_channels, use_backend
from m2o_fast.ops._choices import feature_format


class Function(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


@pytest.mark.parametrize(("op", "vectors"), [(scale_channels, 1), (adain_act, 2)])
def test_as_many_samples_as_channels_are_taken(op: Callable[..., Tensor], vectors: int) -> None:
    """A graph that was followed with another number of samples does not know that it was another one."""
    inputs = (torch.ones(2, 3, 4, 4), *[torch.ones(2, 3) for _ in range(vectors)])
    free = {"inputs": tuple({0: Dim.DYNAMIC} for _ in inputs)}
    with torch.no_grad(), use_backend("reference"):
        program = torch.export.export(Function(op), inputs, dynamic_shapes=free, strict=False).module()
        given = (torch.randn(3, 3, 4, 4), *[torch.randn(3, 3) for _ in range(vectors)])
        torch.testing.assert_close(program(*given), op(*given))


def test_features_that_are_followed_have_the_format_of_torch() -> None:
    """Files hold no changes of the memory format, which who runs them may not have any use for."""
    found = []

    def note(x: Tensor) -> Tensor:
        found.append(feature_format("cpu"))
        return x + 1

    torch.export.export(Function(note), (torch.ones(2),), strict=False)
    assert set(found) == {torch.contiguous_format}
    assert feature_format("cpu") == torch.channels_last
