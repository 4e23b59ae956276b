"""Weights of a flow, in and out: the functions of the plain net, and the same file again."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flow_cases import COLOR, GRAY, MAP, SIDE, plain_net, settings_of, translator_of
from safetensors.torch import save_file
from torch import Tensor

from m2o_fast.errors import UserError
from m2o_fast.translators import from_official, to_official

Weights = dict[str, Tensor]


def weights(variant: str = "hms", *domains: Any, **model: Any) -> Weights:
    return to_official(translator_of(settings_of(model), variant, *domains))["V"]


@pytest.mark.parametrize(
    ("variant", "domains", "model"),
    [
        ("plain", (), {}),
        (
            "hms",
            (COLOR, GRAY, MAP),
            {"multipliers": [1, 3, 2], "blocks": 2, "attention": 4, "groups": 2} | {"shift": 3.0, "predicts": "image"},
        ),
    ],
)
def test_the_same_functions_and_files(
    variant: str, domains: tuple[Any, ...], model: dict[str, Any], tmp_path: Path
) -> None:
    """Sizes, domains and rules are read off the shapes."""
    given = weights(variant, *domains, **model)
    told = {name: model[name] for name in ("groups", "shift", "predicts") if name in model}
    translator = from_official("flow", {"V": given}, image_size=SIDE, **told)
    assert translator.domain_index("A") == 0 and not translator.training
    multimodal = [domain.multimodal for domain in translator.domains]
    assert multimodal == ([True, True] if variant == "plain" else [True, False, False])
    assert translator.describe()["size"] == settings_of(model).sizes(SIDE)
    color, state = torch.rand(2, 3, SIDE, SIDE), torch.rand(2, 1, SIDE, SIDE)
    time = torch.full((2,), 0.25)
    wanted = plain_net(translator)(color, 0, state if variant == "plain" else None, time, 1)
    states = [color[:0], state, *(state[:0] for _ in domains[2:])]
    found = translator.velocity([color, *(color[:0] for _ in states[1:])], None, states, time)[1]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    again = to_official(translator)["V"]
    assert list(again) == list(given) and all(torch.equal(again[key], given[key]) for key in given)
    save_file(again, tmp_path / "V")  # refuses what is not contiguous


def without(word: str) -> Callable[[Weights], Weights]:
    return lambda net: {key: tensor for key, tensor in net.items() if word not in key}


def changed(key: str, *shape: int) -> Callable[[Weights], Weights]:
    return lambda net: {**net, key: torch.zeros(shape)}


def changed_width(net: Weights) -> Weights:
    """A first block as for an odd width."""
    return {"conditions.0.weight": torch.zeros(5, 3, 3, 3), "down.0.conv1.weight": torch.zeros(5, 5, 3, 3)} | {
        "down.1.conv.weight": torch.zeros(5, 5, 3, 3),
        "down.2.conv1.weight": torch.zeros(5, 5, 3, 3),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("heads"), "the weights have 0 domains, but|a translator needs at least two domains"),
        (changed("heads.1.weight", 1, 3, 3, 3), "a translator needs at least two domains"),
        (without("noises"), "V: no domain has a style"),
        (without("conditions.0.weight"), "V: missing conditions.0.weight, from which sizes are read"),
        (without("down.0.conv1"), "V: expected as many residual blocks"),
        (without("middle"), "V: the weights do not fit: missing middle.0"),
        (changed("down.3.conv1.weight", 8, 8, 3, 3), "V: expected as many residual blocks"),
        (lambda net: {**net, **changed_width(net)}, "sizes that the weights have are refused: model.width"),
        (changed("more", 1), "V: the weights do not fit: superfluous more"),
    ],
)
def test_what_does_not_fit_is_named(change: Callable[[Weights], Weights], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_official("flow", {"V": change(weights())}, image_size=SIDE)


def test_names_and_sizes_that_do_not_fit() -> None:
    for options, message in (
        ({"domains": ["a"]}, "the weights have 2 domains, but 1 names were given"),
        ({"domains": ["a", "a"]}, "domain names must differ"),
        ({"image_size": 12}, "the image size must be a multiple of 4 and at least 16"),
        ({"groups": 3}, "sizes that the weights have are refused: model.groups: "),
    ):
        with pytest.raises(UserError, match=message):
            from_official("flow", {"V": weights()}, **options)
    with pytest.raises(UserError, match="unknown nets: W"):
        from_official("flow", {"W": weights()})


def test_a_small_file_of_a_gigantic_net_takes_no_memory() -> None:
    """A first layer that is as wide as a file can say says how wide all others would be."""
    wide = 2**14
    blocks = {f"down.{k}.conv1.weight": torch.zeros(()).expand(wide, wide, 3, 3) for k in (0, 2)}
    given = weights() | {"conditions.0.weight": torch.zeros(wide, 3, 3, 3)}
    net = given | blocks | {"down.1.conv.weight": blocks["down.0.conv1.weight"]}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="which is more than its file holds"):
        from_official("flow", {"V": net}, image_size=SIDE)
    with pytest.raises(UserError, match="V: expected as many residual blocks"):
        from_official("flow", {"V": given}, image_size=SIDE)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18
