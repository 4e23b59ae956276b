"""What the layouts of published weights have in common."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from m2o_fast.errors import UserError
from m2o_fast.translators import state_dicts as layouts
from m2o_fast.translators.pix2pix.settings import Pix2PixSettings

PREFIXES = {"": "layer."}


def given(**tensors: torch.Tensor) -> dict[str, dict[str, torch.Tensor]]:
    return {"A": {f"layer.{key}": tensor for key, tensor in tensors.items()}}


def test_nets_are_built_have_their_weights_and_are_for_use() -> None:
    weights = {"weight": torch.rand(2, 3).double(), "bias": torch.rand(2).double()}
    net = layouts.loaded(lambda: nn.Linear(3, 2), lambda net, _: [(net, PREFIXES)], given(**weights))
    assert all(torch.equal(tensor, weights[key]) for key, tensor in net.state_dict().items())
    assert not net.training and not any(parameter.requires_grad for parameter in net.parameters())


def test_a_published_net_consists_of_several() -> None:
    net = layouts.loaded(
        lambda: nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 1, bias=False)),
        lambda net, _: [(net[1], {"": "second."}), (net[0], {"": "first."})],
        {"A": {"first.weight": torch.ones(2, 3), "second.weight": torch.zeros(1, 2)}},
    )
    assert net[0].weight.eq(1).all() and net[1].weight.eq(0).all()


def test_what_does_not_fit_gets_no_memory() -> None:
    with pytest.raises(UserError, match=r"A: the weights do not fit: layer.weight is \[1, 1\] instead of \[1048576, "):
        layouts.loaded(
            lambda: nn.Linear(1 << 20, 1 << 20, bias=False),
            lambda net, _: [(net, PREFIXES)],
            given(weight=torch.zeros(1, 1)),
        )


def test_every_weight_must_be_that_of_a_published_net() -> None:
    with pytest.raises(ValueError, match="no published net holds bias"):
        layouts.loaded(
            lambda: nn.Linear(3, 2),
            lambda net, _: [(nn.ParameterDict({"weight": net.weight}), PREFIXES)],
            given(weight=torch.zeros(2, 3)),
        )


def test_numbers_count_where_weights_have_their_shape() -> None:
    def wanted(k: int) -> tuple[str, list[int]]:
        return f"{k}.weight", [2 << k]

    fitting = {f"{k}.weight": torch.zeros(2 << k) for k in range(4)} | {"bias": torch.zeros(1)}
    assert layouts.numbered(fitting, wanted) == 4
    assert layouts.numbered({**fitting, **{f"{k}.weight": torch.zeros(1) for k in range(4, 900)}}, wanted) == 4
    del fitting["1.weight"]
    assert layouts.numbered(fitting, wanted) == 4
    more = {f"{k}.weight": torch.zeros(1) for k in range(9)}
    assert layouts.numbered({**more, "8.weight": torch.zeros(2 << 8)}, wanted) == 2
    assert layouts.numbered(more, wanted) == 0


def test_sizes_that_settings_refuse_are_named_in_a_line() -> None:
    with pytest.raises(UserError, match=r"^the sizes that the weights have are refused: model.levels: [^\n]* to 12$"):
        layouts.settings_of(Pix2PixSettings, {"levels": 13})
